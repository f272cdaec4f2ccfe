"""Clicks of a person on one scan."""

from __future__ import annotations

import re

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from click.testing import CliRunner
from PIL import Image
from scan_files import write
from tiny_runs import settings_of

import semisam
from semisam.backends.synthsam import SynthSAM
from semisam.cli.main import main
from semisam.core.errors import InputError
from semisam.core.types import Prompt
from semisam.data.datasets.phantom import SPACING, make_case
from semisam.data.images.files import Geometry
from semisam.data.images.preprocessing import Recipe
from semisam.interactive import click as clicks
from semisam.interactive.click import ClickableScan
from semisam.run.execute import execute


@pytest.fixture(scope="module")
def case():
    """A phantom, its atrium and a voxel deep inside."""
    image, label = make_case(0, 0, size=40)
    atrium = label == 1
    places = np.argwhere(atrium)
    middle = places[((places - places.mean(0)) ** 2).sum(1).argmin()]
    return image, atrium, tuple(int(at) for at in middle)


def _dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def test_a_click_is_the_models_prediction_for_it(case):
    image, atrium, point = case
    found = semisam.click(image, [point], spacing=[SPACING] * 3, device="cpu")
    model = SynthSAM()
    scaled = torch.from_numpy((image - image.mean()) / image.std())[None]
    prompt = Prompt(torch.tensor([point]), torch.tensor([1]))
    wanted = model.segment(model.encode(scaled), prompt) > 0
    assert _dice(found.labelmap == 1, wanted.numpy()) > 0.99
    assert _dice(found.labelmap == 1, atrium) > 0.6


def test_the_background_is_no_object(case):
    with pytest.raises(InputError, match="--value must be that of an object, got 0"):
        semisam.click(case[0], [case[2]], value=0, device="cpu")


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("mask.mha", "must end in .nii.gz"),
        ("no/mask.nii.gz", "must exist"),
        (".", "got the folder"),
    ],
)
def test_the_name_of_the_mask_is_checked_before_the_model_is_queried(
    case, tmp_path, monkeypatch, out, said
):
    write(tmp_path / "scan.nii.gz", case[0], (SPACING,) * 3)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "semisam.interactive.click.click", lambda *args, **more: pytest.fail("queried")
    )
    result = CliRunner().invoke(main, ["click", "scan.nii.gz", "--point", "1,1,1", "-o", out])
    assert result.exit_code == 2 and said in result.output


def test_the_mask_comes_back_on_the_grid_of_the_file(case, tmp_path):
    image, _, point = case
    place = ((SPACING,) * 3, (3.0, -4.0, 5.0), (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    write(tmp_path / "straight.nii.gz", image, place[0])
    write(tmp_path / "flipped.nii.gz", image[::-1], *place)
    straight = semisam.click(tmp_path / "straight.nii.gz", [point], device="cpu").mask
    other = (image.shape[0] - 1 - point[0], *point[1:])
    flipped = semisam.click(tmp_path / "flipped.nii.gz", [other], device="cpu").mask
    assert straight.any() and np.array_equal(flipped[::-1], straight)
    fine = np.repeat(image, 2, 0)
    write(tmp_path / "fine.nii.gz", fine, (SPACING / 2, SPACING, SPACING))
    twice = semisam.click(tmp_path / "fine.nii.gz", [(2 * point[0], *point[1:])], device="cpu")
    assert twice.mask.shape == fine.shape
    assert _dice(twice.mask[::2] == 1, straight == 1) > 0.8


def test_a_single_slice_is_a_picture(case, tmp_path):
    image, _, (i, j, k) = case
    flat = semisam.click(image[:, :, k], [(i, j)], spacing=(SPACING, SPACING), device="cpu").mask
    assert flat.any()
    file = write(tmp_path / "slice.nii.gz", image[:, :, k : k + 1], (SPACING, SPACING, 7.0))
    found = semisam.click(file, [(i, j, 0)], device="cpu")
    assert np.array_equal(found.mask, flat[:, :, None])
    assert found.geometry.spacing == pytest.approx((SPACING, SPACING, 7.0))


def test_a_negative_click_and_a_mask_change_the_prediction(case):
    image, atrium, point = case
    usual = semisam.click(image, [point], device="cpu").mask
    voxels = np.argwhere(usual)
    edge = tuple(int(at) for at in voxels[voxels[:, 0].argmax()])
    less = semisam.click(image, [point], negative=[edge], device="cpu").mask
    assert usual[edge] == 1 and less[edge] == 0
    corrected = semisam.click(image, [point], mask=atrium.astype(np.uint8), device="cpu").mask
    assert _dice(corrected == 1, atrium) > _dice(usual == 1, atrium)
    assert semisam.click(image, mask=atrium.astype(np.uint8), device="cpu").mask.any()


@pytest.mark.parametrize("negative", [[], [(1, 1, 1)]])
def test_a_good_mask_without_a_point_stays_good(negative):
    """Of two objects each brings a point; without one the model loses much of it."""
    at = np.indices((48, 48, 48))
    balls = [
        np.linalg.norm(at - np.reshape(middle, (3, 1, 1, 1)), axis=0) < radius
        for middle, radius in (((14, 14, 14), 8), ((34, 33, 32), 6))
    ]
    mask = (balls[0] | balls[1]).astype(np.uint8)
    image = 100 + 60 * mask + np.random.default_rng(0).normal(0, 10, mask.shape)
    found = semisam.click(image, negative=negative, mask=mask, device="cpu").labelmap == 1
    for ball, part in zip(balls, (slice(None, 24), slice(24, None)), strict=True):
        assert _dice(found[part], ball[part]) > 0.94


def test_a_point_in_one_object_keeps_the_other():
    at = np.indices((64, 40, 40))
    balls = [
        np.linalg.norm(at - np.reshape(middle, (3, 1, 1, 1)), axis=0) < 8
        for middle in ((14, 20, 20), (46, 22, 20))
    ]
    mask = (balls[0] | balls[1]).astype(np.uint8)
    image = 100 + 60 * mask + np.random.default_rng(0).normal(0, 10, mask.shape)
    found = semisam.click(image, [(14, 20, 20)], mask=mask, device="cpu").labelmap == 1
    assert _dice(found, mask == 1) > 0.94
    negative = [(46, 22, 24)]
    found = semisam.click(image, negative=negative, mask=mask, device="cpu").labelmap == 1
    assert _dice(found, balls[0]) > 0.94


def test_a_wrong_island_of_the_models_own_prediction_brings_no_point():
    """Every later click of a dialogue would confirm it."""
    at = np.indices((48, 48, 48))
    balls = [
        np.linalg.norm(at - np.reshape(middle, (3, 1, 1, 1)), axis=0) < radius
        for middle, radius in (((14, 14, 14), 8), ((36, 35, 34), 7), ((36, 35, 34), 4))
    ]
    image = 100 + 60 * (balls[0] | balls[1]) + np.random.default_rng(0).normal(0, 10, at.shape[1:])
    clickable = ClickableScan(image, device="cpu")
    mask = (balls[0] | balls[2]).astype(np.uint8)
    for drawn in (np.zeros_like(mask), balls[0]):
        found = clickable.segment([(14, 14, 14)], mask=mask, drawn=drawn).labelmap == 1
        assert _dice(found, balls[0]) > 0.94
    kept = clickable.segment([(14, 14, 14)], mask=mask).labelmap == 1
    assert kept[balls[2]].mean() > 0.9


@pytest.mark.parametrize(
    ("points", "negative", "corners", "expected"),
    [
        ([], [], [], [(5, 4, 4), (22, 4, 4)]),
        ([(3, 4, 4)], [], [], [(22, 4, 4)]),
        ([(15, 4, 4)], [], [], [(5, 4, 4), (22, 4, 4)]),
        ([], [(21, 3, 3)], [], [(5, 4, 4)]),
        ([(3, 4, 4)], [(21, 3, 3)], [], []),
        ([(21, 3, 3)], [(3, 4, 4)], [], []),
        ([], [], [(29, 8, 8), (14, 0, 0)], [(22, 4, 4)]),
        ([], [], [(10, 0, 0), (14, 8, 8)], []),
    ],
)
def test_each_component_without_a_click_brings_its_innermost_voxel(
    points, negative, corners, expected
):
    drawn = np.zeros((30, 9, 9), np.uint8)
    drawn[2:9, 1:8, 1:8] = drawn[20:25, 2:7, 2:7] = 1
    assert clicks._innermost(drawn, points, negative, corners) == expected


def test_components_that_nobody_drew_bring_no_point():
    mask = np.zeros((30, 9, 9), np.uint8)
    mask[2:9, 1:8, 1:8] = mask[20:25, 2:7, 2:7] = 1
    drawn = np.zeros_like(mask)
    drawn[22:28, 4, 4] = 1
    assert clicks._innermost(mask, own=drawn) == [(22, 4, 4)]
    assert clicks._innermost(mask, own=np.zeros_like(mask)) == []


def test_a_negative_click_in_the_largest_component_shows_the_end_of_a_leak():
    drawn = np.zeros((30, 9, 9), np.uint8)
    drawn[2:9, 1:8, 1:8] = drawn[20:25, 2:7, 2:7] = 1
    large, small = clicks._innermost(drawn, negative=[(5, 4, 4)])
    assert large != (5, 4, 4) and drawn[large] and small == (22, 4, 4)
    assert clicks._innermost(np.zeros_like(drawn)) == []


def test_the_model_sees_a_window_around_the_clicks(case, monkeypatch):
    image, _, point = case
    monkeypatch.setitem(clicks._WINDOW, 3, 24)
    found = semisam.click(image, [point], device="cpu").on_image[1]
    seen = np.argwhere(found > 0)
    assert (seen.max(0) - seen.min(0) < 24).all() and found[point] > 0.5


def test_the_axes_of_an_array_decide_which_spacing_is_whose(case, monkeypatch):
    """As viewers hold it, the third axis of a scan comes first."""
    image, _, _ = case
    recipe = Recipe((1.25, 1.25, 2.5), ("mr",), crop="none")
    monkeypatch.setattr(clicks, "_model", lambda *about: (None, recipe, 1))
    straight = ClickableScan(image, spacing=(1.25, 1.25, 1.25))
    turned = ClickableScan(image.T, spacing=(1.25, 1.25, 1.25), axes="zyx")
    assert turned.shape == image.shape[::-1]
    assert np.allclose(turned._image, straight._image, atol=1e-5)
    wrong = ClickableScan(image.T, spacing=(1.25, 1.25, 1.25))
    assert wrong._image.shape != straight._image.shape


@pytest.mark.parametrize("flip", [False, True])
def test_the_voxel_of_an_image_is_at_the_place_of_the_files_voxel(flip):
    direction = (-1.0 if flip else 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    array = np.zeros((1, 12, 10, 8), np.float32)
    array[0, 3, 7, 5] = 1
    recipe = Recipe((1.0, 1.0, 1.0), ("none",), crop="none")
    image, _, placement = recipe.apply(array, Geometry((1.0, 1.0, 3.0), None, direction))
    assert placement.voxel((3, 7, 5)) == np.unravel_index(image[0].argmax(), image.shape[1:])


def test_the_command_takes_the_adapted_model_of_a_run(case, tmp_path):
    image, _, point = case
    write(tmp_path / "scan.nii.gz", image, (SPACING,) * 3)
    given = {"method": "copied-mask", "sam": "synthsam", "labels": 1, "test": "none"}
    data = {"cases": 2, "test_cases": 0, "size": 32}
    for steps in (0, 1):
        settings = settings_of(**given, sam_adapt=steps, device="cpu", dataset_options=data)
        execute(settings, tmp_path / f"run{steps}")
    args = ["click", str(tmp_path / "scan.nii.gz"), "--point", ",".join(map(str, point))]
    for name, more in (("plain", []), ("adapted", ["--run", str(tmp_path / "run1")])):
        out = ["-o", str(tmp_path / f"{name}.nii.gz"), "--device", "cpu"]
        result = CliRunner().invoke(main, [*args, *more, *out])
        assert result.exit_code == 0, result.output
    one, two = (sitk.ReadImage(str(tmp_path / f"{n}.nii.gz")) for n in ("plain", "adapted"))
    assert one.GetSize() == two.GetSize() == image.shape
    scan = (tmp_path / "scan.nii.gz").read_bytes()
    result = CliRunner().invoke(main, [*args, "-o", str(tmp_path / "scan.nii.gz")])
    assert result.exit_code == 2 and (tmp_path / "scan.nii.gz").read_bytes() == scan
    result = CliRunner().invoke(main, [*args, "--run", str(tmp_path / "run0"), "-o", "x.nii.gz"])
    assert result.exit_code == 2 and "must keep an adapted model" in result.stderr


def test_other_objects_of_a_mask_stay(case):
    image, atrium, point = case
    mask = np.where(atrium, 7, 0)
    mask[:4] = 300
    found = semisam.click(image, [point], mask=mask, value=7, device="cpu")
    plain = semisam.click(image, [point], mask=atrium.astype(int), device="cpu")
    assert np.array_equal(found.labelmap, plain.labelmap)
    assert np.array_equal(found.mask == 300, mask == 300)
    assert np.array_equal(found.mask == 7, (plain.labelmap == 1) & (mask != 300))
    assert set(np.unique(found.mask)) == {0, 7, 300}
    with pytest.raises(InputError, match=r"must hold one value, got 7, 300\. Name .* --value"):
        semisam.click(image, [point], mask=mask, device="cpu")
    with pytest.raises(InputError, match="must hold whole numbers"):
        semisam.click(image, [point], mask=0.5 * atrium, device="cpu")


def test_a_point_on_another_object_is_refused(case):
    """It stays, so the click would change nothing there."""
    image, atrium, point = case
    part = np.where(atrium, 1, 9)
    part[point] = 9
    with pytest.raises(InputError, match=r"must be where the mask holds 0 or 1, got .* with 9"):
        semisam.click(image, [point], mask=part, value=1, device="cpu")


def test_the_object_is_counted_as_it_is_written(case):
    image, atrium, point = case
    mask = np.where(atrium, 7, 0)
    mask[: point[0]][mask[: point[0]] == 0] = 3
    found = semisam.click(image, [point], mask=mask, value=7, device="cpu")
    assert np.array_equal(found.labelmap == 1, found.mask == 7)


def test_one_file_for_each_channel(case, tmp_path):
    image, _, point = case
    files = tuple(
        str(write(tmp_path / f"scan_000{n}.nii.gz", image * (n + 1), (SPACING,) * 3))
        for n in range(2)
    )
    found = semisam.click(files, [point], device="cpu")
    both = semisam.click(np.stack([image, 2 * image]), [point], spacing=[SPACING] * 3, device="cpu")
    assert _dice(found.labelmap == 1, both.labelmap == 1) > 0.99
    out = str(tmp_path / "mask.nii.gz")
    args = ["click", *files, "--point", ",".join(map(str, point)), "-o", out, "--device", "cpu"]
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 0, result.output
    assert f"{int(found.labelmap.sum())} voxels" in result.output
    data = {"cases": 2, "test_cases": 0, "size": 32}
    given = {"method": "copied-mask", "sam": "synthsam", "labels": 1, "test": "none"}
    run = settings_of(**given, sam_adapt=1, device="cpu", dataset_options=data)
    execute(run, tmp_path / "run")
    with pytest.raises(InputError, match="must have the 1 channels of the run's scans, got 2"):
        semisam.click(files, [point], run=tmp_path / "run", device="cpu")


def test_a_mask_keeps_its_value(case):
    image, atrium, point = case
    found = semisam.click(image, [point], mask=255 * atrium.astype(int), device="cpu").mask
    assert set(np.unique(found)) == {0, 255} and found.dtype == np.uint8


def test_the_command_replaces_a_file_only_if_it_is_told_to(case, tmp_path):
    image, _, point = case
    write(tmp_path / "scan.nii.gz", image, (SPACING,) * 3)
    scan, drawn = tmp_path / "scan.nii.gz", tmp_path / "scan_label.nii.gz"
    drawn.write_bytes(b"an hour of work")
    args = ["click", str(scan), "--point", ",".join(map(str, point)), "--device", "cpu"]
    result = CliRunner().invoke(main, [*args, "-o", str(drawn)])
    assert result.exit_code == 2 and "must be a new file" in result.stderr
    assert drawn.read_bytes() == b"an hour of work"
    for more in (["--overwrite"], ["--mask", str(drawn)]):
        result = CliRunner().invoke(main, [*args, *more, "-o", str(drawn)])
        assert result.exit_code == 0, result.output
    assert re.fullmatch(r"(\d+) voxels before, now \d+ voxels\. Written: .*\n", result.output)


def test_what_cannot_be_clicked_at_is_refused(case, tmp_path):
    image = case[0]
    for point in ((42, 5, 5), (-1, 5, 5), (5, 5)):
        with pytest.raises(InputError, match="must be a voxel of the scan"):
            semisam.click(image, [point], device="cpu")
    with pytest.raises(InputError, match="no point and no mask"):
        semisam.click(image, device="cpu")
    with pytest.raises(InputError, match="must have the grid of the scan"):
        semisam.click(image, mask=np.ones((3, 3, 3)), device="cpu")
    with pytest.raises(InputError, match="must be a volume or a picture"):
        semisam.click(image[0], [(1, 1)], spacing=(1, 1, 1), device="cpu")
    with pytest.raises(InputError, match="must exist"):
        semisam.click(tmp_path / "none.nii.gz", [(1, 1, 1)], device="cpu")


def test_a_click_on_a_picture(case, tmp_path):
    image, atrium, point = case
    flat, wanted = image[..., point[2]], atrium[..., point[2]]
    found = semisam.click(flat, [point[:2]], device="cpu")
    assert _dice(found.labelmap == 1, wanted) > 0.6
    assert set(np.unique(found.mask)) == {0, 1}  # an array may be a slice of a volume
    found.save(tmp_path / "mask.png")
    grey = np.rint(255 * (flat - flat.min()) / np.ptp(flat)).astype(np.uint8)
    Image.fromarray(grey.T).save(tmp_path / "picture.png")
    white = semisam.click(tmp_path / "picture.png", [point[:2]], device="cpu").mask
    assert set(np.unique(white)) == {0, 255}, "as masks of pictures are"
    assert sitk.ReadImage(str(tmp_path / "mask.png")).GetSize() == flat.shape
    colours = semisam.click(np.stack([flat] * 3), [point[:2]], spacing=(1, 1), device="cpu")
    assert _dice(colours.labelmap, found.labelmap) > 0.99


@pytest.mark.parametrize(
    "given",
    [
        {"modality": "CT"},
        {"axes": "ZYX"},
        {"axes": None},
        {"modality": "ct", "window": (240, -160)},
        {"window": (1,)},
        {"window": None},
    ],
)
def test_values_that_would_be_taken_for_others_are_refused(given):
    """A scan of the modality "CT" was prepared as MR."""
    with pytest.raises(InputError, match=f"{list(given)[-1]} must be"):
        semisam.click(np.zeros((16, 16, 16), np.float32), [(8, 8, 8)], **given)
