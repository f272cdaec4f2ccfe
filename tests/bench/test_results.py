"""Rows of finished runs and their comparison, whatever the files of other runs hold."""

from __future__ import annotations

import json
import shutil

import pandas as pd
import pytest
from click.testing import CliRunner
from tiny_runs import settings_of

from semisam.bench.ranking import with_ranks
from semisam.bench.results import TABLE_METRICS, collect, collect_cases, comparison
from semisam.bench.sections import method_name, sections
from semisam.bench.tables import best_lines, cells, in_competition, load, runs_lines
from semisam.cli.main import main
from semisam.run import resolve
from semisam.run.folder import list_runs
from semisam.run.settings import RESULTS_VERSION


def _run(folder, dice=0.5, **given):
    """Write what a finished run leaves, and return its result."""
    settings = settings_of(**{"labels": 1, "dataset": "la", **given})
    metrics = dict.fromkeys((*TABLE_METRICS, "hd95_mm", "asd_mm"), 1.0)
    result = {
        "settings": settings.model_dump(mode="json"),
        "run": folder.name,
        "data": {"dataset": "la", "labeled": 1, "unlabeled": 3, "labeled_cases": ["a"]},
        "metrics": {**metrics, "dice": dice, "empty_predictions": 1},
        "training": {},
        "cost": {"train_seconds": 1.0, "peak_memory_gib": 1.0},
        "versions": {},
    }
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(result))
    scores = {"case": "x", "class": "y", **dict.fromkeys(TABLE_METRICS, 1.0), "dice": dice}
    pd.DataFrame([scores]).to_csv(folder / "cases.csv", index=False)
    return result


def _table(folder):
    runs = list_runs(folder)
    return comparison(collect(runs), collect_cases(runs))


def test_a_row_is_compared_with_the_best_bare_row_of_its_scans(tmp_path):
    dice = {("mt", "none"): 0.5, ("supervised", "none"): 0.7, ("mt", "geodesic"): 0.65}
    for (method, sam), value in dice.items():
        _run(tmp_path / f"{method}-{sam}", value, method=method, sam=sam)
    _run(tmp_path / "other", 0.9, method="dtc", sam="none", labels=2)
    _run(tmp_path / "subset", 0.9, method="dtc", sam="none", subset=1)
    row = next(row for row in _table(tmp_path).to_dict("records") if row["sam"] != "none")
    assert row["best_bare"] == "supervised" and row["over_best"] == pytest.approx(-5)
    assert row["gain_dice"] == pytest.approx(15)
    assert best_lines(_table(tmp_path)) == [
        "mt + SemiSAM (geodesic), 1/3: -5.00 against supervised, the best row without SAM."
    ]


def test_the_table_averages_runs_and_pairs_the_gain(tmp_path):
    values = {
        ("none", 0): 0.5,
        ("none", 1): 0.6,
        ("geodesic", 0): 0.7,
        ("geodesic", 1): 0.65,
        ("geodesic", 2): 0.1,  # no bare run of seed 2: not in the gain
    }
    for (sam, seed), dice in values.items():
        _run(tmp_path / f"{sam}-{seed}", dice, sam=sam, seed=seed)
    bare, sam = _table(tmp_path).to_dict("records")
    assert (bare["sam"], sam["sam"]) == ("none", "geodesic")
    assert bare["dice"] == pytest.approx(55) and bare["dice_sd"] == pytest.approx(50**0.5)
    assert sam["gain_dice"] == pytest.approx((20 + 5) / 2)
    assert sam["empty"] == 3 and sam["runs"] == 3


def test_departures_and_choices_are_the_recorded_ones(tmp_path, monkeypatch):
    """A later protocol must not change what a finished run is said to have departed from."""
    given = {"sam": "geodesic", "sam_options": {"radius": 7.0}, "iterations": 7}
    settings = _run(tmp_path / "run", **given)["settings"]
    assert settings["departures"] == ["iterations=7"]
    assert settings["choices"] == ["geodesic.radius=7.0"]
    monkeypatch.setattr(resolve, "PROTOCOLS", {})
    (row,) = _table(tmp_path).to_dict("records")
    assert (row["departures"], row["choices"]) == ("iterations=7", "geodesic.radius=7.0")


def test_runs_of_another_results_version_are_another_row_without_a_common_gain(
    tmp_path, monkeypatch
):
    _run(tmp_path / "old")
    monkeypatch.setattr(resolve, "RESULTS_VERSION", 999)
    _run(tmp_path / "new")
    _run(tmp_path / "sam", sam="geodesic")
    table = _table(tmp_path)
    assert table["runs"].tolist() == [1, 1, 1]
    assert table["gain_dice"].notna().tolist() == [False, False, True]
    versions = {text.split("; ")[-1] for text in table["made_by"]}
    assert versions == {f"results {RESULTS_VERSION}", "results 999"}


def test_other_methods_of_another_results_version_are_apart_too(tmp_path, monkeypatch):
    _run(tmp_path / "old", method="mt", sam="none")
    monkeypatch.setattr(resolve, "RESULTS_VERSION", 999)
    _run(tmp_path / "new", method="dtc", sam="none")
    assert len(sections(_table(tmp_path))) == 2


def test_runs_of_other_weights_are_another_row(tmp_path):
    for name, text in (("one", "first"), ("two", "second")):
        weights = tmp_path / f"{name}.safetensors"
        weights.write_text(text)
        options = {"weights": str(weights)}
        _run(tmp_path / "runs" / name, sam="synthsam", sam_options=options)
    table = _table(tmp_path)
    assert len(set(table["made_by"])) == 2 and len(sections(table)) == 1
    assert len({method_name(row) for row in table.to_dict("records")}) == 2


def _deep(result):
    return "[" * 100_000


def _without(*path):
    def change(result):
        place = result
        for name in path[:-1]:
            place = place[name]
        del place[path[-1]]
        return json.dumps(result)

    return change


def _with(value, *path):
    def change(result):
        place = result
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = value
        return json.dumps(result)

    return change


DAMAGE = {
    "deep": _deep,
    "empty": lambda result: "",
    "an empty object": lambda result: "{}",
    "a list": lambda result: "[]",
    "not UTF-8": lambda result: b"\xff\xfe{",
    "cut off": lambda result: json.dumps(result)[:-20],
    "NaN Dice": _with(float("nan"), "metrics", "dice"),
    "infinite distance": _with(float("inf"), "metrics", "hd95_voxel"),
    "Dice as text": _with("0.5", "metrics", "dice"),
    "Dice as a list": _with([0.5], "metrics", "dice"),
    "Dice as a truth value": _with(True, "metrics", "dice"),
    "Dice of 400 digits": _with(10**400, "metrics", "dice"),
    "a hash that is none": _with({}, "data", "hash"),
    "no Jaccard": _without("metrics", "jaccard"),
    "Jaccard as text": _with("half", "metrics", "jaccard"),
    "no count of empty predictions": _without("metrics", "empty_predictions"),
    "a class's Dice as text": _with("half", "metrics", "dice:y"),
    "seconds as text": _with("long", "cost", "train_seconds"),
    "no cost": _without("cost"),
    "labeled as text": _with("two", "data", "labeled"),
    "a run's name that is none": _with(None, "run"),
    "settings that are none": _with({}, "settings"),
    "a method that is none": _with({"a": 1}, "settings", "method"),
    "a seed as text": _with("first", "settings", "seed"),
    "departures that are none": _with(7, "settings", "departures"),
    "sources that are none": _with([1], "settings", "sources"),
    "branch options as text": _with("weight", "settings", "semisam_options"),
}


def _damage(folder, what):
    """Write a result that is damaged in one way, and return its path."""
    text = DAMAGE[what](_run(folder))
    path = folder / "result.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_foreign_result_sends_a_terminal_no_escape_sequence(tmp_path):
    result = _run(tmp_path / "runs" / "\x1b]0;name\x07")
    for part, name in (("settings", "method"), ("data", "hash"), ("training", "steps")):
        result[part][name] = "\x1b]0;title\x07"
    (tmp_path / "runs" / "\x1b]0;name\x07" / "result.json").write_text(json.dumps(result))
    (tmp_path / "runs" / "\x1b]0;name\x07" / "train.jsonl").write_text('{"\\u001b[2J": 1}\n')
    shown = ["runs", "show", str(tmp_path / "runs" / "\x1b]0;name\x07")]
    for command in (["runs", "list", str(tmp_path)], shown, ["table", str(tmp_path)]):
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 0 and not set("\x1b\x07") & set(done.output), done.output


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_result_is_named(tmp_path, what):
    _run(tmp_path / "runs" / "good", 0.25)
    path = _damage(tmp_path / "runs" / "bad", what)
    bad, good = list_runs(tmp_path)
    assert (bad.state, good.state) == ("damaged", "done")
    assert str(path) in bad.detail and len(bad.detail) < 400
    faults = []
    assert collect(list_runs(tmp_path), faults.append)["run"].tolist() == ["good"]
    assert len(faults) == 1 and str(path) in faults[0]


def test_damaged_results_cost_the_others_nothing(tmp_path):
    _run(tmp_path / "runs" / "good", 0.25)
    for number, what in enumerate(DAMAGE):
        _damage(tmp_path / "runs" / f"bad{number}", what)
    for command in (
        ["runs", "list", tmp_path],
        ["table", tmp_path, "--format", "md"],
        ["report", tmp_path, "--out", tmp_path / "page"],
    ):
        done = CliRunner().invoke(main, [str(part) for part in command])
        assert done.exit_code == 0, done.output
        if command[0] != "report":
            assert "25.00" in done.output
    page = (tmp_path / "page" / "report.html").read_text(encoding="utf-8")
    assert "25.00" in page and f"Runs: 1 done, {len(DAMAGE)} damaged." in page


def test_a_copied_run_counts_once(tmp_path):
    _run(tmp_path / "a", 0.5)
    _run(tmp_path / "b", 0.7, seed=1)
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    told = []
    frame = collect(list_runs(tmp_path), told.append)
    assert len(frame) == 2 and len(told) == 1 and "must be there once" in told[0]
    cases = collect_cases(list_runs(tmp_path))
    assert cases["run"].nunique() == 2 and len(cases) == len(cases.drop_duplicates())


def test_a_figure_of_folds_is_over_all_their_cases(tmp_path):
    for fold, dice, test in ((1, 0.9, 1), (2, 0.6, 2)):
        result = _run(tmp_path / str(fold), dice, test="2-fold", fold=fold)
        result["data"] |= {"test": test, "unlabeled": 5 + fold}
        (tmp_path / str(fold) / "result.json").write_text(json.dumps(result))
    (row,) = _table(tmp_path).to_dict("records")
    assert row["dice"] == pytest.approx(100 * (0.9 + 2 * 0.6) / 3)
    assert row["runs"] == 2


def test_the_best_bare_row_has_the_same_runs(tmp_path):
    """A seed or a subset that is hard must not decide which row is the best."""
    dice = {
        ("mt", "none", 0): 0.6,
        ("mt", "none", 1): 0.2,
        ("mt", "geodesic", 0): 0.55,
        ("supervised", "none", 1): 0.9,  # lacks the run that the row has
        ("dtc", "none", 0): 0.5,
        ("dtc", "none", 1): 0.9,
    }
    for (method, sam, seed), value in dice.items():
        _run(tmp_path / f"{method}-{sam}-{seed}", value, method=method, sam=sam, seed=seed)
    row = next(row for row in _table(tmp_path).to_dict("records") if row["sam"] != "none")
    assert row["gain_dice"] == pytest.approx(-5)
    assert (row["best_bare"], row["over_best"]) == ("mt", pytest.approx(-5))


def test_the_best_bare_row_is_of_the_same_part_of_the_table(tmp_path):
    _run(tmp_path / "long", 0.9, method="mt", sam="none", iterations=7)
    _run(tmp_path / "own", 0.6, method="mt", sam="none", method_options={"ema_decay": 0.5})
    _run(tmp_path / "sam", 0.55, method="supervised", sam="geodesic")
    row = next(row for row in _table(tmp_path).to_dict("records") if row["sam"] != "none")
    assert row["best_bare"] == "mt [mt.ema_decay=0.5]"
    assert row["over_best"] == pytest.approx(-5)


def test_ranks_are_over_the_runs_that_all_rows_have(tmp_path):
    """The second row was run with the easy seed only."""
    dice = {("mt", 0): (0.6, 0.8), ("mt", 1): (0.1, 0.2), ("dtc", 0): (0.5, 0.7)}
    for (method, seed), values in dice.items():
        folder = tmp_path / f"{method}-{seed}"
        _run(folder, method=method, sam="none", seed=seed)
        scores = pd.read_csv(folder / "cases.csv").loc[[0, 0]].assign(case=["x", "y"], dice=values)
        scores.to_csv(folder / "cases.csv", index=False)
    table, results = load(tmp_path)
    ranked = with_ranks(table, results, [tmp_path]).set_index("method")
    assert ranked["rank"].to_dict() == {"mt": 1, "dtc": 2}
    assert len(runs_lines(table)) == 1
    first, second = (cells(row) for row in table.to_dict("records"))
    assert {one.runs for one in (first, second)} == {"1", "2"}
    (best,) = in_competition([first, second])
    assert best.runs == "2"


def test_rows_of_other_test_cases_are_apart_whatever_their_subset(tmp_path):
    for subset, digest in enumerate(("a" * 64, "b" * 64)):
        result = _run(tmp_path / str(subset), 0.5, subset=subset)
        result["data"] |= {"hash": f"{subset}" * 64, "test_hash": digest}
        (tmp_path / str(subset) / "result.json").write_text(json.dumps(result))
    table = _table(tmp_path)
    assert table["data"].tolist() == ["a" * 8, "b" * 8] and len(sections(table)) == 2


def test_a_control_with_the_truth_has_no_gain_over_other_data(tmp_path):
    """It hashes more labels than other runs, so its data are unknown where runs have others."""
    for name, given in {
        "one": {"sam": "none"},
        "two": {"sam": "none"},
        "truth": {"sam": "geodesic", "sam_control": "oracle"},
    }.items():
        result = _run(tmp_path / name, 0.5, **given)
        result["data"]["hash"] = name * 20
        (tmp_path / name / "result.json").write_text(json.dumps(result))
    table = _table(tmp_path)
    assert len(table) == 3 and table["gain_dice"].isna().all()


def test_the_patients_of_a_study_are_the_units_of_its_interval(tmp_path):
    for sam, value in (("none", 0.5), ("geodesic", 0.6)):
        _run(tmp_path / sam, value, sam=sam)
        scores = pd.read_csv(tmp_path / sam / "cases.csv").loc[[0] * 4]
        scores = scores.assign(case=list("abcd"), patient=["p", "p", "q", "q"])
        scores.to_csv(tmp_path / sam / "cases.csv", index=False)
    assert _table(tmp_path)["gain_cases"].dropna().tolist() == [2]


def test_a_case_may_be_called_na(tmp_path):
    for sam, value in (("none", 0.5), ("geodesic", 0.6)):
        _run(tmp_path / sam, value, sam=sam)
        scores = pd.read_csv(tmp_path / sam / "cases.csv").assign(case="NA")
        scores.to_csv(tmp_path / sam / "cases.csv", index=False)
    assert _table(tmp_path)["gain_dice"].dropna().tolist() == [pytest.approx(10)]
