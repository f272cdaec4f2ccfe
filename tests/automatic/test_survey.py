"""The cases of a folder, as ``semisam auto`` takes them."""

from __future__ import annotations

import pytest
from scan_files import scan, write, write_series

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


def test_a_model_adapts_to_masks_that_are_annotated_everywhere(scans):
    assert survey(scans).whole == ("a_1", "b_1")
    label = scan(0, classes=2)[1]
    label[..., ::2] = 9
    write(scans / "a_1_label.nii.gz", label)
    data = survey(scans, options={"ignore": (9,), "groups": "^(.)_"})
    assert data.labeled == ("a_1", "b_1") and data.whole == ("b_1",)
    assert data.whole_without(None) and data.whole_without("a_1")
    assert not data.whole_without("b_1") and not data.whole_without("b_2")


def test_a_scan_that_is_replaced_in_place_is_another(tmp_path):
    """The data next to a header, and the slices of a folder, belong to the scan."""
    write(tmp_path / "a.mhd", scan(0, classes=2)[0])
    write_series(tmp_path / "b", scan(2, classes=2)[0], (1.0, 1.0, 2.0))
    write(tmp_path / "c.nii.gz", scan(1, classes=2)[0])
    write(tmp_path / "c_label.nii.gz", scan(1, classes=2)[1])
    data = survey(tmp_path)
    before = {case: data.state(case) for case in ("a", "b", "c")}
    (raw,) = [path for path in tmp_path.glob("a.*") if path.suffix != ".mhd"]
    for path in (raw, sorted((tmp_path / "b").iterdir())[0]):
        path.write_bytes(path.read_bytes() + b"0")
    assert [data.state(case) == before[case] for case in ("a", "b", "c")] == [False, False, True]
    assert data.label_place("a") == "a_label.nii.gz"


def test_labels_without_an_image_and_second_labels_are_left_out(scans):
    image, label = scan(5, classes=2)
    write(scans / "c_label.nii.gz", label)
    write(scans / "d.nii.gz", image)
    for ending in ("nii.gz", "nrrd"):
        write(scans / f"d_label.{ending}", label)
    with pytest.raises(InputError, match="--skip-faulty leaves"):
        survey(scans)
    data = survey(scans, skip_faulty=True)
    assert data.labeled == ("a_1", "b_1") and data.unlabeled == ("a_2", "b_2")
    told = " ".join(map(str, data.left_out))
    assert len(data.left_out) == 2 and "c_label.nii.gz" in told and "d_label." in told


def test_a_fault_of_no_case_stops_it_even_with_skip_faulty(scans):
    (scans / "test.list").write_text("nobody\n")
    with pytest.raises(InputError, match="belongs to no case"):
        survey(scans, skip_faulty=True)


def test_skipping_is_no_advice_where_it_would_leave_no_mask(scans):
    for case in ("a_1", "b_1"):
        write(scans / f"{case}_label.nii.gz", 255 * scan(3, classes=2)[1])
    with pytest.raises(InputError, match=r"folder\.labels=255=1") as refused:
        survey(scans)
    assert "--skip-faulty" not in str(refused.value)


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
    with pytest.raises(InputError, match="a_1") as refused:
        survey(scans, skip_faulty=True)
    assert "--skip-faulty" not in str(refused.value)
