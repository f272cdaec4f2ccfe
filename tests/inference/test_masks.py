"""Ensembles, masks that are there, and the table of volumes, through the command line."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from click.testing import CliRunner
from scan_files import scan as scan_of
from scan_files import write, write_series
from tiny_runs import tiny_phantoms

import semisam
from semisam.cli.main import main
from semisam.core.errors import InputError
from semisam.data.datasets.pairing import holds_labels_of
from semisam.data.images.preprocessing import Recipe
from semisam.inference.masks import write_masks
from semisam.inference.predictor import ensemble
from semisam.run.execute import execute
from semisam.run.model import load_model


def _train(folder, seed=0, **options):
    data = {"cases": 2, "test_cases": 1, "size": 32, **options}
    execute(tiny_phantoms(dataset_options=data, seed=seed), folder)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of one study, which no test changes."""
    folder = tmp_path_factory.mktemp("runs")
    return [_train(folder / f"seed{seed}", seed) for seed in (0, 1)]


@pytest.fixture
def scan(tmp_path):
    array = np.random.default_rng(0).normal(100, 20, (20, 18, 16)).astype(np.float32)
    return write(tmp_path / "scan.nii.gz", array, (1.0, 1.0, 2.5))


def _invoke(*args):
    return CliRunner().invoke(main, [str(arg) for arg in args])


def test_an_ensemble_is_the_mean_of_its_runs(runs, scan):
    one, two = (semisam.load(run).predict(scan).probabilities for run in runs)
    both = semisam.load(runs).predict(scan).probabilities
    assert not np.array_equal(one, two)
    np.testing.assert_allclose(both, (one + two) / 2, atol=1e-6)


def test_leading_runs_of_a_command_are_an_ensemble(runs, scan, tmp_path):
    result = _invoke("predict", *runs, scan, "-o", tmp_path / "masks", "--probabilities")
    assert result.exit_code == 0, result.output
    assert f"Mean of 2 runs: {runs[0].name}, {runs[1].name}" in result.output
    (path,) = (tmp_path / "masks").glob("*.probability.nii.gz")
    written = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).T
    both = semisam.load(runs).predict(scan).probabilities[1]
    np.testing.assert_allclose(written, both, atol=1e-6)


def test_runs_of_other_classes_are_refused(runs, scan, tmp_path):
    other = _train(tmp_path / "three", classes=3)
    result = _invoke("predict", runs[0], other, scan, "-o", tmp_path / "masks")
    assert result.exit_code == 2
    assert "the same classes and preparation" in result.stderr
    assert "class_names" in result.stderr and not (tmp_path / "masks").exists()
    with pytest.raises(InputError, match="at least one run"):
        semisam.load([])


def test_folds_of_pictures_with_other_spacings_are_an_ensemble(runs):
    """With a recipe, the spacing of a card is that of one of the training images."""
    recipe = Recipe(None, ("mr",), crop="none", longest=256)
    one, two = (load_model(run) for run in runs)
    one, two = (
        dataclasses.replace(m, card=dataclasses.replace(m.card, recipe=recipe)) for m in (one, two)
    )
    coarse = dataclasses.replace(two.card, spacing=(2.0, 2.0, 2.0))
    two = dataclasses.replace(two, card=coarse)
    assert ensemble({"a": one, "b": two}).card == one.card
    other = dataclasses.replace(coarse, recipe=dataclasses.replace(recipe, longest=128))
    with pytest.raises(InputError, match="another recipe in b than in a"):
        ensemble({"a": one, "b": dataclasses.replace(two, card=other)})
    bare = [
        dataclasses.replace(m, card=dataclasses.replace(m.card, recipe=None)) for m in (one, two)
    ]
    with pytest.raises(InputError, match="another spacing in b than in a"):
        ensemble({"a": bare[0], "b": bare[1]})


def test_a_mask_that_is_there_is_kept(runs, scan, tmp_path):
    mask = np.zeros((20, 18, 16), np.uint8)
    mask[:4, :5, :10] = 1
    drawn = write(tmp_path / "masks" / "scan.nii.gz", mask, (1.0, 1.0, 2.5))
    before, table = drawn.read_bytes(), tmp_path / "ml.csv"
    keep = ("--skip-existing", "--csv", table)
    result = _invoke("predict", runs[0], scan, "-o", tmp_path / "masks", *keep)
    assert result.exit_code == 0, result.output
    assert "1 were there before" in result.output
    assert drawn.read_bytes() == before
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert rows == [{"scan": "scan", "class": "atrium", "voxels": "200", "ml": "0.5"}]
    write(drawn, mask * 7)
    result = _invoke("predict", runs[0], scan, "-o", tmp_path / "masks", *keep)
    assert result.exit_code == 2 and "the values of the model's classes" in result.stderr


def test_a_mask_that_is_there_is_replaced_only_if_it_is_told_to(runs, scan, tmp_path):
    file = tmp_path / "masks" / "scan.nii.gz"
    file.parent.mkdir()
    file.write_bytes(b"an hour of work")
    args = ("predict", runs[0], scan, "-o", tmp_path / "masks")
    result = _invoke(*args)
    assert result.exit_code == 2 and "with scan.nii.gz. Name another, keep" in result.stderr
    result = _invoke(*args, "--overwrite", "--skip-existing")
    assert result.exit_code == 2 and "must come without --skip-existing" in result.stderr
    assert file.read_bytes() == b"an hour of work"
    result = _invoke(*args, "--overwrite")
    assert result.exit_code == 0, result.output
    assert file.read_bytes() != b"an hour of work"


@pytest.mark.parametrize(
    ("flag", "name"),
    [("--probabilities", "scan.atrium.probability.nii.gz"), ("--preview", "scan.png")],
)
def test_further_outputs_are_replaced_only_if_it_is_told_to(runs, scan, tmp_path, flag, name):
    file = tmp_path / "masks" / name
    file.parent.mkdir()
    file.write_bytes(b"an hour of work")
    args = ("predict", runs[0], scan, "-o", tmp_path / "masks")
    result = _invoke(*args, flag)
    assert result.exit_code == 2 and f"with {name}. Name another" in result.stderr
    assert file.read_bytes() == b"an hour of work"
    result = _invoke(*args)
    assert result.exit_code == 0, result.output
    assert file.read_bytes() == b"an hour of work"
    result = _invoke(*args, flag, "--overwrite")
    assert result.exit_code == 0, result.output
    assert file.read_bytes() != b"an hour of work"


def test_a_table_holds_a_scan_whose_name_is_no_utf_8(runs, scan, tmp_path):
    odd = tmp_path / "p\udcff.nii.gz"
    try:
        scan.rename(odd)
    except OSError:
        pytest.skip("the file system takes names in UTF-8 only")
    table = tmp_path / "ml.csv"
    result = _invoke("predict", runs[0], odd, "-o", tmp_path / "masks", "--csv", table)
    assert result.exit_code == 0, result.output
    with table.open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row["scan"] == r"p\udcff"


def test_no_mask_is_written_where_it_would_count_as_a_label(runs, scan, tmp_path):
    scans = tmp_path / "scans"
    scans.mkdir()
    scan.rename(scans / "scan.nii.gz")
    for out in (scans, scans / "masks"):
        result = _invoke("predict", runs[0], scans, "-o", out)
        assert result.exit_code == 2 and "outside the folder of scans" in result.stderr
    assert [path.name for path in scans.iterdir()] == ["scan.nii.gz"]
    more = [scans / f"{name}.nii.gz" for name in "ab"]
    for path in more:
        path.write_bytes((scans / "scan.nii.gz").read_bytes())
    result = _invoke("predict", runs[0], *more, "-o", scans / "labels")
    assert result.exit_code == 2 and "where labels of these scans belong" in result.stderr
    result = _invoke("predict", runs[0], *more, "-o", scans / "predicted")
    assert result.exit_code == 0, result.output


def test_scored_masks_replace_no_file_and_count_as_no_label(runs, tmp_path):
    scans, other = tmp_path / "scans", tmp_path / "other"
    for n in range(4):
        for name, array in zip(("", "_label"), scan_of(n, (32, 32, 24), classes=2), strict=True):
            write(scans / f"p{n}{name}.nii.gz", array)
    before = {path: path.read_bytes() for path in scans.iterdir()}
    score = ("evaluate", runs[0], "--data", scans, "--out", tmp_path / "a.csv")
    for folder in (scans, scans / "masks"):
        result = _invoke(*score, "--save-predictions", folder)
        assert result.exit_code == 2 and "outside the folder of scans" in result.stderr
        assert "Name another folder with --save-predictions" in result.stderr
    assert {path: path.read_bytes() for path in scans.iterdir()} == before
    result = _invoke(*score, "--save-predictions", other)
    assert result.exit_code == 0, result.output
    written = next(other.iterdir())
    written.write_bytes(b"an hour of work")
    (tmp_path / "a.csv").unlink()
    result = _invoke(*score, "--save-predictions", other)
    assert result.exit_code == 2 and f"with {written.name}. Name another folder" in result.stderr
    assert written.read_bytes() == b"an hour of work" and not (tmp_path / "a.csv").exists()


@pytest.mark.parametrize(
    ("scan", "folder", "expected"),
    [
        ("a/b.nii.gz", "a/masks", True),
        ("a/images/b.nii.gz", "a/labels", True),
        ("a/imagesTr/b.nii.gz", "a/labelsTr", True),
        ("a/b.nii.gz", "a/predicted", False),
        ("a/b.nii.gz", "masks", False),
        ("a/images/b.nii.gz", "a/images/masks", False),
    ],
)
def test_the_folder_of_a_scans_label_is_known_by_its_place(scan, folder, expected):
    assert holds_labels_of(Path(scan), Path(folder)) is expected


@pytest.mark.parametrize(
    ("scans", "folder", "expected"),
    [
        ("images", "labels", True),
        ("images/anna", "labels", False),
        ("images/series", "labels", True),
        ("scans/series", "scans/masks", True),
        ("scans/series", "masks", False),
        ("scans", "masks", False),
    ],
)
def test_the_folder_of_the_labels_of_a_folder_is_known_by_its_place(
    tmp_path, scans, folder, expected
):
    if scans.endswith("series"):
        write_series(tmp_path / scans, np.zeros((4, 4, 3), np.int16), (1.0, 1.0, 1.0))
    else:
        (tmp_path / scans).mkdir(parents=True)
    assert holds_labels_of(tmp_path / scans, tmp_path / folder) is expected


def test_a_mask_is_noted_before_it_has_its_name(runs, scan, tmp_path):
    noted = []

    def stop(name, temporary):
        noted.append((name, temporary.is_file(), (tmp_path / "scan.nii.gz").exists()))
        raise KeyboardInterrupt

    source = {"mask": (scan,)}
    with pytest.raises(KeyboardInterrupt):
        list(write_masks(load_model(runs[0]), source, tmp_path / "masks", on_mask=stop))
    assert noted == [("mask", True, True)] and not list((tmp_path / "masks").iterdir())


def test_the_table_holds_the_written_masks(runs, scan, tmp_path):
    before = scan.read_bytes()
    result = _invoke("predict", runs[0], scan, "-o", tmp_path / "masks", "--csv", scan)
    assert result.exit_code == 2 and "--csv must end in .csv" in result.stderr
    assert scan.read_bytes() == before
    table = tmp_path / "new" / "ml.csv"
    result = _invoke("predict", runs[0], scan, "-o", tmp_path / "masks", "--csv", table)
    assert result.exit_code == 0, result.output
    mask = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "masks" / "scan.nii.gz")))
    with table.open() as file:
        (row,) = csv.DictReader(file)
    assert int(row["voxels"]) == mask.sum()
    assert float(row["ml"]) == pytest.approx(mask.sum() * 2.5 / 1000)


def test_scans_must_follow_the_runs(runs, tmp_path):
    result = _invoke("predict", *runs, "-o", tmp_path / "masks")
    assert result.exit_code == 2 and "must be named after the run" in result.stderr
