"""Folders of scans: names, classes, splits, geometry; the challenge's own layout."""

import json
import sys

import numpy as np
import pytest
from pictures import save
from scan_files import OBLIQUE, scan, write, write_folder, write_msd, write_series

from semisam.core.errors import InputError
from semisam.data.datasets.folder import ScanFolder
from semisam.data.datasets.la_raw import RawLeftAtrium
from semisam.data.images.files import read_image
from semisam.data.tools.check import check_folder
from semisam.run.build import choose_labeled, recognise_dataset


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "scans")


def test_reads_every_format_by_its_name(tmp_path):
    image, label = scan(0)
    place = ((1.0, 1.0, 2.0), (1.0, 2.0, 3.0), OBLIQUE)
    for n, ending in enumerate((".nii", ".nii.gz", ".nrrd", ".mha", ".mhd")):
        write(tmp_path / f"c{n}{ending}", image, *place)
        write(tmp_path / f"c{n}_label.nrrd", label, *place)
    write_series(tmp_path / "d", image, (1.0, 1.0, 2.0))
    write(tmp_path / "d_label.nii.gz", label, (1.0, 1.0, 2.0))
    (tmp_path / "notes.txt").write_text("not a scan")
    assert recognise_dataset(tmp_path) == "folder"
    data = ScanFolder(tmp_path, classes=("organ", "lesion"))
    assert sorted((*data.split().train, *data.split().test)) == ["c0", "c1", "c2", "c3", "c4", "d"]
    want = data.image("c0").array
    for case in ("c1", "c2", "c3", "c4", "d"):
        assert np.allclose(data.image(case).array, want, atol=1e-5), case
        assert np.array_equal(data.label(case), label), case
    assert data.class_names == ("background", "organ", "lesion")


def test_other_layouts_stay_what_they_are(tiny_la, tmp_path):
    write(tiny_la / "preview.png", np.zeros((4, 4), np.uint8), (1.0, 1.0), (0.0, 0.0))
    assert recognise_dataset(tiny_la) == "la"
    scans = write_msd(tmp_path / "msd")
    write(scans / "atlas.nii.gz", scan(0)[0])
    assert recognise_dataset(scans) == "msd"


def test_channels_are_values_per_voxel(tmp_path):
    image, label = scan(0)
    for case in "ab":
        write(tmp_path / f"{case}.nrrd", np.stack([image, 2 * image]))
        write(tmp_path / f"{case}_label.nrrd", label)
    data = ScanFolder(tmp_path, modality="none", classes=("organ", "lesion"))
    assert data.channels == 2
    assert np.array_equal(data.image("a").array, np.stack([image, 2 * image]).astype(np.float32))


def test_labeled_cases_are_those_with_a_label(folder):
    data = ScanFolder(folder)
    split = data.split()
    assert data.class_names == ("background", "organ", "lesion")
    assert split.train[0] == "a4" and not data.has_label("a4")
    assert split.test and all(map(data.has_label, split.test))
    for subset in range(4):
        labeled, unlabeled = choose_labeled(split, 2, subset, data.has_label)
        assert all(map(data.has_label, labeled))
        assert sorted((*labeled, *unlabeled)) == sorted(split.train)
        assert choose_labeled(split, 3, subset, data.has_label)[0][:2] == labeled
    with pytest.raises(InputError, match="have a label, 3 of 4, got 4"):
        choose_labeled(split, 4, 0, data.has_label)


def test_the_draw_is_seeded_and_stable(folder):
    draws = {seed: ScanFolder(folder, split_seed=seed).split() for seed in range(8)}
    assert draws[0] == ScanFolder(folder).split()
    assert len({draw.test for draw in draws.values()}) > 1
    assert len(ScanFolder(folder, test_share=0.5).split().test) == 2


def test_lists_go_before_the_draw(folder):
    (folder / "test.list").write_text("b1\nb2\n")
    assert ScanFolder(folder).split().train == ("a4", "b0", "b3")
    (folder / "train.list").write_text("b3\na4\n")
    split = ScanFolder(folder).split()
    assert (split.train, split.test) == (("b3", "a4"), ("b1", "b2"))
    folds = [{"train": ["b0"], "val": ["b1"]}, {"train": ["b0", "b2"], "val": ["b3"]}]
    (folder / "splits_final.json").write_text(json.dumps(folds))
    assert ScanFolder(folder, fold=1).split().test == ("b1", "b2")
    (folder / "test.list").unlink()
    assert ScanFolder(folder, fold=1).split().test == ("b3",)
    assert ScanFolder(folder, fold=1).split().train == ("b0", "b2", "a4")
    with pytest.raises(InputError, match=r"fold must be one of 2.*got 2"):
        ScanFolder(folder, fold=2)


@pytest.mark.parametrize(
    ("lists", "pattern"),
    [
        (("b0\nb1\n", "b1\n"), "both training and test, got b1"),
        (("b0\n../x\n", "b1\n"), r"must be in the folder, got '\.\./x'"),
        (("b0\nb0\n", "b1\n"), "got b0 twice"),
        (("b0\n", "a4\n"), "test case must have a label, got a4"),
        (("\n", "b1\n"), "at least one training case"),
    ],
)
def test_wrong_lists_are_refused(folder, lists, pattern):
    for name, text in zip(("train.list", "test.list"), lists, strict=True):
        (folder / name).write_text(text)
    with pytest.raises(InputError, match=pattern):
        ScanFolder(folder)


def test_a_list_of_training_cases_without_one_of_test_cases_is_refused(folder):
    """It would not be read."""
    (folder / "train.list").write_text("b0\nb1\n")
    with pytest.raises(InputError, match=r"train\.list must come with test\.list"):
        ScanFolder(folder)


def test_names_that_break_the_rule(folder):
    write(folder / "b0.mha", scan(0)[0])
    with pytest.raises(
        InputError, match=r"b0\.nii\.gz: .*one image and one label, got also b0\.mha"
    ):
        ScanFolder(folder)
    (folder / "b0.mha").unlink()
    write(folder / "stray_label.nii", scan(0)[1])
    with pytest.raises(InputError, match=r"stray_label\.nii: a label must have an image"):
        ScanFolder(folder)


def test_spacing_is_the_median_unless_given(folder):
    write(folder / "b0.nii.gz", scan(0)[0], (2.0, 2.0, 3.0))
    write(folder / "b0_label.nii.gz", scan(0)[1], (2.0, 2.0, 3.0))
    data = ScanFolder(folder)
    assert data.image("b0").geometry.spacing == (1.0, 1.0, 1.5)
    assert data.image("b0").array.shape[1:] == data.label("b0").shape == (40, 36, 32)
    assert ScanFolder(folder, spacing=(2.0,)).image("b1").geometry.spacing == (2.0,) * 3
    assert data.suggested == {"patch": (16, 16, 16)}


def test_a_prediction_lands_in_the_scan(folder):
    data = ScanFolder(folder, spacing=(0.9, 1.1, 1.3))
    image = data.image("b1")
    assert image.placement is not None
    label, geometry = data.label("b1"), image.placement.geometry
    restored = image.placement.classes(np.stack([label == 0, label == 1, label == 2]).astype("f4"))
    truth, where = read_image(folder / "b1_label.nii.gz")
    assert geometry.direction == pytest.approx(where.direction, abs=1e-5)
    assert geometry.origin == pytest.approx(where.origin, abs=1e-5)
    assert np.mean(restored == truth) > 0.97


@pytest.mark.parametrize(
    ("place", "pattern"),
    [
        (((2.0, 2.0, 2.0),), "be at one place.*copy the image's header"),
        (((1.0, 1.0, 1.5), (3.0, -4.0, 9.0), OBLIQUE), "be at one place"),
    ],
)
def test_a_label_elsewhere_is_refused(folder, place, pattern):
    write(folder / "b1_label.nii.gz", scan(1)[1], *place)
    with pytest.raises(InputError, match=f"b1_label.*{pattern}"):
        ScanFolder(folder).label("b1")


def test_a_label_of_another_shape_is_refused(folder):
    write(folder / "b1_label.nii.gz", scan(1)[1][:-1], (1.0, 1.0, 1.5), (3.0, -4.0, 5.0), OBLIQUE)
    with pytest.raises(InputError, match=r"one shape, got \(20, 18, 16\) and \(19, 18, 16\)"):
        ScanFolder(folder).label("b1")


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({"spacing": (0.0,)}, "spacing must be"),
        ({"window": (5.0, 5.0)}, "lower and an upper end"),
        ({"test_share": 1.0}, "between 0 and 1"),
    ],
)
def test_options_out_of_range(folder, options, pattern):
    with pytest.raises(InputError, match=pattern):
        ScanFolder(folder, **options)


def test_the_challenges_own_layout(tmp_path):
    image, label = scan(0, classes=2)
    for part, cases in (("Training Set", "abc"), ("Testing Set", "de")):
        for case in cases:
            write(tmp_path / part / case / "lgemri.nrrd", image, (0.625,) * 3, (1.0, 2.0, 3.0))
            write(tmp_path / part / case / "laendo.nrrd", label * 255)
    assert recognise_dataset(tmp_path) == "la-raw"
    data = RawLeftAtrium(tmp_path)
    assert data.split().train == ("a", "b", "c") and data.split().test == ("d", "e")
    assert np.array_equal(data.label("a"), label)
    place = data.layout.label_place("a").relative_to(tmp_path)
    assert place.as_posix() == "Training Set/a/laendo.nrrd"
    assert recognise_dataset(tmp_path / "Training Set") == "la-raw"
    (tmp_path / "Training Set" / "test.list").write_text("b/mri_norm2.h5\n")
    assert RawLeftAtrium(tmp_path / "Training Set").split().test == ("b",)


def test_a_name_that_no_terminal_can_show_is_a_fault(tmp_path):
    write(tmp_path / "p0.nii.gz", scan(0)[0])
    write(tmp_path / "p0_label.nii.gz", scan(0)[1])
    write(tmp_path / "p1\x1b[2J.nii.gz", scan(1)[0])
    with pytest.raises(InputError, match=r"printable characters, got 'p1\\x1b\[2J'"):
        ScanFolder(tmp_path, classes=("a", "b"))
    with pytest.raises(InputError, match=r"printable characters, got 'a\\nb'"):
        ScanFolder(tmp_path, classes=("a\nb", "b"))


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes there")
def test_a_name_in_another_encoding_is_a_fault(tmp_path):
    for number, name in enumerate(("p0", "p1", "p2")):
        write(tmp_path / f"{name}.nii.gz", scan(number)[0])
        write(tmp_path / f"{name}_label.nii.gz", scan(number)[1])
    for ending in (".nii.gz", "_label.nii.gz"):
        (tmp_path / f"p2{ending}").rename(tmp_path / f"M\udcfcller{ending}")
    with pytest.raises(InputError, match=r"printable characters, got 'M\\udcfcller'"):
        ScanFolder(tmp_path, classes=("a", "b"))


def test_cases_are_left_out_with_the_faults_of_their_files(tmp_path):
    write_folder(tmp_path / "scans", labeled=3, unlabeled=1)
    (tmp_path / "scans" / "b1.nii").touch()  # a second image of a case
    with pytest.raises(InputError, match="must have one image and one label"):
        ScanFolder(tmp_path / "scans")
    (tmp_path / "scans" / "b1.nii").unlink()
    (tmp_path / "scans" / "b2.mha").write_bytes(b"damaged")
    dataset = ScanFolder(tmp_path / "scans", without=("b2",))
    split = dataset.split()
    assert sorted((*split.train, *split.test)) == ["a3", "b0", "b1"]
    with pytest.raises(InputError, match="cases of the folder, got b9"):
        ScanFolder(tmp_path / "scans", without=("b9",))


def test_the_mask_of_a_single_slice_may_be_a_picture(tmp_path):
    """As of X-ray images in DICOM, whose masks are drawn on exported pictures."""
    rng = np.random.default_rng(0)
    for case in ("a", "b"):
        image = rng.integers(20, 60, (12, 9, 1))
        image[2:7, 3:5] += 100
        write(tmp_path / f"{case}.nii.gz", image.astype(np.int16), (0.5, 0.5, 1.0))
        mask = np.zeros((12, 9), np.uint8)
        mask[2:7, 3:5] = 1
        save(tmp_path / f"{case}_mask.png", mask)
    data = ScanFolder(tmp_path)
    assert np.array_equal(data.drawn_label("a"), mask[..., None])
    assert data.label("a").sum() == mask.sum()
    assert not check_folder(tmp_path, "folder", {}).faults
    save(tmp_path / "b_mask.png", mask.T)
    assert len(check_folder(tmp_path, "folder", {}).faults) == 1
