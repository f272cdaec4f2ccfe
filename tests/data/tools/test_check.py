"""Every fault is found at once, with the file's name and what to do."""

import gzip
import json

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from pictures import write_pictures
from scan_files import OBLIQUE, scan, write, write_folder, write_msd

from semisam.cli.main import main
from semisam.data.tools.check import check_folder

PLACE = ((1.0, 1.0, 1.5), (3.0, -4.0, 5.0), OBLIQUE)


def run(path, *args):
    return CliRunner().invoke(main, ["data", "check", str(path), *args])


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "scans")


def test_a_sound_folder(folder, tmp_path):
    before = sorted(folder.iterdir())
    done = run(folder, "--json", str(tmp_path / "report.json"))
    assert done.exit_code == 0, done.output
    text = " ".join(done.output.split())
    for part in ("dataset folder, 5 cases, 4 labeled and 1 unlabeled", "No faults.", "lesion"):
        assert part in text
    report = json.loads((tmp_path / "report.json").read_text())
    case = next(case for case in report["cases"] if case["case"] == "b1")
    assert case["shape"] == [20, 18, 16] and case["labeled"]
    label = scan(1)[1]
    assert case["voxels"] == {str(v): int((label == v).sum()) for v in (0, 1, 2)}
    assert case["intensities"] == [[int(scan(1)[0].min()), int(scan(1)[0].max())]]
    assert report["faults"] == []
    assert sorted(folder.iterdir()) == before


def test_what_is_no_scan_is_named(folder):
    """A folder in it is not searched, and nobody would notice."""
    assert "Left out" not in run(folder).output
    write(folder / "more" / "d.nii.gz", scan(5)[0])
    assert "Left out, not scans (1): more/" in run(folder).output


def spoil(folder):
    """One fault of every kind; returns the pattern that tells each."""
    image, label = scan(1)
    write(folder / "b1.nrrd", np.where(image == image.max(), np.nan, image), *PLACE)
    write(folder / "b1_label.nii.gz", label[:-1], *PLACE)
    cut = folder / "b0.nii.gz"
    cut.write_bytes(cut.read_bytes()[:-400])
    write(folder / "b2_label.nii.gz", label * 3, (1.0, 1.0, 1.5), (3.0, -4.0, 5.0))
    write(folder / "b3_label.nii.gz", 0 * label, (1.0, 1.0, 3.0))
    write(folder / "c.mha", scan(4)[0], (1.0, 1.0, 1.5), (3.0, -4.0, 5.0))
    (folder / "d.nii.gz").write_bytes(gzip.compress(b"no scan at all"))
    write(folder / "e_label.nii", label)
    metres = bytearray(write(folder / "f.nii", scan(5)[0]).read_bytes())
    metres[123] = 1  # the unit of length
    (folder / "f.nii").write_bytes(bytes(metres))
    (folder / "test.list").write_text("b1\nb1\nc\ngone\n")
    (folder / "train.list").write_text("b0\nb1\nb2\nb3\na4\n")
    return {
        "NaN": r"b1\.nrrd: every voxel must be finite",
        "shape": r"b1_label\.nii\.gz: image and label must have one shape",
        "cut off": r"b0\.nii\.gz: the (file must be complete|image must be readable)",
        "values": r"b2_label\.nii\.gz: a label must hold the classes.*got 3, 6",
        "empty": r"b3_label\.nii\.gz: a label must contain a foreground",
        "place": r"b3_label\.nii\.gz: image and label must be at one place",
        "duplicate": r"c\.mha: all images must differ, got the image of .*a4\.nii",
        "unreadable": r"d\.nii\.gz: the image must be readable",
        "metres": r"f\.nii: the image must fit into memory at the training spacing",
        "no image": r"e_label\.nii: a label must have an image",
        "listed twice": r"test\.list: each case must be listed once, got b1",
        "both": r"both training and test, got b1",
        "unlabeled test": r"a test case must have a label, got c",
        "gone": r"every case of the split must be in the folder, got 'gone'",
    }


def test_every_fault_at_once(folder, tmp_path):
    patterns = spoil(folder)
    report = check_folder(folder, "folder", {})
    lines = [str(fault) for fault in report.faults]
    import re

    for kind, pattern in patterns.items():
        assert any(re.search(pattern, line) for line in lines), (kind, lines)
    assert all(fault.remedy for fault in report.faults)
    done = run(folder, "--json", str(tmp_path / "report.json"))
    assert done.exit_code == 1
    written = json.loads((tmp_path / "report.json").read_text())
    assert len(written["faults"]) == len(lines)


def test_the_description_that_is_unusable(tmp_path):
    write_msd(tmp_path)
    (tmp_path / "dataset.json").write_text("{}")
    done = run(tmp_path)
    assert done.exit_code == 1
    assert "must name the channels" in " ".join(done.output.split())


def test_the_published_layout(tiny_la):
    assert run(tiny_la).exit_code == 0
    first, second = (tiny_la / f"train_00{n}" / "mri_norm2.h5" for n in range(2))
    second.write_bytes(first.read_bytes())
    with h5py.File(tiny_la / "test_000" / "mri_norm2.h5", "a") as file:
        del file["label"]
    (tiny_la / "train_002" / "mri_norm2.h5").write_bytes(b"")
    text = " ".join(run(tiny_la).output.split())
    assert "3 faults" in text
    for part in (
        "all images must differ",
        "a test case must have a label",
        "must be a complete HDF5 file",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("folder.test_share=5", "test_share must be between 0 and 1, got 5.0"),
        ("folder.test_share=0", "test_share must be between 0 and 1, got 0.0"),
        ("folder.window=240,-160", "window must be a lower and an upper end in HU, got (240.0, -1"),
        ("folder.spacing=-1,1,1", "spacing must be one positive number of mm or one per axis, got"),
        ("images.longest=-1", "longest must be at least 0, got -1"),
    ],
)
def test_an_option_out_of_range_is_refused_as_by_a_training(tmp_path, option, sentence):
    name = option.partition(".")[0]
    path = {"folder": write_folder, "images": write_pictures}[name](tmp_path / name)
    done = run(path, "--set", option)
    assert done.exit_code == 2, done.output
    assert f"Error: {sentence}" in done.stderr
    given = ["--data", path, "--out", tmp_path / "out", "--method", "supervised", "--labels", "1"]
    trained = CliRunner().invoke(main, ["train", *map(str, given), "--set", option])
    assert trained.stderr == done.stderr


def test_what_is_no_dataset(tmp_path):
    assert run(tmp_path).exit_code == 2
    assert run(tmp_path, "--set", "la.spacing=1", "--dataset", "folder").exit_code == 2
