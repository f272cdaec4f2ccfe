"""``semisam auto`` on a folder of small scans: masks, tables, resumption, and what it refuses."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from click.testing import CliRunner
from pictures import picture, write_pictures
from scan_files import scan, write
from skimage.io import imread

import semisam
from semisam.automatic import flow, plan, shelf, survey
from semisam.cli.main import main
from semisam.core.errors import InputError
from semisam.core.layout import RESULT
from semisam.inference import masks as masks_of
from semisam.run import resolve

SIZE = (20, 18, 16)
TINY = {"budget": 1.0, "device": "cpu"}  # for which the shortest training is too long


@pytest.fixture(autouse=True, scope="module")
def _short():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "_LEAST", 2)
        yield


def _write_scans(folder):
    """Write two scans with a mask and two without."""
    for n in range(4):
        image, label = scan(n, SIZE, classes=2)
        write(folder / f"p{n}.nii.gz", image, (1.0, 1.0, 1.5))
        if n < 2:
            write(folder / f"p{n}_label.nii.gz", 7 * label, (1.0, 1.0, 1.5))
    return folder


@pytest.fixture
def scans(tmp_path):
    return _write_scans(tmp_path / "scans")


@dataclass(frozen=True)
class Made:
    """Folders of scans and of masks of a call that was stopped before its training and resumed.

    Attributes:
        early: names, masks and page of the stopped call, and its files of runs.
        before: the files of the scans before any call.
    """

    scans: Path
    masks: Path
    page: Path
    notes: list[str]
    early: tuple[dict[str, dict[str, str]], str, dict[Path, str]]
    before: dict[Path, str]


@pytest.fixture(scope="module")
def made(_short, tmp_path_factory):
    root = tmp_path_factory.mktemp("auto")
    scans, masks, notes = _write_scans(root / "scans"), root / "masks", []
    before = _state(scans)

    def stop(*args):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flow, "final_run", stop)
        with pytest.raises(KeyboardInterrupt):
            semisam.auto(scans, masks, **TINY, **OWN, note=lambda text: None)
    early = (
        _table(masks),
        (masks / "index.html").read_text(encoding="utf-8"),
        _state(masks / "runs"),
    )
    page = semisam.auto(scans, masks, **TINY, **OWN, note=notes.append)
    return Made(scans, masks, page, notes, early, before)


OWN = {"options": {"labels": {7: 1}}}


def _state(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _table(folder):
    with (folder / "volumes.csv").open() as file:
        return {row["scan"]: row for row in csv.DictReader(file)}


def test_masks_of_all_scans(made):
    scans, masks, page, notes = made.scans, made.masks, made.page, made.notes
    assert _state(scans) == made.before
    assert page.read_text(encoding="utf-8").count("data:image/jpeg") == 2
    assert {path.name for path in masks.glob("*.nii.gz")} == {"p2.nii.gz", "p3.nii.gz"}
    table = _table(masks)
    assert {name: row["mask"] for name, row in table.items()} == {
        "p0": "yours", "p1": "yours", "p2": "final", "p3": "final",
    }  # fmt: skip
    label = scan(0, SIZE, classes=2)[1]
    assert float(table["p0"]["ml"]) == pytest.approx(label.sum() * 1.5 / 1000)
    assert table["p0"]["predicted_dice"] == ""
    assert [table[f"p{n}"]["label_next"] for n in range(2)] == ["", ""]
    assert {table[f"p{n}"]["label_next"] for n in (2, 3)} == {"1", "2"}
    first = min(("p2", "p3"), key=lambda case: table[case]["label_next"])
    named = rf"{first}( \(slices k = \d+(, \d+)*\))?; "
    assert re.search(f"<b>To label next:</b> {named}", page.read_text(encoding="utf-8"))
    assert any(re.match(f"To label next: {named}", note) for note in notes)
    assert any("keeps the largest component only of: " in note for note in notes), notes
    for name in ("p2", "p3"):
        mask = sitk.GetArrayFromImage(sitk.ReadImage(str(masks / f"{name}.nii.gz")))
        slices = [int(at) for at in table[name]["slices_next"].split()]
        assert len(slices) == min(3, (mask > 0).any((1, 2)).sum())
        assert all(mask[at].any() for at in slices)
    assert 0 <= float(table["p2"]["dice_low"]) <= float(table["p2"]["predicted_dice"])
    (run,) = (masks / "runs").glob("*-final")
    found = semisam.load(run, "cpu").predict(scans / "p2.nii.gz").mask
    written = sitk.GetArrayFromImage(sitk.ReadImage(str(masks / "p2.nii.gz"))).T
    assert np.array_equal(found, written) and set(np.unique(written)) <= {0, 7}


def test_a_second_call_keeps_what_a_person_changed(made, tmp_path):
    scans, notes, label = made.scans, [], scan(0, SIZE, classes=2)[1]
    masks = shutil.copytree(made.masks, tmp_path / "masks")
    results = _state(masks / "runs")
    (masks / "p3.png").write_bytes(b"damaged")
    changed = write(masks / "p2.nii.gz", 7 * label, (1.0, 1.0, 1.5)).read_bytes()
    page = semisam.auto(scans, masks, **TINY, **OWN, note=notes.append)
    assert "data:image/jpeg" not in page.read_text(encoding="utf-8")
    assert _state(masks / "runs") == results
    assert (masks / "p2.nii.gz").read_bytes() == changed
    table = _table(masks)
    assert table["p2"]["mask"] == "changed by you"
    assert (table["p2"]["label_next"], table["p3"]["label_next"]) == ("", "1")
    assert any("Kept: p2 was changed" in note and "as p2_label.nii.gz" in note for note in notes)


def test_a_changed_mask_with_values_of_no_class_stops_nothing(made, tmp_path):
    masks, notes = shutil.copytree(made.masks, tmp_path / "masks"), []
    label = scan(0, SIZE, classes=2)[1]
    changed = write(masks / "p2.nii.gz", 3 * label, (1.0, 1.0, 1.5)).read_bytes()
    semisam.auto(made.scans, masks, **TINY, **OWN, note=notes.append)
    assert (masks / "p2.nii.gz").read_bytes() == changed
    assert any("p2 was changed" in note and "values of no class" in note for note in notes)
    assert "p2" not in _table(masks) and _table(masks)["p3"]["mask"] == "final"


def test_a_mask_that_a_person_changed_and_drew_again_stays(tmp_path):
    (tmp_path / "p2.nii.gz").write_bytes(b"mask")
    made = shelf.Shelf(tmp_path)
    made.finish("p2", shelf.Entry("p2.nii.gz", shelf.FINAL, "run"))
    (tmp_path / "p2.nii.gz").write_bytes(b"changed")
    assert not made.take_off("p2") and (tmp_path / "p2.nii.gz").read_bytes() == b"changed"
    assert "p2" in shelf.Shelf(tmp_path).entries


def test_a_mask_that_a_person_corrects_while_it_is_judged_stays(tmp_path):
    file, entry = tmp_path / "p2.nii.gz", shelf.Entry("p2.nii.gz", shelf.FINAL, "run")
    masks = shelf.Shelf(tmp_path)
    for text in (b"first", b"final"):
        masks.begin("p2", entry)  # before it is written, the one there is still known
        assert shelf.Shelf(tmp_path).is_ours("p2", file)
        (tmp_path / "temporary").write_bytes(text)
        masks.wrote("p2", tmp_path / "temporary")
        assert shelf.Shelf(tmp_path).is_ours("p2", file)  # stopped before the mask has its name
        (tmp_path / "temporary").rename(file)
        assert shelf.Shelf(tmp_path).is_ours("p2", file)
        first = replace(entry, stage=shelf.FIRST)
        assert not any(shelf.Shelf(tmp_path).holds("p2", e) for e in (entry, first))  # not judged
        if text == b"first":
            masks.finish("p2", entry)
            assert shelf.Shelf(tmp_path).holds("p2", entry)
    file.write_bytes(b"corrected")
    masks.finish("p2", entry)
    assert not shelf.Shelf(tmp_path).is_ours("p2", file)
    masks.begin("p2", entry)
    assert not shelf.Shelf(tmp_path).is_ours("p2", file)


def test_a_mask_that_a_person_saves_while_its_scan_is_segmented_stays(made, tmp_path, monkeypatch):
    masks, notes = shutil.copytree(made.masks, tmp_path / "masks"), []
    scans = shutil.copytree(made.scans, tmp_path / "scans")
    write(scans / "p4.nii.gz", scan(4, SIZE, classes=2)[0], (1.0, 1.0, 1.5))
    write(scans / "p3.nii.gz", scan(5, SIZE, classes=2)[0], (1.0, 1.0, 1.5))  # another p3
    drawn, segment, saved = 7 * scan(0, SIZE, classes=2)[1], masks_of.segment, {}

    def meanwhile(*about):
        found = segment(*about)
        case = f"p{3 + len(saved)}"
        saved[case] = write(masks / f"{case}.nii.gz", drawn, (1.0, 1.0, 1.5)).read_bytes()
        return found

    monkeypatch.setattr(masks_of, "segment", meanwhile)
    semisam.auto(scans, masks, **TINY, **OWN, note=notes.append)
    assert list(saved) == ["p3", "p4"]
    for case, content in saved.items():
        assert (masks / f"{case}.nii.gz").read_bytes() == content
        assert any(f"Kept: {case} was changed" in note for note in notes)
        assert _table(masks)[case]["mask"] == "changed by you"
    assert not list(masks.glob("*.tmp*")) and not list(masks.glob(".*.tmp*"))


def test_a_mask_that_a_person_puts_in_the_place_of_one_that_was_begun_stays(tmp_path):
    shelf.Shelf(tmp_path).begin("p2", shelf.Entry("p2.nii.gz", shelf.FIRST, "run"))
    (tmp_path / "p2.nii.gz").write_bytes(b"an hour of work")
    masks = shelf.Shelf(tmp_path)
    assert not masks.is_ours("p2", tmp_path / "p2.nii.gz")
    assert not masks.take_off("p2")
    assert (tmp_path / "p2.nii.gz").read_bytes() == b"an hour of work"


def test_each_budget_and_each_set_of_masks_finds_its_own_plan_again(scans, tmp_path, monkeypatch):
    """Runs that began with one plan would refuse another one of the same name."""
    measured = iter(range(1000, 2000, 20))

    def measure(data, plan, *about):
        return replace(plan, iterations=next(measured))

    monkeypatch.setattr(plan, "_measured", measure)
    masks = tmp_path / "masks"
    masks.mkdir()

    def planned(budget):
        data = survey.survey(scans, options={"labels": {7: 1}})
        given = {"budget": budget, "device": "cpu", "began": 0.0}
        found = plan.plan_for(data, masks, **given)
        plan.save_plan(found, masks)
        return found

    short, long = planned(30.0), planned(60.0)
    assert short.runs != long.runs
    assert planned(30.0) == short
    label = scans / "p1_label.nii.gz"
    label.rename(tmp_path / "kept.nii.gz")
    assert planned(30.0).runs != short.runs
    (tmp_path / "kept.nii.gz").rename(label)
    (masks / "plan.json").unlink()
    assert planned(60.0) == long
    monkeypatch.setattr(resolve, "RESULTS_VERSION", 999)
    assert planned(60.0).runs != long.runs


@pytest.mark.parametrize("text", ["", "[" * 100_000, "{}", '{"masks": {"p2": {"file": 5}}}'])
def test_damaged_records_are_noticed(tmp_path, text):
    for name in (shelf.RECORD, "plan.json"):
        (tmp_path / name).write_text(text)
    # Without its record a mask could not be told from one that a person changed.
    with pytest.raises(InputError, match="name another folder with -o"):
        shelf.Shelf(tmp_path)
    assert plan._known(tmp_path / "plan.json") is None


def test_more_masks_begin_another_run(made, scans, tmp_path):
    masks = shutil.copytree(made.masks, tmp_path / "masks")
    earlier = _state(masks / "runs")
    assert (masks / "p2.nii.gz").exists() and (masks / "p2.png").exists()
    write(scans / "p2_label.nii.gz", 7 * scan(2, SIZE, classes=2)[1], (1.0, 1.0, 1.5))
    semisam.auto(scans, masks, **TINY, **OWN, note=lambda text: None)
    assert earlier.items() <= _state(masks / "runs").items()
    assert len(list((masks / "runs").glob(f"*/{RESULT}"))) == 4
    assert {name: row["mask"] for name, row in _table(masks).items()} == {
        "p0": "yours", "p1": "yours", "p2": "yours", "p3": "final",
    }  # fmt: skip
    # A prediction for a scan that has a mask now would be taken for that mask.
    assert not (masks / "p2.nii.gz").exists() and not (masks / "p2.png").exists()


def test_a_new_scan_gets_a_mask_of_the_trained_network(made, tmp_path):
    scans, notes = shutil.copytree(made.scans, tmp_path / "scans"), []
    masks = shutil.copytree(made.masks, tmp_path / "masks")
    earlier = {path: kept for path, kept in _state(masks).items() if path.name != "p3.nii.gz"}
    write(scans / "p4.nii.gz", scan(4, SIZE, classes=2)[0], (1.0, 1.0, 1.5))
    write(scans / "p3.nii.gz", scan(5, SIZE, classes=2)[0], (1.0, 1.0, 1.5))  # another p3
    semisam.auto(scans, masks, **{**TINY, "budget": 0.5}, **OWN, note=notes.append)
    assert any("the network of an earlier call stays" in note for note in notes)
    now, kept = _state(masks), masks / "runs"
    assert {path for path in now if kept in path.parents} == {
        path for path in earlier if kept in path.parents
    }
    assert now[masks / "p2.nii.gz"] == earlier[masks / "p2.nii.gz"]
    assert now[masks / "p3.nii.gz"] != _state(made.masks)[made.masks / "p3.nii.gz"]
    assert {name: row["mask"] for name, row in _table(masks).items()} == {
        "p0": "yours", "p1": "yours", "p2": "final", "p3": "final", "p4": "final",
    }  # fmt: skip
    assert _table(masks)["p4"]["predicted_dice"]


def test_a_larger_budget_trains_again(made, tmp_path):
    masks, notes = shutil.copytree(made.masks, tmp_path / "masks"), []
    semisam.auto(
        made.scans, masks, **{**TINY, "budget": 2.0}, **OWN, dry_run=True, note=notes.append
    )
    assert any("from a few real steps" in note for note in notes)


def test_a_stopped_call_resumes_and_first_masks_are_there(made):
    table, page, runs = made.early
    assert table["p3"]["mask"] == "first" and "made without a training" in page
    assert runs.items() <= _state(made.masks / "runs").items()
    assert _table(made.masks)["p3"]["mask"] == "final"


def test_a_resumed_call_states_what_is_left(made, tmp_path):
    """Of the first run and its masks nothing is, and of the training what its checkpoint lacks."""
    masks, notes = shutil.copytree(made.masks, tmp_path / "masks"), []
    (final,) = (masks / "runs").glob("*-final")
    (final / RESULT).unlink()
    (final / "checkpoint.json").write_text('{"step": 1}')
    semisam.auto(made.scans, masks, **TINY, **OWN, dry_run=True, note=notes.append)
    at = notes.index("What is left of the plan of the call that was stopped:")
    assert not any(re.search("adapt|first masks|check|of a budget", note) for note in notes[at:])
    before = plan._known(masks / "plan.json")
    data = survey.survey(made.scans, options={"labels": {7: 1}})
    left = plan.left_of(before, data, masks, lambda run: 1)
    assert left.seconds == {
        **dict.fromkeys(before.seconds, 0.0),
        "train": before.seconds["train"] * (1 - 1 / before.iterations),
        "masks": before.seconds["masks"],
    }
    (final / RESULT).write_text("{}")
    left = plan.left_of(before, data, masks, lambda run: 1)
    assert left.seconds == {**dict.fromkeys(before.seconds, 0.0), "masks": left.total}
    assert left.total == before.seconds["masks"] / 2 and left.scans == 1


def test_a_dry_run_prints_the_plan_and_writes_nothing(scans, tmp_path):
    args = ["auto", str(scans), "-o", str(tmp_path / "masks"), "--dry-run", "--budget", "30m"]
    result = CliRunner().invoke(main, [*args, "--set", "folder.labels=7=1", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert "4, 2 with a mask and 2 without" in result.output
    assert "of a budget of 30 min" in result.output and "iterations" in result.output
    assert not (tmp_path / "masks").exists()
    result = CliRunner().invoke(main, [*args[:-1], "soon"])
    assert result.exit_code == 2 and "such as 90s, 30m" in result.stderr


def test_an_interrupt_anywhere_names_the_way_on(scans, tmp_path, monkeypatch):
    def stop(*args, **given):
        raise KeyboardInterrupt

    monkeypatch.setattr(flow, "plan_for", stop)
    result = CliRunner().invoke(
        main, ["auto", str(scans), "-o", str(tmp_path / "m"), "--set", "folder.labels=7=1"]
    )
    assert result.exit_code == 130 and "Run the same command again to resume." in result.stderr


def test_faults_stop_it_or_their_cases_are_left_out(scans, tmp_path):
    (scans / "p1.nii.gz").write_bytes(b"damaged")
    (scans / "more").mkdir()
    with pytest.raises(InputError, match="--skip-faulty leaves"):
        semisam.auto(scans, tmp_path / "masks", **TINY, **OWN, dry_run=True)
    notes = []
    semisam.auto(
        scans, tmp_path / "masks", **TINY, **OWN,
        dry_run=True, skip_faulty=True, note=notes.append,
    )  # fmt: skip
    assert any("Scans: 3, 1 with a mask" in note for note in notes)
    assert "Left out, not scans (1): more/" in notes
    assert any("Left out:" in note and "p1.nii.gz" in note for note in notes)


def test_folders_that_cannot_be_used(scans, tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(InputError, match="output folder must be writable"),
    ):
        patch.setattr(flow, "survey", None)  # before any scan is read
        semisam.auto(scans, tmp_path / "file" / "masks", **TINY, **OWN)
    with pytest.raises(InputError, match="outside the folder of scans"):
        semisam.auto(scans, scans / "out", **TINY, **OWN)
    for n in (0, 1):
        (scans / f"p{n}_label.nii.gz").unlink()
    with pytest.raises(InputError, match=r"got none for 4 scans.* Label these first") as refused:
        semisam.auto(scans, tmp_path / "masks", **TINY)
    assert set(re.findall(r"p\d", str(refused.value).split("resemble them")[1])) == {
        "p0", "p1", "p2", "p3",
    }  # fmt: skip
    assert not (tmp_path / "masks").exists()


def test_an_audit_trains_without_each_mask(scans, tmp_path):
    masks, notes = tmp_path / "masks", []
    with pytest.raises(InputError, match="at least 3 masks, got 2"):
        semisam.auto(scans, masks, **TINY, **OWN, audit=True)
    write(scans / "p2_label.nii.gz", 7 * scan(2, SIZE, classes=2)[1], (1.0, 1.0, 1.5))
    page = semisam.auto(scans, masks, **TINY, **OWN, audit=True, note=notes.append)
    runs = masks / "runs"
    for case in ("p0", "p1", "p2"):
        (run,) = runs.glob(f"*-final-without-{case}")
        split = json.loads((run / "split.json").read_text())
        assert split["test"] == [case] and case not in split["labeled"]
        assert len(split["labeled"]) == 2
    assert any("corrected by 3 true ones" in note for note in notes)
    assert "corrected by 3 true ones" in page.read_text(encoding="utf-8")


def test_pictures_get_masks_as_pictures(tmp_path):
    write_pictures(tmp_path / "scans", folders=False)
    (tmp_path / "scans" / "p2_4_mask.png").unlink()
    masks = tmp_path / "masks"
    page = semisam.auto(tmp_path / "scans", masks, **TINY, note=lambda text: None)
    assert page.read_text(encoding="utf-8").count("data:image/jpeg") == 2
    assert "for example that of p2_4 as p2_4_label.png" in page.read_text(encoding="utf-8")
    assert {path.name for path in masks.glob("p*.png")} == {
        "p2_4.png", "p2_4.preview.png", "p2_5.png", "p2_5.preview.png",
    }  # fmt: skip
    mask = imread(masks / "p2_5.png")
    assert mask.shape == picture(5)[1].T.shape and set(np.unique(mask)) <= {0, 255}
    assert _table(masks)["p2_4"]["pixels"]


@pytest.mark.parametrize("budget", ["30m", 0, -3, math.nan])
def test_a_budget_is_seconds(tmp_path, budget):
    with pytest.raises(InputError, match="budget must be seconds above 0"):
        semisam.auto(tmp_path, tmp_path / "masks", budget=budget, dry_run=True)
