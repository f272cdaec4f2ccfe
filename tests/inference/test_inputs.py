"""The scans of a folder, without the labels in it."""

from pathlib import Path

import pytest
from scan_files import scan, write, write_series

from semisam.core.errors import InputError
from semisam.inference.inputs import check_outputs, gather_scans, left_out


def test_labels_in_a_folder_are_left_out(tmp_path):
    for name in ("p1", "p1_Seg", "p2", "p2-mask", "p3"):
        write(tmp_path / f"{name}.nii.gz", scan(0)[0])
    write(tmp_path / "labels" / "p3.nii.gz", scan(0)[1])
    assert list(gather_scans([tmp_path], 1)) == ["p1", "p2", "p3"]
    names = {path.name for path in left_out([tmp_path])[0]}
    assert names == {"p1_Seg.nii.gz", "p2-mask.nii.gz", "p3.nii.gz"}
    # A file that the user names is a scan, whatever its name.
    assert list(gather_scans([tmp_path / "p1_Seg.nii.gz"], 1)) == ["p1_Seg"]
    assert not left_out([tmp_path / "p1_Seg.nii.gz"])[0]


def test_a_folder_of_images_and_one_of_labels(tmp_path):
    write(tmp_path / "images" / "p1.nii.gz", scan(0)[0])
    write(tmp_path / "labels" / "p1.nii.gz", scan(0)[1])
    assert list(gather_scans([tmp_path], 1)) == ["p1"]
    assert len(left_out([tmp_path])[0]) == 1


def test_channels_beside_their_label(tmp_path):
    for name in ("p1_0000", "p1_0001", "p1_label"):
        write(tmp_path / f"{name}.nii.gz", scan(0)[0])
    assert {name: len(files) for name, files in gather_scans([tmp_path], 2).items()} == {"p1": 2}


@pytest.mark.parametrize("name, other", [("sheet", "b.png"), ("a", "a.preview.png")])
def test_two_outputs_of_one_name_are_refused(name, other):
    scans = {Path(file).stem: (Path(file),) for file in (f"{name}.png", other)}
    check_outputs(Path("masks"), scans)
    with pytest.raises(InputError, match=r"sheet\.png twice|a\.preview\.png twice"):
        check_outputs(Path("masks"), scans, preview=True, others=("sheet.png",))


def test_a_probability_replaces_no_scan_and_no_mask(tmp_path):
    other = tmp_path / "a.atrium.probability.nii.gz"
    scans = {"a": (tmp_path / "a.nii.gz",), "a.atrium.probability": (other,)}
    check_outputs(tmp_path / "masks", scans)
    with pytest.raises(InputError, match=r"got a\.atrium\.probability\.nii\.gz twice"):
        check_outputs(tmp_path / "masks", scans, titles=("wall", "atrium"))
    alone = {"a": (tmp_path / "a.mha",)}
    check_outputs(tmp_path, alone, [other])
    with pytest.raises(InputError, match="no mask may overwrite a scan or a label"):
        check_outputs(tmp_path, alone, [other], titles=("atrium",))


def test_dicom_folders_are_a_scan_each(tmp_path):
    """Next to files, next to each other, or nested; a folder of one nested series is one scan."""
    array = scan(0)[0]
    for name in ("p1", "p2"):
        write_series(tmp_path / "cohort" / name / "study", array, (1.0, 1.0, 2.0))
    write(tmp_path / "cohort" / "x.nii.gz", array)
    assert list(gather_scans([tmp_path / "cohort"], 1)) == ["p1", "p2", "x"]
    assert list(gather_scans([tmp_path / "cohort" / "p1"], 1)) == ["p1"]
    write(tmp_path / "cohort" / "p1_label.nii.gz", scan(0)[1])
    assert list(gather_scans([tmp_path / "cohort"], 1)) == ["p1", "p2", "x"]
    assert [path.name for path in left_out([tmp_path / "cohort"])[0]] == ["p1_label.nii.gz"]


def test_what_no_reader_knows_is_named(tmp_path):
    """Not texts, hidden files, the parts of a scan, or a scan that the user names."""
    cohort = tmp_path / "cohort"
    write(cohort / "p1.mhd", scan(0)[0])  # with p1.raw or p1.zraw next to it
    write(cohort / "labels" / "p1.nii.gz", scan(0)[1])
    for name in ("p2.h5", "p3.mgz", "notes.txt", "dataset.json", ".DS_Store"):
        (cohort / name).touch()
    write(cohort / "old" / "p4.nii.gz", scan(0)[0])
    assert [path.name for path in left_out([cohort])[1]] == ["old", "p2.h5", "p3.mgz"]
    assert not left_out([cohort / "p1.mhd"])[1]
    write_series(tmp_path / "series" / "study", scan(0)[0], (1.0, 1.0, 2.0))
    assert not left_out([tmp_path / "series"])[1]
