"""The cases of a folder, as ``semisam auto`` takes them."""

from __future__ import annotations

import pytest
from scan_files import scan, write

from semisam.automatic.survey import survey
from semisam.core.errors import InputError


@pytest.fixture
def scans(tmp_path):
    """Two patients with two scans each; one scan of each has a mask."""
    for n, case in enumerate(("a_1", "a_2", "b_1", "b_2")):
        image, label = scan(n, classes=2)
        write(tmp_path / f"{case}.nii.gz", image)
        if case.endswith("1"):
            write(tmp_path / f"{case}_label.nii.gz", label)
    return tmp_path


def test_every_scan_counts_whatever_a_split_says(scans):
    data = survey(scans, options={"groups": "^(.)_"})
    assert data.labeled == ("a_1", "b_1") and data.unlabeled == ("a_2", "b_2")
    assert data.files("b_2") == (scans / "b_2.nii.gz",)
    assert data.masks("a_1") == (scans / "a_1_label.nii.gz",)
    assert data.labels_without(None) == 2 and data.labels_without("a_1") == 1


def test_a_fault_of_no_case_stops_it_even_with_skip_faulty(scans):
    write(scans / "c_label.nii.gz", scan(5, classes=2)[1])
    with pytest.raises(InputError, match="belongs to no case"):
        survey(scans, skip_faulty=True)


def test_doubled_scans_and_wrong_values_are_left_out(scans):
    write(scans / "b_3.nii.gz", scan(3, classes=2)[0])  # the image of b_2
    for n, case in ((7, "d"), (8, "e")):
        write(scans / f"{case}.nii.gz", scan(n)[0])
        write(scans / f"{case}_label.nii.gz", 5 * scan(n, classes=2)[1])
    data = survey(scans, skip_faulty=True)
    assert data.labeled == ("a_1", "b_1") and data.unlabeled == ("a_2", "b_2")
    assert {fault.file for fault in data.left_out} == {
        str(scans / "b_3.nii.gz"),
        str(scans / "d_label.nii.gz"),
        str(scans / "e_label.nii.gz"),
    }


def test_a_folder_of_faults_only_is_refused(scans):
    for path in scans.glob("*.nii.gz"):
        path.write_bytes(b"damaged")
    with pytest.raises(InputError, match="--skip-faulty leaves"):
        survey(scans, skip_faulty=True)
