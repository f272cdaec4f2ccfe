"""Values of label files: classes, regions, voxels that nobody annotated, and proposals."""

import numpy as np
import pytest
import SimpleITK as sitk
from scan_files import scan, write, write_folder, write_msd

from semisam.core.errors import InputError, PluginError
from semisam.core.types import IGNORE
from semisam.data.datasets.folder import ScanFolder
from semisam.data.datasets.labels import LabelValues, count_values, own_values_of
from semisam.data.datasets.prepared import Prepared
from semisam.data.loading.store import VolumeStore
from semisam.data.tools.check import check_folder
from semisam.data.tools.prepare import prepare
from semisam.plugins import registry

TWO = ("background", "organ")
FOUR = ("background", "a", "b", "c")
PLACE = ((1.0, 1.0, 1.5), (3.0, -4.0, 5.0))


def translated(values, raw):
    return values.classes(np.array(raw, np.float32).reshape(1, -1), "x.nii").ravel().tolist()


@pytest.mark.parametrize(
    ("names", "mapping", "ignored", "raw", "want"),
    [
        (TWO, {}, (), [0, 1], [0, 1]),
        (TWO, {255: 1}, (), [0, 255], [0, 1]),
        (FOUR, {4: 3}, (), [0, 1, 2, 4], [0, 1, 2, 3]),  # as in BraTS
        (TWO, {1: 1, 2: 1}, (), [0, 1, 2], [0, 1, 1]),
        (FOUR, {1: 2, 2: 1}, (), [0, 1, 2, 3], [0, 2, 1, 3]),
        (FOUR, {3: 0}, (), [0, 1, 2, 3], [0, 1, 2, 0]),
        (TWO, {-1: 1, 2048: 0}, (), [-1, 0, 2048], [1, 0, 0]),
        (TWO, {}, (255,), [0, 1, 255], [0, 1, IGNORE]),
        (TWO, {2: 0}, (0, 9), [0, 1, 2, 9], [IGNORE, 1, 0, IGNORE]),
    ],
)
def test_classes_of_values(names, mapping, ignored, raw, want):
    assert translated(LabelValues("folder", names, mapping, ignored), raw) == want


@pytest.mark.parametrize(
    ("names", "mapping", "raw", "pattern"),
    [
        (TWO, {}, [0, 255], r"got 255\. Map them with --set folder\.labels=255=1, or leave"),
        (FOUR, {}, [0, 1, 2, 4], r"got 4\. Map them with --set folder\.labels=4=3"),
        (FOUR, {}, [0, 50, 100, 150], r"labels=50=1,100=2,150=3"),
        (FOUR, {4: 3}, [0, 3, 4], r"got 3\. Map them with --set folder\.labels=3=3,4=3\."),
        (TWO, {}, [0, 1, 2], r"got 2\. Merge them with .*labels=1=1,2=1, .*ignore=2, or name"),
        (FOUR, {}, [0, 1, 3, 7], r"got 7\. Map them with --set folder\.labels=1=1,3=2,7=3, or"),
        (FOUR, {}, [0, 3, 7, 20], r"labels=3=1,7=2,20=3, or leave"),
        (FOUR, {}, [0, 9, 7], r"Map each to its class, for example with .*7=1,9=2.* Check which"),
        (TWO, {}, range(100), r"2, 3, .* \(98 values\)\. Map them with .*VALUE=CLASS"),
        (TWO, {}, [0, -1], r"got -1\. Map them with --set folder\.labels=-1=1"),
        (TWO, {}, [0, 0.5], r"integers.*got 0\.5"),
        (TWO, {}, [0, np.nan], r"integers.*got nan"),
        (TWO, {}, [0, np.inf], r"integers.*got inf"),
        (TWO, {}, [0, 1e9], r"integers.*got 1000000000"),
    ],
)
def test_a_value_without_a_class_is_refused_with_a_proposal(names, mapping, raw, pattern):
    with pytest.raises(InputError, match=f"x.nii: a label must hold .*{pattern}"):
        translated(LabelValues("folder", names, mapping), raw)


def test_masks_of_two_kinds_are_told_apart():
    used = "1 (background, organ), got {}: some masks use {}, this one uses {}"
    one = LabelValues("folder", TWO, {255: 1}).fault({"x.nii": {0: 5, 1: 3}})
    other = LabelValues("folder", TWO).fault({"x.nii": {0: 5, 255: 3}, "y.nii": {0: 5, 1: 3}})
    assert used.format(1, 255, 1) in str(one) and used.format(255, 1, 255) in str(other)
    same = LabelValues("folder", TWO).fault({"x.nii": {0: 5, 1: 3, 7: 1}})
    assert "some masks" not in str(same)


def test_labels_without_a_class_say_why(tmp_path):
    image, label = scan(0, classes=2)
    slices = np.full_like(label, 9)
    slices[..., 5] = label[..., 5]
    for n, drawn in enumerate((slices, np.full_like(label, 9), 0 * label)):
        folder = tmp_path / str(n)
        write(folder / "p0.nii.gz", image)
        write(folder / "p0_label.nii.gz", drawn)
        options = {"ignore": (9,), "spacing": (1.0, 1.0, 7.0)}
        got = ("none at the training spacing", "only voxels that nobody annotated")[n : n + 1]
        got = got or ("only background",)
        store = VolumeStore(ScanFolder(folder, **options), labeled=["p0"], unlabeled=[], test=[])
        with pytest.raises(InputError, match=f"foreground class, got {got[0]}"):
            store.check()
        (fault,) = check_folder(folder, "folder", options).faults
        assert fault.problem.endswith(got[0] if n else "at the training spacing, got none")


def test_a_channel_without_contrast_is_noted(tmp_path):
    write_msd(tmp_path, channels=2)
    assert check_folder(tmp_path, "msd", {}).notes == []
    file = next(iter(sorted((tmp_path / "imagesTr").glob("case_001*_0001*"))))
    sitk.WriteImage(sitk.ReadImage(str(file)) * 0, str(file))
    report = check_folder(tmp_path, "msd", {})
    assert "Channel 1 has no contrast in case_001. Check the files of it." in report.notes


def test_names_that_are_there_twice_are_refused():
    with pytest.raises(InputError, match="names of classes must differ, got a twice"):
        LabelValues("folder", ("background", "a", "b", "a"))


def test_classes_that_no_label_holds_and_that_the_spacing_loses(tmp_path):
    image, label = scan(0, classes=2)
    label[2, 2, 2] = 2
    write(tmp_path / "p0.nii.gz", image)
    write(tmp_path / "p0_label.nii.gz", label)
    (tmp_path / "classes.list").write_text("organ\ndot\nnowhere\n")
    fine = check_folder(tmp_path, "folder", {})
    assert fine.notes == [
        "No label holds nowhere, so it will be found nowhere. Label a scan that shows it."
    ]
    lost = "dot has no voxel at the training spacing in the label of p0. Choose a finer spacing."
    coarse = ScanFolder(tmp_path, spacing=(4.0, 4.0, 4.0))
    assert check_folder(tmp_path, "folder", {"spacing": (4.0, 4.0, 4.0)}).notes == [
        *fine.notes,
        lost,
    ]
    store = VolumeStore(coarse, labeled=["p0"], unlabeled=[], test=[])
    store.check()
    assert store.notes() == [*fine.notes, lost]
    prepare(coarse, {}, tmp_path / "copy")
    assert check_folder(tmp_path / "copy", "prepared", {}).notes[1:] == [lost]


@pytest.mark.parametrize("raw", [[0, 255], [0, 1, 2, 4], [0, 7, 9, 1], [0, 2, 5]])
def test_a_proposal_can_be_followed(raw):
    names = FOUR if len(raw) > 2 else TWO
    fault = LabelValues("folder", names).fault({"x": dict.fromkeys(raw, 1)})
    text = fault.remedy.split("folder.labels=")[1].split(",")
    pairs = dict(item.rstrip(" .").split("=") for item in text if "=" in item and "or " not in item)
    mapping = {int(value): int(number) for value, number in pairs.items()}
    assert len(set(translated(LabelValues("folder", names, mapping), raw))) == len(raw)


@pytest.mark.parametrize(
    ("mapping", "ignored", "pattern"),
    [
        ({255: 2}, (), "classes 0 to 1 .background, organ., got 255=2"),
        ({255: 1}, (255,), "mapped or ignored, got 255"),
    ],
)
def test_options_that_contradict(mapping, ignored, pattern):
    with pytest.raises(InputError, match=pattern):
        LabelValues("folder", TWO, mapping, ignored)


@pytest.mark.parametrize(
    ("names", "mapping", "ignored", "want"),
    [
        (TWO, {}, (), None),
        (TWO, {255: 1}, (), (0, 255)),
        (FOUR, {4: 3}, (), (0, 1, 2, 4)),
        (TWO, {1: 1, 2: 1}, (), None),
        (TWO, {7: 1, 5: 1}, (), (0, 5)),
        (FOUR, {1: 2, 2: 1}, (), (0, 2, 1, 3)),
        (FOUR, {3: 0}, (), None),
        (TWO, {2: 0}, (0,), (2, 1)),
    ],
)
def test_own_values(names, mapping, ignored, want):
    assert LabelValues("folder", names, mapping, ignored).own_values() == want


@pytest.mark.parametrize("raw", [[0], [0, 2**40], [0, "x"], 7, [0, None]])
def test_own_values_of_a_foreign_file_are_checked(raw):
    with pytest.raises((TypeError, ValueError)):
        own_values_of(raw, 2)
    assert own_values_of([0, 255], 2) == (0, 255) and own_values_of(None, 2) is None


def test_every_value_is_counted():
    raw = np.array([[3, -2, 3], [0, 0, 3]], np.float32)
    assert count_values(raw, "x") == {-2: 1, 0: 2, 3: 3}


@pytest.fixture
def folder(tmp_path):
    """Three classes as 0, 100 and 200, and 255 in two slices that nobody annotated."""
    write_folder(tmp_path / "scans", unlabeled=0)
    for n in range(4):
        label = scan(n)[1].astype(np.int16) * 100
        label[:, :, :2] = 255
        path = tmp_path / "scans" / f"b{n}_label.nii.gz"
        write(path, label, *PLACE, None if n % 2 == 0 else OBLIQUE)
    return tmp_path / "scans"


OBLIQUE = (0.96, -0.28, 0.0, 0.28, 0.96, 0.0, 0.0, 0.0, 1.0)
OPTIONS = {"labels": {100: 1, 200: 2}, "ignore": 255}


def test_a_folder_with_values_and_ignored_voxels(folder, tmp_path):
    data = ScanFolder(folder, **OPTIONS)
    want = scan(0)[1]
    want[:, :, :2] = IGNORE
    assert np.array_equal(data.label("b0"), want)
    assert data.partial_labels and data.label_values == (0, 100, 200)
    coarse = ScanFolder(folder, spacing=(2.0,), **OPTIONS).label("b0")
    assert set(np.unique(coarse)) == {0, 1, 2, IGNORE}
    assert (coarse[:, :, 0] == IGNORE).all() and not (coarse[:, :, 3:] == IGNORE).any()

    prepare(data, OPTIONS, tmp_path / "fast")
    fast = Prepared(tmp_path / "fast")
    assert np.array_equal(fast.label("b0"), want)
    assert fast.partial_labels and fast.label_values == data.label_values


def test_a_check_finds_one_fault_or_none(folder):
    (fault,) = check_folder(folder, "folder", {}).faults
    assert "in 4 labels" in fault.problem and "100, 200, 255" in fault.problem
    report = check_folder(folder, "folder", OPTIONS)
    assert not report.faults
    inside = scan(0)[1][:, :, 2:]
    case = next(case for case in report.cases if case.case == "b0")
    assert case.voxels == {k: int((inside == k).sum()) for k in np.unique(inside)}


def test_a_check_applies_the_crop(tmp_path):
    for n in range(3):
        image, label = scan(n, classes=2)
        image[0] = 0
        label[0, 0, 0] = n == 1
        write(tmp_path / f"p{n}.nii.gz", image)
        write(tmp_path / f"p{n}_label.nii.gz", label)
    (fault,) = check_folder(tmp_path, "folder", {}).faults
    assert fault.file.endswith("p1_label.nii.gz") and "inside the crop" in fault.problem
    with pytest.raises(InputError) as error:
        ScanFolder(tmp_path).label("p1")
    assert fault.problem in str(error.value)
    assert not check_folder(tmp_path, "folder", {"crop": "none"}).faults
    ignored = scan(1, classes=2)[1]
    ignored[0, 0, 0] = 9
    write(tmp_path / "p1_label.nii.gz", ignored)
    assert not check_folder(tmp_path, "folder", {"ignore": 9}).faults


@pytest.mark.parametrize(
    ("given", "want"),
    [
        ({"labels": "255=1,4=3"}, {"labels": {255: 1, 4: 3}}),
        ({"labels": " 255 = 1 "}, {"labels": {255: 1}}),
        ({"labels": {"255": 1, "4": 3}}, {"labels": {255: 1, 4: 3}}),  # as TOML and JSON have it
        ({"labels": {255: 1}}, {"labels": {255: 1}}),
        ({"labels": "none"}, {"labels": None}),
        ({"ignore": "255"}, {"ignore": 255}),
        ({"ignore": 255}, {"ignore": 255}),
        ({"ignore": "254,255"}, {"ignore": (254, 255)}),
        ({"ignore": [254, 255]}, {"ignore": (254, 255)}),
    ],
)
def test_the_options_are_read(given, want):
    assert registry.check_options("dataset", "folder", given) == want


@pytest.mark.parametrize("text", ["255", "255=1,255=2", "a=1", "255=x", "="])
def test_wrong_options_are_refused(text):
    with pytest.raises(
        PluginError, match=r"option labels must be .*KEY=VALUE|option labels must be .*integer"
    ):
        registry.check_options("dataset", "folder", {"labels": text})
