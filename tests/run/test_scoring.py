"""A trained run, or a published checkpoint, and the scans to score it on."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from scan_files import SIZE, scan, write
from tiny_la import write_tiny_la
from tiny_runs import TINY_NET

from semisam.cli.main import main
from semisam.core.errors import InputError
from semisam.data.images.preprocessing import Recipe
from semisam.inference.card import Card
from semisam.inference.components import EVERY, OneComponent
from semisam.run.build import open_folder
from semisam.run.scoring import open_scored, prepare_as

TINY = ("--patch", "32x32x32", "--stride", "16x32x32", "--iterations", "1", "--device", "cpu")
TINY += (*TINY_NET, "--labels", "1", "--method", "supervised")


def folder(path, labeled=3, classes=3, spacing=(1.0, 1.0, 1.0), names=("organ", "lesion")):
    for n in range(labeled + 1):
        image, label = scan(n, SIZE[: len(spacing)], classes=classes)
        write(path / f"p{n}.nii.gz", image, spacing, (0.0,) * len(spacing))
        if n < labeled:
            write(path / f"p{n}_label.nii.gz", label, spacing, (0.0,) * len(spacing))
    (path / "classes.list").write_text("\n".join(names[: classes - 1]) + "\n")
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
    assert not scored.model.training and scored.one_component == OneComponent((1, 2))


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
    assert open_scored(str(out), "cpu").one_component.classes == ()


def test_another_window_has_the_stride_of_the_protocol(trained):
    scored = open_scored(str(trained), "cpu", patch=(112, 112, 80), components="all")
    assert scored.stride == (37, 37, 26) and scored.one_component == EVERY


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


def test_scans_are_prepared_as_for_the_training(tmp_path):
    """The options of the run, and not the spacing of the scans that the folder holds now."""
    scans, out = folder(tmp_path / "scans", classes=2), tmp_path / "run"
    command = ["train", "--data", str(scans), "--out", str(out), *TINY, "--test", "p1"]
    options = ("modality=ct", "window=0,100", "crop=body")
    done = CliRunner().invoke(main, [*command, *(f"--set=folder.{text}" for text in options)])
    assert done.exit_code == 0, done.output
    trained_on = Recipe((1.0, 1.0, 1.0), ("ct",), (0.0, 100.0), "body")
    image = open_scored(str(out), "cpu").dataset.image("p1")
    for n in range(4, 12):
        for array, end in zip(scan(n, classes=2), ("", "_label"), strict=True):
            write(scans / f"p{n}{end}.nii.gz", array, (2.0, 2.0, 2.0))
    dataset = open_scored(str(out), "cpu").dataset
    assert dataset.recipe == trained_on
    assert np.array_equal(dataset.image("p1").array, image.array)
    other = folder(tmp_path / "other", classes=2, spacing=(2.0, 2.0, 2.0))
    dataset = open_scored(str(out), "cpu", data=str(other)).dataset
    assert dataset.recipe == trained_on and dataset.image("p0").geometry.spacing == (1.0, 1.0, 1.0)


def test_images_that_are_made_already_must_be_those_of_the_model(tmp_path):
    scans, fast = folder(tmp_path / "scans"), tmp_path / "fast"
    done = CliRunner().invoke(main, ["data", "prepare", str(scans), str(fast)])
    assert done.exit_code == 0, done.output
    own = Recipe((1.0, 1.0, 1.0), ("mr",))
    names = ("background", "organ", "lesion")
    prepare_as(open_folder(fast), Card(1, names, (1.0, 1.0, 1.0), "LPS", own))
    other = Card(1, names, (2.0, 2.0, 2.0), "LPS", Recipe((2.0, 2.0, 2.0), ("mr",), crop="none"))
    with pytest.raises(InputError, match="those of the model, got another spacing and crop in"):
        prepare_as(open_folder(fast), other)
    la = open_folder(write_tiny_la(tmp_path / "la"))
    with pytest.raises(InputError, match="got another preparation in"):
        prepare_as(la, other)
    normalised = Card(1, ("background", "left atrium"), (0.625,) * 3)
    prepare_as(la, normalised)
    dataset = open_folder(scans)  # as `predict` prepares it for such a model
    prepare_as(dataset, normalised)
    assert dataset.recipe == Recipe((0.625,) * 3, ("mr",), crop="none")


def test_classes_must_have_the_names_of_the_models(trained, tmp_path):
    other = folder(tmp_path / "exchanged", names=("lesion", "organ"))
    said = "the same order, organ, lesion, got lesion, organ. Correct the names"
    with pytest.raises(InputError, match=said):
        open_scored(str(trained), "cpu", data=str(other))
    other = folder(tmp_path / "others", names=("organ", "vessel"))
    with pytest.raises(InputError, match="organ, lesion, got organ, vessel"):
        open_scored(str(trained), "cpu", data=str(other))


def test_a_class_without_a_name_may_be_that_of_the_model(tmp_path):
    scans, out = folder(tmp_path / "scans", classes=2), tmp_path / "run"
    done = CliRunner().invoke(main, ["train", "--data", str(scans), "--out", str(out), *TINY])
    assert done.exit_code == 0, done.output
    (scans / "classes.list").unlink()
    assert open_scored(str(out), "cpu", data=str(scans)).dataset.class_names[1] == "foreground"


def test_other_channels_and_axes_are_one_sentence(trained, tmp_path):
    flat = folder(tmp_path / "flat", spacing=(1.0, 1.0))
    with pytest.raises(InputError, match="must have the model's 3 axes, got 2"):
        open_scored(str(trained), "cpu", data=str(flat))
    two = folder(tmp_path / "two")
    for n in range(4):
        image, _ = scan(n)
        write(two / f"p{n}.nii.gz", np.stack([image, image]))
    with pytest.raises(InputError, match=r"must have the model's 1 channel\(s\), got 2"):
        open_scored(str(trained), "cpu", data=str(two))
