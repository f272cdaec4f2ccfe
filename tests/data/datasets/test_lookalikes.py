"""Labels that pass for unlabeled scans, and scans that must not be suspected."""

import numpy as np
import pytest
from scan_files import scan, write

from semisam.core.errors import InputError
from semisam.data.datasets.folder import ScanFolder
from semisam.data.datasets.lookalikes import has_few_values, label_fault
from semisam.data.datasets.scans import ScanFiles
from semisam.data.tools.check import check_folder


@pytest.fixture
def folder(tmp_path):
    for n in range(3):
        image, label = scan(n, classes=2)
        write(tmp_path / f"p{n}.nii.gz", image)
        write(tmp_path / f"p{n}_label.nii.gz", label)
    return tmp_path


@pytest.mark.parametrize("name", ["p3_manual", "p3-lesion-truth", "annotation_p3", "p3_lbl_2"])
def test_a_label_under_an_unknown_name_is_refused(folder, name):
    image, label = scan(3, classes=2)
    write(folder / "p3.nii.gz", image)
    write(folder / f"{name}.nii.gz", label)
    with pytest.raises(InputError, match=f"{name}.*looks like a label of p3. Name it p3_label"):
        ScanFolder(folder)
    (fault,) = check_folder(folder, "folder", {}).faults
    assert fault.file.endswith(f"{name}.nii.gz")


@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("values", [1, 255])
def test_a_label_of_any_type_on_the_grid_of_a_scan(folder, kind, values):
    write(folder / "volume-7.nii.gz", scan(7)[0])
    write(folder / "other-7.nii.gz", (scan(7, classes=2)[1] * values).astype(kind))
    (fault,) = check_folder(folder, "folder", {}).faults
    assert fault.file.endswith("other-7.nii.gz") and "a label of volume-7" in fault.problem
    data = ScanFolder(folder)  # its name says nothing, and volumes are not read here
    data.image("volume-7")
    with pytest.raises(InputError, match="looks like a label of volume-7"):
        data.image("other-7")


def test_scans_are_not_suspected(folder):
    rng = np.random.default_rng(0)
    shape = scan(0)[0].shape
    real = {
        "p0_followup": rng.integers(-400, 2000, shape).astype(np.int16),
        "p0_8bit": rng.integers(0, 200, shape).astype(np.uint8),
        "p0_float": rng.integers(0, 3, shape) + rng.normal(0, 0.1, shape).astype(np.float32),
        "mask_r_us": np.where(rng.random(shape) < 0.9, 0, rng.integers(0, 90, shape)).astype("i2"),
        "ramp": np.broadcast_to(10 * np.arange(16), shape).astype(np.int16),
        "elsewhere": (scan(9)[1][:-1]).astype(np.uint8),
    }
    for name, image in real.items():
        write(folder / f"{name}.nii.gz", image)
    data = ScanFolder(folder)
    assert not check_folder(folder, "folder", {}).faults
    for name in real:
        data.image(name)


def test_where_scans_have_few_values_too_nothing_is_suspected(tmp_path):
    for name in ("a", "a_2", "b"):
        write(tmp_path / f"{name}.nii.gz", scan(len(name))[1] * 3)
    files = {name: ScanFiles((tmp_path / f"{name}.nii.gz",), None) for name in ("a", "a_2", "b")}
    assert label_fault("a_2", files) is None
    assert label_fault("b", files, scan(1)[1]) is None


def test_an_unreadable_file_is_left_to_its_own_fault(folder):
    (folder / "p0_truth.nii.gz").write_bytes(b"nothing")
    (fault,) = check_folder(folder, "folder", {}).faults
    assert "looks like" not in fault.problem


def test_few_values():
    assert has_few_values(np.arange(64) % 32) and not has_few_values(np.arange(64) % 33)
    assert not has_few_values(np.zeros(9)) and not has_few_values(np.array([0, 0.5]))
    assert not has_few_values(np.array([0, 1, np.nan])) and has_few_values(np.array([-1.0, 7.0]))
    hidden = np.zeros(100_000)
    hidden[1] = 0.5  # no voxel of the sample
    assert not has_few_values(hidden)
