"""New scans, and published checkpoints, through the command line."""

from __future__ import annotations

import csv
import json

import h5py
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from click.testing import CliRunner
from skimage.io import imread
from tiny_runs import tiny_phantoms

from semisam.cli.main import main
from semisam.core.errors import InputError
from semisam.data.images.files import Geometry
from semisam.data.images.preprocessing import Recipe, orientation
from semisam.inference import predictor
from semisam.inference.card import Card, orientation_code, read_card
from semisam.inference.inputs import gather_scans
from semisam.inference.predictor import Deployed, read_scan, segment
from semisam.inference.preview import write_preview
from semisam.networks.vnet import VNet
from semisam.run.execute import execute


@pytest.fixture
def trained(tiny_settings, tmp_path):
    """A run on files of the published layout, which lie in ``tmp_path / "la"``."""
    execute(tiny_settings, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on phantoms, which no test changes."""
    folder = tmp_path_factory.mktemp("predict") / "run"
    execute(tiny_phantoms(), folder)
    return folder


def _invoke(*args):
    return CliRunner().invoke(main, [str(arg) for arg in args])


def _scan(tmp_path, name, spacing, size):
    """An oblique scan: x, y, z sizes, spacing in mm."""
    array = np.random.default_rng(0).normal(100, 20, size[::-1]).astype(np.float32)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin((5.0, -7.0, 11.0))
    image.SetDirection((0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0))
    sitk.WriteImage(image, str(tmp_path / name))
    return tmp_path / name


def _same_place(mask, scan):
    mask, scan = sitk.ReadImage(str(mask)), sitk.ReadImage(str(scan))
    assert mask.GetSize() == scan.GetSize()
    for read in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(mask, read)() == pytest.approx(getattr(scan, read)(), abs=1e-5)


@pytest.mark.parametrize("name", ["a.nii.gz", "b.nrrd", "c.mha"])
def test_masks_come_back_in_the_scans_own_geometry(run, tmp_path, name):
    scan = _scan(tmp_path, name, (1.0, 0.7, 2.5), (30, 41, 18))
    result = _invoke("predict", run, scan, "-o", tmp_path / "masks", "--probabilities")
    assert result.exit_code == 0, result.output
    stem = name.split(".")[0]
    _same_place(tmp_path / "masks" / f"{stem}.nii.gz", scan)
    mask = sitk.ReadImage(str(tmp_path / "masks" / f"{stem}.nii.gz"))
    assert mask.GetPixelID() == sitk.sitkUInt8
    (path,) = (tmp_path / "masks").glob(f"{stem}.*.probability.nii.gz")
    probability = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    assert probability.min() >= 0 and probability.max() <= 1
    inside = sitk.GetArrayFromImage(mask) == 1
    assert np.array_equal(inside, probability > 0.5)


def test_an_h5_is_predicted_as_the_run_evaluated_it(trained, tmp_path):
    scores = _invoke("evaluate", trained, "--save-predictions", tmp_path / "evaluated")
    assert scores.exit_code == 0, scores.output
    case = tmp_path / "la" / "test_000"
    result = _invoke("predict", trained, case / "mri_norm2.h5", "-o", tmp_path / "masks")
    assert result.exit_code == 0, result.output
    one = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "masks" / "test_000.nii.gz")))
    two = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "evaluated" / "test_000.nii.gz")))
    with h5py.File(case / "mri_norm2.h5") as file:
        assert one.shape == file["image"].shape[::-1]
    assert np.array_equal(one, two)


def test_an_h5_does_not_fit_a_model_of_scans_with_a_geometry(tiny_la):
    """It has neither spacing nor raw intensities for the model's preparation."""
    (file, *_) = sorted(tiny_la.rglob("mri_norm2.h5"))
    with pytest.raises(InputError, match="was trained on h5 files"):
        read_scan((file,), _model(recipe=Recipe((1.0, 1.0, 1.0), ("mr",))).card)


def test_evaluating_again_gives_the_runs_scores(trained):
    result = _invoke("evaluate", trained)
    assert result.exit_code == 0, result.output

    def rows(name):
        with (trained / name).open() as file:
            return [{k: v for k, v in r.items() if k != "seconds"} for r in csv.DictReader(file)]

    assert rows("evaluation.csv") == rows("cases.csv")


def test_no_two_scans_overwrite_each_other(run, tmp_path):
    one = _scan(tmp_path, "same.nii.gz", (1.0, 1.0, 1.0), (16, 16, 16))
    other = _scan(tmp_path, "same.nrrd", (1.0, 1.0, 1.0), (16, 16, 16))
    result = _invoke("predict", run, one, other, "-o", tmp_path / "predicted")
    assert result.exit_code == 2 and "a name of its own" in result.stderr
    assert not (tmp_path / "predicted").exists()


@pytest.mark.parametrize(
    ("scan", "words"),
    [("missing.nii.gz", "every input must exist"), ("broken.nii.gz", "broken.nii.gz")],
)
def test_scans_that_cannot_be_read(run, tmp_path, scan, words):
    (tmp_path / "broken.nii.gz").write_bytes(b"no image")
    result = _invoke("predict", run, tmp_path / scan, "-o", tmp_path / "masks")
    assert result.exit_code == 2, result.output
    assert words in result.stderr and "Traceback" not in result.stderr


def test_a_folder_that_is_no_run(tmp_path):
    result = _invoke("evaluate", tmp_path)
    assert result.exit_code == 2
    assert "the run must be one of" in result.stderr


def test_a_published_checkpoint_is_evaluated(tiny_la, tmp_path):
    torch.manual_seed(0)
    net = VNet(1, {"logits": 2}, filters=2)
    published = {
        key.replace("heads.logits.", "out_conv."): value for key, value in net.state_dict().items()
    }
    torch.save(published, tmp_path / "iter_6000.pth")
    args = ("--data", tiny_la, "--patch", "16x16x16", "--stride", "16x16x16")
    result = _invoke("evaluate", tmp_path / "iter_6000.pth", *args)
    assert result.exit_code == 0, result.output
    with (tmp_path / "iter_6000.evaluation.csv").open() as file:
        assert [row["case"] for row in csv.DictReader(file)] == ["test_000", "test_001"]
    result = _invoke("evaluate", tmp_path / "iter_6000.pth")
    assert result.exit_code == 2 and "must come with --data and --patch" in result.stderr


class _Threshold(torch.nn.Module):
    """Finds what is brighter than 0, and half of it only towards the image's first axis' end."""

    def __init__(self, channels=1):
        super().__init__()
        self.channels = channels

    def forward(self, image):
        place = torch.linspace(0, 1, image.shape[2]).view(1, 1, -1, 1, 1)
        inside = torch.sigmoid(40 * image[:, self.channels - 1 :]) * place
        return torch.cat([1 - inside, inside], 1)


def _model(spacing=(1.0, 1.0, 1.0), channels=1, **card):
    names = ("background", "lesion")
    card = Card(channels, names, spacing, **card)
    size = (64, 64, 64)
    return Deployed(_Threshold(channels), card, size, size, "fp32")


def _ball(size, spacing, direction, origin=(5.0, -7.0, 11.0)):
    """A bright ball of 9 mm around a point of the patient, in any geometry."""
    image = sitk.Image(size, sitk.sitkFloat32)
    image.SetSpacing(spacing)
    image.SetDirection(direction)
    image.SetOrigin(origin)
    centre = np.array(image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in size]))
    matrix = np.reshape(direction, (3, 3)) * spacing
    grid = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), -1)
    away = np.linalg.norm(grid @ matrix.T + origin - centre, axis=-1)
    filled = sitk.GetImageFromArray(((away < 9) * 1.0 + 0.1).astype(np.float32).T)
    filled.CopyInformation(image)
    return filled, away < 9


def _turn(degrees, axis):
    """Row-major cosines of a turn about an axis."""
    a, b = [i for i in range(3) if i != axis]
    matrix = np.eye(3)
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix[a, a], matrix[a, b], matrix[b, a], matrix[b, b] = c, -s, s, c
    return matrix


OBLIQUE = _turn(20, 2) @ _turn(-15, 0)
GEOMETRIES = {
    "straight": (np.eye(3), (1.0, 1.0, 1.0), (31, 33, 29)),
    "anisotropic": (OBLIQUE, (0.7, 0.9, 3.0), (43, 37, 11)),
    "sagittal": (OBLIQUE[:, [1, 2, 0]], (0.9, 1.1, 4.0), (37, 33, 9)),
    "flipped": (OBLIQUE * [-1, -1, 1], (0.8, 0.8, 2.0), (40, 41, 17)),
    "coarse": (OBLIQUE[:, [2, 0, 1]] * [1, -1, -1], (2.0, 2.0, 2.0), (17, 15, 14)),
}


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("code", [None, "RAS", "PIR"])
def test_a_scan_goes_to_the_training_grid_and_back(tmp_path, name, code):
    """The mask lies where the ball is, and the model saw the patient the way it was run."""
    direction, spacing, size = GEOMETRIES[name]
    image, truth = _ball(size, spacing, tuple(direction.ravel()))
    sitk.WriteImage(image, str(tmp_path / "ball.nii.gz"))
    model = _model(spacing=(1.0, 1.5, 1.2), orientation=code)
    scan = read_scan((tmp_path / "ball.nii.gz",), model.card)
    assert scan.image.geometry.spacing == (1.0, 1.5, 1.2) or name == "straight"
    found = segment(model, scan)
    seen = predictor._mean_probabilities((model,), scan.image, torch.device("cpu"))
    assert np.array_equal(predictor.on_input(found, model.card), seen)
    assert found.labelmap.shape == truth.shape == found.probabilities.shape[1:]
    assert np.allclose(found.probabilities.sum(0), 1, atol=1e-5)
    # The network keeps the half towards the end of its first axis: L of LPS, R of RAS, P of PIR.
    towards = {None: (1, 0, 0), "RAS": (-1, 0, 0), "PIR": (0, 1, 0)}[code]
    nearest = int(np.abs(direction.T @ towards).argmax())
    sign = np.sign((direction.T @ towards)[nearest])
    place = np.indices(truth.shape)[nearest] - (truth.shape[nearest] - 1) / 2
    expected = truth & (sign * place > 0)
    overlap = 2 * (found.labelmap & expected).sum() / (found.labelmap.sum() + expected.sum())
    assert overlap > (0.8 if name in ("straight", "anisotropic", "flipped") else 0.7)


def test_what_a_recipe_cut_off_is_background(tmp_path):
    image, _ = _ball((40, 30, 20), (1.0, 1.0, 1.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    array = sitk.GetArrayFromImage(image)
    array[array < 0.5] = -3
    padded = sitk.GetImageFromArray(array)
    sitk.WriteImage(padded, str(tmp_path / "scan.nrrd"))
    model = _model(recipe=Recipe((1.5, 1.5, 1.5), ("mr",), crop="padding"), orientation="LPS")
    scan = read_scan((tmp_path / "scan.nrrd",), model.card)
    assert scan.image.array.shape[1:] == (12, 12, 12)
    found = segment(model, scan)
    outside = sitk.GetArrayFromImage(padded).T == -3
    box = np.argwhere(~outside)
    inner = tuple(slice(a, b) for a, b in zip(box.min(0), box.max(0) + 1, strict=True))
    away = np.ones(outside.shape, bool)
    away[inner] = False
    assert (found.probabilities[0][away] == 1).all() and not found.labelmap[away].any()
    assert found.labelmap[inner].any()


def _dicom(folder, image):
    """Write a DICOM series of single slices."""
    folder.mkdir()
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    image = sitk.Cast(image * 100, sitk.sitkInt16)
    cosines = np.reshape(image.GetDirection(), (3, 3))
    for k in range(image.GetSize()[2]):
        part = image[:, :, k]
        position = image.TransformIndexToPhysicalPoint((0, 0, k))
        for key, value in {
            "0008|0016": "1.2.840.10008.5.1.4.1.1.4",
            "0008|0018": f"1.2.3.4.{k + 1}",
            "0008|0060": "MR",
            "0018|0050": f"{image.GetSpacing()[2]}",
            "0020|000d": "1.2.3",
            "0020|000e": "1.2.3.9",
            "0020|0013": str(k),
            "0020|0032": "\\".join(f"{x:.6f}" for x in position),
            "0020|0037": "\\".join(f"{x:.9f}" for x in (*cosines[:, 0], *cosines[:, 1])),
        }.items():
            part.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{image.GetSize()[2] - k:03d}.dcm"))
        writer.Execute(part)
    return folder


def test_a_dicom_folder_is_predicted_as_its_nifti(tmp_path):
    direction, spacing, size = GEOMETRIES["anisotropic"]
    image, _ = _ball(size, spacing, tuple(direction.ravel()))
    sitk.WriteImage(sitk.Cast(image * 100, sitk.sitkInt16), str(tmp_path / "one.nii.gz"))
    series = _dicom(tmp_path / "series", image)
    model = _model()
    one = segment(model, read_scan((tmp_path / "one.nii.gz",), model.card))
    scan = read_scan((series,), model.card)
    other = segment(model, scan)
    assert scan.geometry.spacing == pytest.approx(spacing, abs=1e-4)
    assert np.abs(one.probabilities - other.probabilities).max() < 1e-2
    assert one.labelmap.any()


def test_channels_in_files_or_in_one(run, tmp_path):
    first, _ = _ball((20, 21, 22), (1.0, 1.0, 1.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    second = 1.0 - first
    for number, image in enumerate((second, first)):
        sitk.WriteImage(image, str(tmp_path / f"case_{number:04d}.nii.gz"))
    both = sitk.JoinSeries([second, first])
    sitk.WriteImage(both, str(tmp_path / "stacked.nii.gz"))
    sitk.WriteImage(sitk.Compose(second, first), str(tmp_path / "vector.nrrd"))
    model = _model(channels=2)
    scans = gather_scans([tmp_path], 2)
    assert {name: len(paths) for name, paths in scans.items()} == {
        "case": 2,
        "stacked": 1,
        "vector": 1,
    }
    masks = [segment(model, read_scan(paths, model.card)).labelmap for paths in scans.values()]
    assert masks[0].any()
    assert all(np.array_equal(mask, masks[0]) for mask in masks)
    with pytest.raises(InputError, match="2 channels, case_0000 to case_0001, got _0001"):
        gather_scans([tmp_path / "case_0001.nii.gz"], 2)
    # For a model of one channel the digits are part of the name.
    assert set(gather_scans([tmp_path / "case_0001.nii.gz"], 1)) == {"case_0001"}
    result = _invoke("predict", run, tmp_path / "stacked.nii.gz", "-o", tmp_path / "masks")
    assert (
        result.exit_code == 2 and "must have 1 channel(s), as the model needs, got" in result.stderr
    )


def _written(tmp_path, name, array):
    sitk.WriteImage(sitk.GetImageFromArray(array.astype(np.float32)), str(tmp_path / name))


def test_bad_input_in_a_sentence_each_and_the_rest_goes_on(run, tmp_path):
    scans = tmp_path / "scans"
    scans.mkdir()
    (scans / "text.nii.gz").write_text("no image")
    _written(scans, "flat.nrrd", np.ones((16, 16)))
    _written(scans, "slice.nrrd", np.ones((1, 16, 16)))
    _written(scans, "empty.nrrd", np.ones((16, 16, 16)))
    nan = np.ones((16, 16, 16))
    nan[3, 4, 5] = np.nan
    _written(scans, "nan.nrrd", nan)
    (scans / "notes.txt").write_text("left alone")
    _scan(scans, "metres.nrrd", (1e3, 1e3, 1e3), (16, 16, 16))
    _scan(scans, "good.nrrd", (1.0, 1.0, 1.0), (16, 16, 16))
    _scan(scans, "good_label.nrrd", (1.0, 1.0, 1.0), (16, 16, 16))
    result = _invoke("predict", run, scans, "-o", tmp_path / "masks")
    assert result.exit_code == 2 and "Traceback" not in result.output
    assert sorted(p.name for p in (tmp_path / "masks").iterdir()) == ["good.nii.gz"]
    lines = [line for line in result.stderr.splitlines() if line]
    assert len(lines) == 6 and all(line.startswith("Error: ") for line in lines)
    for file, words in {
        "flat.nrrd": "with 2 (16 x 16). Give the whole volume",
        "slice.nrrd": "with a single slice (16 x 16 x 1)",
        "empty.nrrd": "an image must have contrast, got 1 everywhere",
        "metres.nrrd": "metres.nrrd: the image must fit into memory at the training spacing",
        "nan.nrrd": "every voxel must be finite",
        "text.nii.gz": "image must be readable",
    }.items():
        assert any(file in line and words in line for line in lines), (file, lines)


def test_volumes_of_a_single_slice_are_pictures_with_a_place(tmp_path):
    """In each orientation: a network of two axes, masks on the files' grids."""
    scans, rng = tmp_path / "scans", np.random.default_rng(0)
    scans.mkdir()
    for case, code in enumerate(["LPS", "RAI", "SLA", "PIR"]):
        array, label = rng.normal(size=(1, 40, 48)), np.zeros((1, 40, 48), np.uint8)
        label[:, 10:28, 12:40] = 1
        image = sitk.GetImageFromArray((array + 4 * label).astype(np.float32))
        image.SetSpacing((0.8, 0.9, 4.0 + case))
        image.SetOrigin((3.0, -4.0, 5.0))
        mask = sitk.GetImageFromArray(label)
        mask.CopyInformation(image)
        sitk.WriteImage(sitk.DICOMOrient(image, code), str(scans / f"{case}.nrrd"))
        sitk.WriteImage(sitk.DICOMOrient(mask, code), str(scans / f"{case}_label.nrrd"))
    run = tmp_path / "run"
    shared = ("--data", scans, "--labels", 1, "--device", "cpu", "--out", run)
    result = _invoke("train", "--method", "supervised", *shared, "--iterations", 40)
    assert result.exit_code == 0, result.output
    settings = json.loads((run / "settings.json").read_text())
    assert settings["patch"] == [48, 32] and len(read_card(run / "model.json").spacing) == 2
    assert json.loads((run / "result.json").read_text())["metrics"]["dice"] > 0.9
    files = [scans / f"{case}.nrrd" for case in range(4)]
    result = _invoke("predict", run, *files, "-o", tmp_path / "masks", "--preview")
    assert result.exit_code == 0, result.output
    for case, file in enumerate(files):
        _same_place(tmp_path / "masks" / f"{case}.nii.gz", file)
        found = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "masks" / f"{case}.nii.gz")))
        truth = sitk.GetArrayFromImage(sitk.ReadImage(str(scans / f"{case}_label.nrrd")))
        assert 2 * (found & truth).sum() > 0.9 * (found.sum() + truth.sum()), case
    volume = _scan(tmp_path, "volume.nrrd", (1.0, 1.0, 1.0), (40, 48, 5))
    result = _invoke("predict", run, volume, "-o", tmp_path / "masks")
    assert result.exit_code == 2 and "must be a single slice" in result.output


def test_no_mask_overwrites_a_scan(run, tmp_path):
    scan = _scan(tmp_path, "scan.nii.gz", (1.0, 1.0, 1.0), (16, 16, 16))
    before = scan.read_bytes()
    result = _invoke("predict", run, scan, "-o", tmp_path)
    assert result.exit_code == 2 and "no mask may overwrite a scan" in result.stderr
    assert scan.read_bytes() == before
    (tmp_path / "empty").mkdir()
    result = _invoke("predict", run, tmp_path / "empty", "-o", tmp_path / "masks")
    assert result.exit_code == 2 and "a folder must hold one DICOM series" in result.stderr
    result = _invoke("predict", run, scan, "-o", tmp_path / "masks", "--device", "cuda:99")
    assert result.exit_code == 2 and "--device must be one" in result.stderr


def test_the_card_says_how_the_training_scans_lay(trained):
    card = read_card(trained / "model.json")
    assert card.spacing == (0.625,) * 3 and card.orientation is None and card.recipe is None
    assert card == Card.from_json(json.loads(json.dumps(card.to_json())))
    recipe = Recipe((1.0, 1.0, 2.0), ("ct", "mr"), (-100.0, 300.0), "body")
    made = Card(2, ("background", "a"), (1.0, 1.0, 2.0), "LPS", recipe)
    assert made == Card.from_json(json.loads(json.dumps(made.to_json())))
    old = {"channels": 1, "class_names": ["background", "a"], "spacing": [1, 1, 1]}
    assert Card.from_json(old).preparation() == Recipe((1.0,) * 3, ("mr",), crop="none")
    for wrong in ({"orientation": "LPL"}, {"spacing": [1]}, {"class_names": ["a"]}):
        with pytest.raises(ValueError, match=r"a card must have|orientation must be"):
            Card.from_json(old | wrong)
    # As nibabel's aff2axcodes names them: the letter that an axis runs to.
    assert orientation_code(Geometry((1, 1, 1), None, (0, -1, 0, 0, 0, 1, 1, 0, 0))) == "SRP"
    assert orientation_code(Geometry((1, 1, 1))) == "LPS"


def test_a_preview(run, tmp_path):
    scan = _scan(tmp_path, "scan.nii.gz", (1.0, 0.7, 2.5), (30, 41, 18))
    result = _invoke("predict", run, scan, "-o", tmp_path / "masks", "--preview")
    assert result.exit_code == 0, result.output
    picture = imread(tmp_path / "masks" / "scan.png")
    assert picture.shape[0] > 300 and picture.shape[1] > 900


def test_a_preview_shows_the_patient_as_a_radiologist_sees_him(tmp_path):
    """A mask in the left, anterior, superior corner: right in the picture, above its middle."""
    direction, spacing, size = GEOMETRIES["sagittal"]
    geometry = Geometry(spacing, (0.0, 0.0, 0.0), tuple(direction.ravel()))
    axes, flips = orientation(geometry)
    lps = np.zeros([size[a] for a in axes], np.uint8)
    lps[-4:-1, 1:6, -8:-2] = 1
    labelmap = np.flip(lps, [a for a, f in enumerate(flips) if f]).transpose(np.argsort(axes))
    image = np.random.default_rng(0).normal(size=labelmap.shape).astype(np.float32)
    write_preview(tmp_path / "a.png", image[None], labelmap, geometry, ("background", "atrium"))
    picture = imread(tmp_path / "a.png")[..., :3].astype(int)
    red = (picture[..., 0] > 180) & (picture[..., 1:].max(-1) < 120)
    red[int(0.9 * len(red)) :] = False  # the legend
    third = picture.shape[1] // 3
    for number in range(3):
        part = red[:, number * third : (number + 1) * third]
        rows, columns = np.nonzero(part)
        assert len(rows) > 20
        # From the left the sagittal slice shows the anterior on the left.
        assert (columns.mean() > third / 2) == (number < 2)
        assert rows.mean() < len(part) / 2
    empty = np.zeros_like(labelmap)
    write_preview(tmp_path / "b.png", image[None], empty, geometry, ("background", "atrium"))
    flat = Geometry((1.0, 2.0))
    write_preview(tmp_path / "c.png", image[:1], labelmap[0], flat, ("background", "atrium"))
    assert not list(tmp_path.glob(".*"))
