"""A trained run, or a published checkpoint, and the scans to score it on."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from scan_files import scan, write
from tiny_runs import TINY_NET

from semisam.cli.main import main
from semisam.core.errors import InputError
from semisam.run.scoring import open_scored

TINY = ("--patch", "32x32x32", "--stride", "16x32x32", "--iterations", "1", "--device", "cpu")
TINY += (*TINY_NET, "--labels", "1", "--method", "supervised")


def folder(path, labeled=3, classes=3):
    for n in range(labeled + 1):
        image, label = scan(n, classes=classes)
        write(path / f"p{n}.nii.gz", image)
        if n < labeled:
            write(path / f"p{n}_label.nii.gz", label)
    names = ("organ", "lesion")[: classes - 1]
    (path / "classes.list").write_text("\n".join(names) + "\n")
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    place = tmp_path_factory.mktemp("scored")
    scans, out = folder(place / "scans"), place / "run"
    command = ["train", "--data", str(scans), "--out", str(out), *TINY, "--test", "p1"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    return out


def test_a_run_is_scored_on_its_own_test_cases(trained):
    scored = open_scored(str(trained), "cpu")
    assert scored.test == ("p1",) == tuple(json.loads((trained / "split.json").read_text())["test"])
    assert scored.patch == (32, 32, 32) and scored.stride == (16, 32, 32)
    assert scored.target == trained / "evaluation.csv"
    assert not scored.model.training and scored.one_component == (1, 2)


def test_a_run_keeps_its_test_cases_as_more_scans_are_labeled(tmp_path):
    """Another test would be drawn, of scans that the run was trained on."""
    scans, out = folder(tmp_path / "scans", labeled=4), tmp_path / "run"
    command = ["train", "--data", str(scans), "--out", str(out), *TINY, "--test", "4-fold"]
    done = CliRunner().invoke(main, [*command, "--fold", "2"])
    assert done.exit_code == 0, done.output
    (case,) = json.loads((out / "split.json").read_text())["test"]
    for n in range(5, 11):
        image, label = scan(n, classes=3)
        write(scans / f"p{n}.nii.gz", image)
        write(scans / f"p{n}_label.nii.gz", label)
    assert open_scored(str(out), "cpu").test == (case,)
    (scans / f"{case}_label.nii.gz").unlink()
    with pytest.raises(InputError, match=f"got none with a label for {case}"):
        open_scored(str(out), "cpu")


def test_partly_annotated_masks_say_nothing_about_components(tmp_path):
    """Of two equal organs one is annotated; the largest component would be half a prediction."""
    scans = folder(tmp_path / "scans", classes=2)
    for n in range(3):
        label = np.zeros((24, 24, 16), np.uint8)
        label[2:8, 4:10, 4:10] = label[16:22, 4:10, 4:10] = 1
        label[12:] = 9
        write(scans / f"p{n}.nii.gz", scan(n, label.shape)[0])
        write(scans / f"p{n}_label.nii.gz", label)
    (scans / "p3.nii.gz").unlink()
    out = tmp_path / "run"
    command = ["train", "--data", str(scans), "--out", str(out), *TINY, "--test", "p1"]
    done = CliRunner().invoke(main, [*command, "--set", "folder.ignore=9"])
    assert done.exit_code == 0, done.output
    assert open_scored(str(out), "cpu").one_component == ()


def test_another_window_has_the_stride_of_the_protocol(trained):
    scored = open_scored(str(trained), "cpu", patch=(112, 112, 80), components="all")
    assert scored.stride == (37, 37, 26) and scored.one_component == ()


def test_other_scans_have_their_own_test_cases(trained, tmp_path):
    other = folder(tmp_path / "others", labeled=2)
    (other / "test.list").write_text("p0\n")
    assert open_scored(str(trained), "cpu", data=str(other)).test == ("p0",)


def test_what_cannot_be_scored(trained, tmp_path):
    fewer = folder(tmp_path / "fewer", classes=2)
    with pytest.raises(InputError, match="must have the data's 2 classes, got 3"):
        open_scored(str(trained), "cpu", data=str(fewer))
    (tmp_path / "a.pth").write_bytes(b"")
    with pytest.raises(InputError, match="must come with --data and --patch"):
        open_scored(str(tmp_path / "a.pth"), "cpu")
    one = folder(tmp_path / "one", labeled=1)
    with pytest.raises(InputError, match="must have test cases"):
        open_scored(str(trained), "cpu", data=str(one))
