"""A study as a file: the same runs from it, more runs into it, and no unknown key."""

from __future__ import annotations

import re
import tomllib

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from grid_runs import runs_in_this_process
from tiny_la import write_tiny_la
from tiny_runs import TINY_NET

import semisam
from semisam.bench import estimate
from semisam.bench import running as module
from semisam.bench.executors.contract import Outcome
from semisam.bench.executors.local import Local
from semisam.bench.grid import Axes, Run, check, expand
from semisam.bench.study import Grid, read_study, write_study
from semisam.cli import bench as command
from semisam.cli.main import main
from semisam.core.errors import InputError, UnservedHeads
from semisam.run.pace import Pace
from semisam.run.request import settings
from semisam.run.settings import RESULTS_VERSION

GRID = (
    *("--method", "mt", "--labels", "1,2", "--sam", "none", "--iterations", "1"),
    *("--patch", "16x16x16", "--stride", "16x16x16", *TINY_NET),
    *("--set", "phantom.cases=4", "--set", "phantom.test_cases=1", "--set", "phantom.size=32"),
    *("--device", "cpu", "--set", "mt.ema_decay=0.9"),
)


def _bench(*args):
    return CliRunner().invoke(main, ["bench", *map(str, args)])


def _names(folder):
    return {path.name for path in (folder / "runs").iterdir()}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "out"
    with runs_in_this_process():
        result = _bench(*GRID, "--out", folder)
    assert result.exit_code == 0, result.output
    return folder


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_a_study_gives_the_same_runs_and_takes_more(study, tmp_path):
    (grid,) = tomllib.loads((study / "study.toml").read_text())["grid"]
    assert grid["options"]["mt"]["ema_decay"] == 0.9 and grid["settings"]["lr"] == 3e-4
    other = tmp_path / "other"
    result = _bench(study / "study.toml", "--out", other, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert _names(other) == _names(study)
    again = _bench(other, "--seeds", "1", "--device", "cpu")
    assert again.exit_code == 0, again.output
    assert again.output.count("finished earlier") == 2 and len(_names(other)) == 4
    (grid,) = tomllib.loads((other / "study.toml").read_text())["grid"]
    assert grid["seeds"] == [0, 1]


def test_a_dry_run_counts_and_measures_and_writes_nothing(study, tmp_path):
    before = sorted(path.stat().st_mtime_ns for path in study.rglob("*"))
    result = _bench(*GRID, "--out", study, "--seeds", "2x", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "4 runs: 2 are done, 2 to do." in result.output
    assert "  mt: 2 runs, 1 steps of " in result.output
    assert "one run after the other" in result.output
    sizes = (
        r"training: [\d.]+ [MG]iB. Disk: [\d.]+ MiB of weights in .* and [\d.]+ MiB of checkpoints"
    )
    assert re.search(sizes, " ".join(result.output.split()))
    assert sorted(path.stat().st_mtime_ns for path in study.rglob("*")) == before
    others = [word.replace("mt.ema_decay=0.9", "phantom.seed=1") for word in GRID]
    result = _bench(*others, "--out", tmp_path / "new", "--method", "copied-mask", "--dry-run")
    assert "2 runs: 0 are done, 2 to do." in result.output
    assert "  copied-mask: 2 runs: 0 s" in result.output and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("answer", "more", "code", "asked"),
    [("n\n", [], 1, True), ("y\n", [], 0, True), ("", ["--yes"], 0, False)],
)
def test_a_study_of_more_than_an_hour_asks_first(tmp_path, monkeypatch, answer, more, code, asked):
    monkeypatch.setattr(command, "_at_a_terminal", lambda: True)
    monkeypatch.setattr(estimate, "_FEW_STEPS", 1)
    monkeypatch.setattr(estimate, "pace_of", lambda settings: Pace(estimate.HOUR))
    monkeypatch.setattr(Local, "run_all", lambda *_: [])
    words = ["bench", *map(str, GRID), "--out", str(tmp_path / "new"), *more]
    result = CliRunner().invoke(main, words, input=answer)
    assert result.exit_code == code, result.output
    assert ("more than an hour" in result.output) == asked
    assert (tmp_path / "new" / "study.toml").exists() == (code == 0)


def test_a_dry_run_for_other_machines_measures_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(estimate, "pace_of", lambda settings: 1 / 0)
    monkeypatch.setattr(Local, "here", False)
    result = _bench(*GRID, "--out", tmp_path / "new", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "2 runs: 0 are done, 2 to do." in result.output and "not measured" in result.output


@pytest.mark.parametrize("control", ["oracle", "shuffled"])
def test_the_cost_of_the_branch_and_of_its_controls(control, monkeypatch):
    asked = {}
    pace = Pace(2.0, 10, 100, 400)
    monkeypatch.setattr(
        estimate, "pace_of", lambda settings: asked.setdefault("step", settings) and pace
    )
    monkeypatch.setattr(estimate, "seconds_of_adaptation", lambda settings: 3.0)
    monkeypatch.setattr(estimate, "seconds_of_test", lambda settings: 5.0)
    made = settings(method="mt", labels=2, sam="synthsam", sam_control=control, sam_adapt=4)
    runs = [Run(made.model_copy(update={"seed": seed}), str(seed)) for seed in (0, 1)]
    (cost,) = estimate.costs(runs)
    assert cost.title == f"mt + synthsam (control: {control})"
    assert cost.seconds == 2 * (4 * 3.0 + made.iterations * 2.0 + 5.0) and cost.disk == 200
    assert asked["step"].sam_control == (None if control == "oracle" else control)


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("seeds = ", "seed = ", "got seed .did you mean seeds"),
        ("momentum = ", "momentun = ", "did you mean momentum"),
        ("results_version", "result_version", "did you mean results_version"),
        (f"results_version = {RESULTS_VERSION}", "results_version = 99", "must be at most"),
        ("labels = [1, 2]", 'labels = ["two"]', "labels must be a list of whole numbers"),
        ("[[grid]]", "[[grid", "must be a TOML file"),
        ("[[grid]]", f"a = {'[' * 5000}\n[[grid]]", "must be a TOML file"),
    ],
)
def test_what_is_not_known_is_refused(study, tmp_path, old, new, found):
    text = (study / "study.toml").read_text()
    assert old in text
    path = tmp_path / "study.toml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=found):
        read_study(path)


def test_settings_beside_a_study_are_refused(study):
    result = _bench(study, "--iterations", "5")
    assert result.exit_code == 2 and "--iterations" in result.stderr


def test_a_study_of_scans_takes_their_new_place(tmp_path):
    tiny = write_tiny_la(tmp_path / "la")
    moved = tmp_path / "moved"
    axes = Axes(("supervised",), labels=(1,))
    tiny_settings = {"data": str(tiny), "iterations": 2, "patch": (16, 16, 16)}
    (tmp_path / "out").mkdir()
    write_study(tmp_path / "out", [_kept(axes, tiny_settings)])
    tiny.rename(moved)
    study = tmp_path / "out" / "study.toml"
    lost = _bench(study, "--dry-run", "--device", "cpu")
    assert lost.exit_code == 2 and isinstance(lost.exception, SystemExit), lost.output
    found = _bench(study, "--data", moved, "--dry-run", "--device", "cpu")
    assert found.exit_code == 0 and "1 runs: 0 are done, 1 to do" in found.output, found.output


def test_phantoms_have_no_place(study):
    result = _bench(study, "--data", "somewhere")
    assert (
        result.exit_code == 2 and "the settings of a study must stay, got --data" in result.stderr
    )


def test_a_study_or_a_method_must_be_named(tmp_path):
    result = _bench("--out", tmp_path)
    assert result.exit_code == 2 and "--method must name" in result.stderr
    assert "must be a TOML file" in _bench(tmp_path / "nothing").stderr


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_a_method_that_the_network_cannot_serve_loses_only_its_own_rows(tmp_path):
    given = list(GRID)
    given[given.index("mt")], given[given.index("1,2")] = "mt,urpc", "1"
    out = tmp_path / "out"
    result = _bench(*given, "--set", "urpc.levels=4", "--out", out)
    assert result.exit_code == 1
    assert "Runs are left out: the network must serve the heads of method 'urpc'" in result.stderr
    (row,) = pd.read_csv(out / "table.csv").to_dict("records")
    assert row["method"] == "mt"


def test_a_grid_without_any_method_that_the_network_serves_is_refused():
    settings = {"network": "vnet", "patch": (16, 16, 16)}
    options = {"phantom": {"size": 32}, "urpc": {"levels": 4}}
    grid = Grid(Axes(["urpc"], labels=[1]), settings, options)
    with pytest.raises(UnservedHeads, match="Networks that serve them: unet"):
        check(expand(grid.axes, grid.asked), here=False)


def _kept(axes, settings=(), options=()):
    """Return a grid as `study.toml` keeps it, after its runs."""
    grid = Grid(axes, {"device": "cpu", **dict(settings)}, dict(options))
    return grid.as_it_runs(expand(grid.axes, grid.asked))


def _runs(grid):
    return {(run.method, run.sam): run for run in expand(grid.axes, grid.asked)}


def test_a_study_keeps_the_adaptation_that_was_asked_for():
    axes = Axes(("supervised", "copied-mask"), ("none", "synthsam"), labels=(1,))
    kept = _kept(axes, {"iterations": 40, "sam_adapt": 3})
    more = kept.extended({"labels": [2]})
    adapted = {run.sam_adapt for run in expand(more.axes, more.asked) if run.sam == "synthsam"}
    assert kept.settings["sam_adapt"] == 3 and adapted == {3}


def test_a_backend_that_is_added_gets_what_a_new_study_would():
    bare = _kept(
        Axes(("supervised",), ("none",), labels=(1,)),
        {"iterations": 40, "prompter": "box"},
        {"semisam": {"weight": 0.3}},
    )
    run = _runs(bare.extended({"sam": ["synthsam"]}))["supervised", "synthsam"]
    assert (run.sam_adapt, run.prompter, run.semisam_options["weight"]) == (20, "box", 0.3)
    # One that cannot be adapted, and one that was a part of a joined one.
    joined = _kept(
        Axes(("supervised",), ("synthsam+geodesic",), labels=(1,)),
        {"iterations": 40},
        {"geodesic": {"smoothness": 3.0}},
    )
    found = _runs(joined.extended({"sam": ["geodesic"]}))
    assert found["supervised", "synthsam+geodesic"].sam_adapt == 20
    one = found["supervised", "geodesic"]
    assert (one.sam_adapt, one.sam_options["smoothness"]) == (0, 3.0)


@pytest.mark.parametrize("method", ["bcp", "cps", "supervised"])
def test_a_method_that_is_added_gets_its_own_published_settings(method):
    settings = {"protocol": "published", "weight_decay": 0.5}
    before = _runs(Grid(Axes(("mt",), labels=(1,)), {**settings, "device": "cpu"}, {}))
    kept = _kept(Axes(("mt",), labels=(1,)), settings)
    found = _runs(kept.extended({"method": [method]}))
    fresh = _runs(Grid(Axes((method,), labels=(1,)), {**settings, "device": "cpu"}, {}))
    assert found["mt", "none"] == before["mt", "none"]
    assert found[method, "none"] == fresh[method, "none"]
    assert found[method, "none"].weight_decay == 0.5


TINY = {
    **{"iterations": 1, "patch": (16, 16, 16), "sams": "none", "device": "cpu"},
    "options": {"phantom.size": 32, "phantom.cases": 4, "phantom.test_cases": 1},
}


def test_an_interrupted_bench_ends_as_one_after_its_table(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(module, "tabulate", lambda folder: made.append(folder) or pd.DataFrame())
    monkeypatch.setattr(
        module, "finish_runs", lambda runs, *more: [Outcome(run, "interrupted") for run in runs]
    )
    with pytest.raises(KeyboardInterrupt):
        semisam.bench("supervised", labels=[1], out=tmp_path, **TINY)
    assert made == [tmp_path]


def test_whole_numbers_may_be_those_of_numpy(tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(module, "finish_runs", lambda runs, *more: found.extend(runs) or [])
    more = {"labels": np.int64(2), "seeds": np.arange(2), "subsets": range(1), "out": tmp_path}
    semisam.bench(np.array(["supervised"]), **more, **TINY)
    assert [(run.settings.labels, run.settings.seed) for run in found] == [(2, 0), (2, 1)]
    assert read_study(tmp_path)[0].axes.seeds == (0, 1)


@pytest.mark.parametrize(
    ("methods", "given", "said"),
    [
        (None, {}, "methods must be a name or a list of names, got None"),
        ([], {}, r"methods must be a name or a list of names, got \[\]"),
        (["mt", 3], {}, "methods must be a name"),
        ("mt", {"labels": "2"}, "labels must be a whole number or a list of them, got '2'"),
        ("mt", {"seeds": [0.5]}, r"seeds must be a whole number or a list of them, got \[0.5\]"),
        ("mt", {"subsets": True}, "subsets must be a whole number"),
        ("mt", {"options": ["a"]}, "options must map PLUGIN.OPTION"),
    ],
)
def test_axes_of_another_kind_are_one_sentence(tmp_path, methods, given, said):
    with pytest.raises(InputError, match=said):
        semisam.bench(methods, out=tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()


def test_jobs_are_a_whole_number_of_at_least_one(tmp_path):
    for jobs in (0, "2", None):
        with pytest.raises(InputError, match="jobs must be"):
            module.bench("mt", jobs=jobs, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
