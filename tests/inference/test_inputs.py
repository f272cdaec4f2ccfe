"""The scans of a folder, without the labels in it."""

from scan_files import scan, write

from semisam.inference.inputs import gather_scans, labels_among


def test_labels_in_a_folder_are_left_out(tmp_path):
    for name in ("p1", "p1_Seg", "p2", "p2-mask", "p3"):
        write(tmp_path / f"{name}.nii.gz", scan(0)[0])
    write(tmp_path / "labels" / "p3.nii.gz", scan(0)[1])
    assert list(gather_scans([tmp_path], 1)) == ["p1", "p2", "p3"]
    names = {path.name for path in labels_among([tmp_path])}
    assert names == {"p1_Seg.nii.gz", "p2-mask.nii.gz", "p3.nii.gz"}
    # A file that the user names is a scan, whatever its name.
    assert list(gather_scans([tmp_path / "p1_Seg.nii.gz"], 1)) == ["p1_Seg"]
    assert not labels_among([tmp_path / "p1_Seg.nii.gz"])


def test_a_folder_of_images_and_one_of_labels(tmp_path):
    write(tmp_path / "images" / "p1.nii.gz", scan(0)[0])
    write(tmp_path / "labels" / "p1.nii.gz", scan(0)[1])
    assert list(gather_scans([tmp_path], 1)) == ["p1"]
    assert len(labels_among([tmp_path])) == 1


def test_channels_beside_their_label(tmp_path):
    for name in ("p1_0000", "p1_0001", "p1_label"):
        write(tmp_path / f"{name}.nii.gz", scan(0)[0])
    assert {name: len(files) for name, files in gather_scans([tmp_path], 2).items()} == {"p1": 2}
