"""Rows of finished runs and their comparison, whatever the files of other runs hold."""

from __future__ import annotations

import hashlib
import json
import math
import shutil

import pandas as pd
import pytest
from click.testing import CliRunner
from tiny_runs import settings_of, write_scores

from semisam.bench.comparing import TABLE_METRICS, keyed, patients_by_case
from semisam.bench.ranking import with_ranks
from semisam.bench.report.runs import read_bench
from semisam.bench.results import read_finished
from semisam.bench.running import tabulate
from semisam.bench.sections import data_version, method_name, sections
from semisam.bench.table_notes import best_lines, gain_lines, runs_lines
from semisam.bench.tables import cells, in_competition, load, signed
from semisam.cli.main import main
from semisam.core.errors import SemisamWarning
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


def _table(*folders):
    return read_finished(folders).table


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
    found = read_finished([tmp_path], faults.append)
    assert found.results["run"].tolist() == ["good"]
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


def test_a_finished_run_without_its_scores_is_in_no_table_and_named_by_all(tmp_path):
    """`semisam table` named it and yet had its row, where the report called it damaged."""
    _run(tmp_path / "runs" / "good", 0.25)
    _run(tmp_path / "runs" / "scoreless", 0.75, method="dtc")
    scores = tmp_path / "runs" / "scoreless" / "cases.csv"
    scores.rename(tmp_path / "moved.csv")
    done = CliRunner().invoke(main, ["table", str(tmp_path), "--format", "md"])
    assert "25.00" in done.stdout and "75.00" not in done.stdout
    told = []
    pd.testing.assert_frame_equal(tabulate(tmp_path, told.append), read_bench(tmp_path).table)
    assert told == [done.stderr.removeprefix("Left out: ").rstrip("\n")]
    assert told[0].startswith(f"{scores}: the scores of a finished run must be there, got ")
    assert pd.read_csv(tmp_path / "results.csv")["run"].tolist() == ["good"]
    states = {run.name: (run.state, run.detail) for run in read_bench(tmp_path).runs}
    assert states == {"good": ("done", ""), "scoreless": ("damaged", told[0])}


def test_a_copied_run_counts_once(tmp_path):
    _run(tmp_path / "a", 0.5)
    _run(tmp_path / "b", 0.7, seed=1)
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    told = []
    found = read_finished([tmp_path], told.append)
    assert len(found.results) == 2 and len(told) == 1 and "must be there once" in told[0]
    cases = found.cases
    assert cases["run"].nunique() == 2 and len(cases) == len(cases.drop_duplicates())


def test_a_figure_of_folds_is_over_all_their_cases(tmp_path):
    for fold, dice, test in ((1, 0.9, 1), (2, 0.6, 2)):
        folder = tmp_path / str(fold)
        result = _run(folder, dice, test="2-fold", fold=fold)
        result["data"]["unlabeled"] = 5 + fold
        (folder / "result.json").write_text(json.dumps(result))
        scores = pd.read_csv(folder / "cases.csv").loc[[0] * test]
        write_scores(folder, scores.assign(case=[f"{fold}-{n}" for n in range(test)]))
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
        write_scores(folder, scores)
    found = load(tmp_path)
    table = found.table
    ranked = with_ranks(table, found).set_index("method")
    assert ranked["rank"].to_dict() == {"mt": 1, "dtc": 2}
    assert len(runs_lines(table)) == 1
    first, second = (cells(row) for row in table.to_dict("records"))
    assert {one.runs for one in (first, second)} == {"1", "2"}
    (best,) = in_competition([first, second])
    assert best.runs == "2"


def test_rows_of_other_seeds_are_not_in_one_competition(tmp_path):
    for method, seeds in {"mt": (0, 1), "dtc": (0, 1), "supervised": (1, 2)}.items():
        for seed in seeds:
            _run(tmp_path / f"{method}-{seed}", method=method, sam="none", seed=seed)
    table = _table(tmp_path)
    assert table["repeats"].tolist() == [
        "subset 0 seed 0; subset 0 seed 1",
        "subset 0 seed 0; subset 0 seed 1",
        "subset 0 seed 1; subset 0 seed 2",
    ]
    dtc, mt, supervised = map(cells, table.to_dict("records"))
    assert in_competition([dtc, mt]) == [dtc, mt]
    assert in_competition([dtc, mt, supervised]) == []
    assert "other seeds" in runs_lines(table)[0]
    assert runs_lines(table[table["method"] != "supervised"]) == []


def test_a_gain_tells_over_how_many_runs_it_is(tmp_path):
    for sam, seeds in {"none": (1, 2), "geodesic": (0, 1)}.items():
        for seed in seeds:
            folder = tmp_path / f"{sam}-{seed}"
            _run(folder, method="mt", sam=sam, seed=seed)
            scores = pd.read_csv(folder / "cases.csv").loc[[0, 0]].assign(case=["x", "y"])
            write_scores(folder, scores)
    table = _table(tmp_path)
    assert table["gain_runs"].dropna().tolist() == table["over_best_runs"].dropna().tolist() == [1]
    line, pairs = gain_lines(table)
    assert line.endswith(
        "A gain over one pair of runs does not cover other seeds or other labeled scans."
    )
    assert "An interval over 2 is too narrow" in line
    assert pairs == (
        "mt + SemiSAM (geodesic), 1/3: its gain is over 1 of its 2 runs, those with a partner "
        "without SAM."
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda scores: scores.iloc[:1], "scores of 1 of 2 cases"),
        (
            lambda scores: scores.assign(dice=[0.5, 0.7]),
            "a mean Dice of 0.6, where result.json has 0.5",
        ),
        (lambda scores: scores.assign(case="x"), "two scores of one case and class"),
        (lambda scores: scores.assign(asd_voxel=[1.0, math.inf]), "no scores of every case"),
    ],
)
def test_scores_are_held_against_the_result(tmp_path, change, told):
    _run(tmp_path / "run")
    scores = pd.read_csv(tmp_path / "run" / "cases.csv").loc[[0, 0]].assign(case=["x", "y"])
    write_scores(tmp_path / "run", scores)
    assert _table(tmp_path).shape[0] == 1
    change(scores).to_csv(tmp_path / "run" / "cases.csv", index=False)
    faults = []
    assert read_finished([tmp_path], faults.append).table.empty
    assert told in faults[0]


def test_another_version_of_a_method_is_named_in_bare_rows_and_in_rows_with_sam(tmp_path):
    for sam, version in {"none": "1.0", "geodesic": "1.1"}.items():
        result = _run(tmp_path / sam, method="mt", sam=sam)
        result["settings"]["sources"]["method"] = f"ours {version}"
        (tmp_path / sam / "result.json").write_text(json.dumps(result))
    bare, guided = _table(tmp_path).to_dict("records")
    assert method_name(bare) == "mt [method ours 1.0]"
    assert method_name(guided) == "mt + SemiSAM (geodesic) [method ours 1.1]"
    assert math.isnan(guided["gain_dice"]) and guided["best_bare"] == "mt [method ours 1.0]"


def test_a_difference_of_nothing_has_no_minus():
    assert [signed(value, 1) for value in (-0.04, 0.0, 0.04, -0.06)] == [
        "+0.0",
        "+0.0",
        "+0.0",
        "-0.1",
    ]


def test_rows_of_other_test_cases_are_apart_whatever_their_subset(tmp_path):
    for subset, digest in enumerate(("a" * 64, "b" * 64)):
        result = _run(tmp_path / str(subset), 0.5, subset=subset)
        result["data"] |= {"hash": f"{subset}" * 64, "test_hash": digest}
        (tmp_path / str(subset) / "result.json").write_text(json.dumps(result))
    table = _table(tmp_path)
    assert table["data"].tolist() == ["a" * 8, "b" * 8] and len(sections(table)) == 2


def test_a_control_with_the_truth_has_a_gain_over_the_run_on_its_data(tmp_path):
    """It reads more labels than other runs, so its hash is another one and its key is not."""
    truth = {"sam": "geodesic", "sam_control": "oracle"}
    for name, key, dice, given in (
        ("other", "b-1", 0.1, {"sam": "none"}),
        ("bare", "a-1", 0.5, {"sam": "none"}),
        ("truth", "a-1", 0.7, truth),
    ):
        result = _run(tmp_path / name, dice, **given)
        result["data"] |= {"hash": name, "key": key, "scans": key[0]}
        (tmp_path / name / "result.json").write_text(json.dumps(result))
    assert _table(tmp_path)["gain_dice"].dropna().tolist() == [pytest.approx(20)]


def test_the_patients_of_a_study_are_the_units_of_its_interval(tmp_path):
    for sam, value in (("none", 0.5), ("geodesic", 0.6)):
        _run(tmp_path / sam, value, sam=sam)
        scores = pd.read_csv(tmp_path / sam / "cases.csv").loc[[0] * 4]
        scores = scores.assign(case=list("abcd"), patient=["p", "p", "q", "q"])
        write_scores(tmp_path / sam, scores)
    assert _table(tmp_path)["gain_cases"].dropna().tolist() == [2]


def test_a_case_may_be_called_na(tmp_path):
    for sam, value in (("none", 0.5), ("geodesic", 0.6)):
        _run(tmp_path / sam, value, sam=sam)
        scores = pd.read_csv(tmp_path / sam / "cases.csv").assign(case="NA")
        write_scores(tmp_path / sam, scores)
    assert _table(tmp_path)["gain_dice"].dropna().tolist() == [pytest.approx(10)]


def _on(folder, tested, dice=0.5, *, scans="s", labels=("a old",), parts="p", **given):
    """Write a run on these test data, scans, labels and parts of the cases."""
    result = _run(folder, dice, **{"dataset": "folder", **given})
    of_cases = dict(label.split() for label in labels)
    whole = hashlib.sha256(str((tested, scans, labels)).encode()).hexdigest()
    result["data"] |= {
        "hash": whole,
        "key": f"{whole}-{parts}",
        "scans": scans * 8,
        "labels": of_cases,
        "test_hash": tested * 8,
    }
    (folder / "result.json").write_text(json.dumps(result))


def _old_and_new(folder):
    """Write runs on an old and on a corrected training label, with the same test cases."""
    _on(folder / "a", "test", 0.9, sam="none")
    _on(folder / "b", "test", 0.5, labels=["a new"], sam="none", method="dtc")
    _on(folder / "c", "test", 0.6, labels=["a new"], sam="geodesic", method="dtc")
    _on(folder / "d", "test", 0.4, labels=["a new"], sam="none", seed=1)


def test_an_unrelated_study_joins_no_old_and_new_labels(tmp_path):
    """The study of other scans made old and new one row, with differences between them."""
    _old_and_new(tmp_path / "own")
    _on(tmp_path / "other" / "z", "zzzt", 0.7, scans="z", labels=["z old"], sam="none")
    alone = _table(tmp_path / "own")
    both = _table(tmp_path / "own", tmp_path / "other")
    with_other = both[both["data"] == "testtest"].reset_index(drop=True)
    assert len(sections(alone)) == 1 and len(sections(both)) == 2 and len(both) == 5
    pd.testing.assert_frame_equal(
        alone.drop(columns="data"), with_other.drop(columns="data"), check_exact=True
    )
    assert alone["runs"].tolist() == [1, 1, 1, 1]
    versions = {data_version(row) for row in alone.to_dict("records")}
    assert versions == {"label a old", "label a new"}
    (row,) = alone[alone["sam"] != "none"].to_dict("records")
    assert row["best_bare"] == "dtc [label a new]"  # and not the better one on old labels
    assert row["over_best"] == pytest.approx(10)


def test_ranks_are_among_rows_of_equal_training_data(tmp_path):
    _on(tmp_path / "old" / "x", "test", sam="none")
    for name, method in (("a", "mt"), ("b", "dtc")):
        _on(tmp_path / "new" / name, "test", labels=["a new"], sam="none", method=method)
    for number, path in enumerate(sorted(tmp_path.glob("*/*/cases.csv"))):
        scores = pd.read_csv(path).loc[[0, 0]].assign(case=["x", "y"], dice=[0.5, 0.6])
        scores["dice"] += number / 100
        write_scores(path.parent, scores)
    folders = [tmp_path / "old", tmp_path / "new"]
    found = load(*folders)
    ranked = with_ranks(found.table, found)
    ranks = {data_version(row): row["rank"] for row in ranked.to_dict("records")}
    assert set(ranks) == {"label a old", "label a new"} and pd.isna(ranks["label a old"])
    assert sorted(ranked["rank"].dropna()) == [1, 2]


def test_the_same_scans_in_other_parts_are_other_data(tmp_path):
    """A labeled and a validation case were exchanged, so every hash of scans is as before."""
    for name, sam in (("one", "none"), ("two", "geodesic"), ("three", "none")):
        _on(tmp_path / name, "test", sam=sam, parts="a" if name == "one" else "b")
    table = _table(tmp_path)
    assert table["runs"].tolist() == [1, 1, 1] and len(sections(table)) == 1
    assert {data_version(row) for row in table.to_dict("records")} == {"parts a", "parts b"}
    pairs = keyed(read_finished([tmp_path]).results).groupby("data_key")["run"].agg(set)
    assert sorted(map(sorted, pairs)) == [["one"], ["three", "two"]]


def test_other_scans_of_all_subsets_are_one_row(tmp_path):
    """Their labels and parts differ, too, which the scans say already."""
    for scans in "st":
        for subset in range(2):
            own = {"scans": scans, "labels": [f"c{subset} {scans}"], "parts": f"{scans}{subset}"}
            _on(tmp_path / f"{scans}{subset}", "test", subset=subset, **own)
    table = _table(tmp_path)
    assert table["runs"].tolist() == [2, 2]
    assert set(table["made_by"]) == {"scans ssssssss", "scans tttttttt"}


def test_folds_that_leave_out_other_scans_of_patients_are_one_row(tmp_path):
    """The scans of a tested patient train nothing, so each fold reads other ones."""
    for fold in (1, 2, 3):
        own = {"scans": f"s{fold}", "parts": f"p{fold}", "test": "3-fold", "fold": fold}
        _on(tmp_path / f"{fold}", f"t{fold}__", **own)
    (row,) = _table(tmp_path).to_dict("records")
    assert row["runs"] == 3 and row["made_by"] == ""


def test_results_of_before_are_apart_by_the_hash_of_their_data(tmp_path):
    for name in ("one", "two"):
        result = _run(tmp_path / name)
        result["data"]["hash"] = name * 20
        (tmp_path / name / "result.json").write_text(json.dumps(result))
    assert _table(tmp_path)["runs"].tolist() == [1, 1]


def _folds(folder, letter, folds=(1, 2, 3), **given):
    for fold in folds:
        run = folder / f"{folder.name}-{letter}{fold}"
        of_fold = {"test": "3-fold", "fold": fold, "parts": f"p{fold}"}
        _on(run, f"{letter}t{fold}_", 0.1 * fold, **of_fold, **given)


def test_the_folds_of_two_studies_are_two_parts(tmp_path):
    """Each fold was a part, and its figure that of one fold."""
    _folds(tmp_path / "one", "a")
    _folds(tmp_path / "two", "b")
    alone = _table(tmp_path / "one")
    both = _table(tmp_path / "one", tmp_path / "two")
    assert len(alone) == 1 and alone["data"].tolist() == [""]
    assert len(both) == 2 and len(sections(both)) == 2 and both["data"].nunique() == 2
    assert both["runs"].tolist() == [3, 3] and both["dice"].tolist() == [pytest.approx(20)] * 2


def test_folds_of_several_folders_are_one_part_if_they_share_a_fold(tmp_path):
    _folds(tmp_path / "one", "a", (1, 2))
    _folds(tmp_path / "more", "a", (2, 3), seed=1)
    _folds(tmp_path / "two", "b")
    table = _table(tmp_path / "one", tmp_path / "more", tmp_path / "two")
    assert sorted(table["runs"]) == [3, 4] and len(sections(table)) == 2


def test_folds_of_two_paths_in_one_folder_are_two_parts(tmp_path):
    for letter in "ab":
        _folds(tmp_path, letter, data=f"/scans/{letter}")
    assert _table(tmp_path)["runs"].tolist() == [3, 3]


def test_a_corrected_label_separates_only_the_runs_that_train_with_it(tmp_path):
    """The case is labeled in subset 0, so the runs of the others are those that they were."""
    for subset in range(3):
        own = {"labels": [f"c{subset} old"], "parts": f"p{subset}", "subset": subset}
        _on(tmp_path / "old" / f"{subset}", "test", **own)
    for subset, label in enumerate(("c0 new", "c1 old")):
        own = {"labels": [label], "parts": f"p{subset}", "subset": subset}
        _on(tmp_path / "new" / f"new{subset}", "test", seed=1, **own)
    frame = keyed(read_finished([tmp_path / "old", tmp_path / "new"]).results)
    assert set(frame["data"]) == {""}
    rows = frame.groupby("made_by")["run"].agg(sorted).to_dict()
    assert rows == {"": ["1", "2", "new1"], "label c0 old": ["0"], "label c0 new": ["new0"]}


def test_a_folder_of_old_and_new_test_labels_joins_neither_to_another_fold(tmp_path):
    """It is not known which of the two belongs to the other folds."""
    _folds(tmp_path, "a")
    _folds(tmp_path, "b", (1,), seed=1)
    table = _table(tmp_path)
    assert table["runs"].tolist() == [1, 1, 1, 1] and len(sections(table)) == 4


def test_folds_that_agree_with_two_versions_are_of_neither(tmp_path):
    for name in ("old", "new"):
        _folds(tmp_path / name, name, (1,))
        _folds(tmp_path / name, "both", (2,), seed=len(name) + (name == "new"))
    assert sorted(_table(tmp_path / "old", tmp_path / "new")["runs"]) == [1, 1, 2]


def _owners(*owners):
    """Return cases of runs ``a``, ``b``, ...; each text has a letter per case, its patient."""
    rows = [
        {"run": run, "case": f"case{n}", "patient": f"case{n}" if name == "-" else name}
        for run, text in zip("abcd", owners, strict=False)
        for n, name in enumerate(text)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("owners", "joined"),
    [
        (["ppqq"], "ppqq"),
        (["----", "ppqq"], "ppqq"),  # the first run was made before groups.csv
        (["ppqq", "----"], "ppqq"),
        (["pp--", "ppqq", "----"], "ppqq"),
        (["ppqq", "xxyy"], "ppqq"),  # other names of the same patients
        (["ppqq", "pppp"], "pppp"),
        (["----"], "abcd"),
    ],
)
def test_the_coarser_patients_of_compared_runs_count(owners, joined):
    index = pd.Index([f"case{n}" for n in range(4)])
    found = patients_by_case(_owners(*owners), index, list("abcd"))
    same = [[a == b for b in found] for a in found]
    assert same == [[a == b for b in joined] for a in joined]


def test_patients_of_runs_that_are_not_compared_do_not_count():
    """Another study may have cases of the same names."""
    cases, index = _owners("pppp", "qqrr"), pd.Index(["case3", "case0"])
    assert patients_by_case(cases, index, ["b"]) == ["r", "q"]


def test_patients_that_contradict_each_other_are_joined_with_a_warning():
    index = pd.Index([f"case{n}" for n in range(4)])
    with pytest.warns(SemisamWarning, match="must name the same patients, got .* case0, case1"):
        found = patients_by_case(_owners("ppqq", "xyyz"), index, ["a", "b"])
    assert len(set(found)) == 1


def test_the_gain_of_runs_with_patients_is_over_them_whatever_came_before(tmp_path):
    """An older run of other settings, made before `groups.csv`, decided the patients of all."""
    _run(tmp_path / "0 older", sam="none", method="dtc")
    for sam, value in (("none", 0.5), ("geodesic", 0.6)):
        _run(tmp_path / sam, value, sam=sam)
    for path in tmp_path.glob("*/cases.csv"):
        scores = pd.read_csv(path).loc[[0] * 4].assign(case=list("abcd"))
        if path.parent.name != "0 older":
            scores["patient"] = ["p", "p", "q", "q"]
        write_scores(path.parent, scores)
    assert _table(tmp_path)["gain_cases"].dropna().tolist() == [2]
