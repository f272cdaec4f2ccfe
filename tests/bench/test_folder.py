"""``semisam runs``: the runs of a folder and their states."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner
from filelock import FileLock
from semisam.bench.describing import describe
from tiny_runs import settings_of

from semisam.bench import store
from semisam.bench.executors.local import Local
from semisam.bench.grid import Run
from semisam.bench.results import collect
from semisam.cli.main import main
from semisam.run.execute import execute
from semisam.run.protocols import DEFAULT
from semisam.training.trainer import Interrupted

DONE, STOPPED = "mt-n2-subset0-seed0-00000000aaaa", "mt-n2-subset0-seed1-00000000bbbb"
FAILED, RUNNING = "mt-n2-subset0-seed2-0000000fcccc", "mt-n2-subset0-seed3-00000000dddd"
DAMAGED = "mt-n2-subset0-seed4-00000000eeee"


def _semisam(*args):
    return CliRunner().invoke(main, [*map(str, args)])


@pytest.fixture(scope="module")
def five_runs(tmp_path_factory):
    """A folder with the files of one run in each state."""
    folder = tmp_path_factory.mktemp("grid")
    settings = settings_of(
        dataset="phantom",
        dataset_options={"cases": 4, "test_cases": 2, "size": 32},
        method="mt",
        labels=2,
        network_options={"filters": 2},
        iterations=4,
        patch=(16, 16, 16),
        stride=(16, 16, 16),
        checkpoint_every=2,
    )
    runs = folder / "out" / "runs"
    execute(settings, runs / DONE)

    def interrupt(phase, done, total, figures):
        if phase == "train" and done == 3:
            raise Interrupted(done)

    with pytest.raises(Interrupted):
        execute(settings.model_copy(update={"seed": 1}), runs / STOPPED, interrupt)
    for name in (FAILED, RUNNING, DAMAGED):
        shutil.copytree(runs / STOPPED, runs / name)
    (runs / FAILED / "error.json").write_text(json.dumps({"error": "the loss is nan: " * 12}))
    (runs / DAMAGED / "result.json").write_text('{"settings": {')
    state = {"phase": "train", "done": 3, "total": 4}
    (runs / RUNNING / "progress.json").write_text(json.dumps(state))
    (runs / "notes").mkdir()
    return folder / "out"


@pytest.fixture
def grid(five_runs, tmp_path):
    """A copy of the folder; its running run is held by the test."""
    out = shutil.copytree(five_runs, tmp_path / "out")
    with FileLock(out / "runs" / RUNNING / ".lock"):
        yield out


def test_each_state_is_told_in_80_columns(grid):
    result = _semisam("runs", "list", grid)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert max(map(len, lines)) <= 80
    dice = json.loads((grid / "runs" / DONE / "result.json").read_text())["metrics"]["dice"]
    (done,) = (line for line in lines if " done " in line)
    assert done.split()[:5] == ["00000000", "mt", "2", "0", "0"] and f"{100 * dice:.2f}" in done
    assert "stopped 2/4" in result.output and "running 3/4" in result.output
    assert "the loss is nan" in result.output and DAMAGED in "".join(map(str.strip, lines))
    assert "5 runs: " in lines[-1] and "notes" not in result.output

    runs = json.loads(_semisam("runs", "list", grid, "--json").output)["runs"]
    assert {run["name"]: run["state"] for run in runs} == {
        **{DONE: "done", STOPPED: "stopped", FAILED: "failed", RUNNING: "running"},
        DAMAGED: "damaged",
    }
    files = [path for path in (grid / "runs" / DONE).rglob("*") if path.is_file()]
    assert runs[0]["size"] == sum(path.stat().st_size for path in files)
    assert runs[0]["dice"] == dice


def test_the_step_of_a_checkpoint_is_read_without_torch(grid):
    steps = {run.name: run.step for run in store.list_runs(grid)}
    assert steps == {DONE: None, STOPPED: 2, FAILED: 2, RUNNING: 2, DAMAGED: None}
    for name in (STOPPED, RUNNING):
        (grid / "runs" / name / "checkpoint.json").write_text('{"step": ')
    (run,) = (run for run in store.list_runs(grid) if run.name == STOPPED)
    assert run.step is None and run.detail == "0/4"
    done = grid / "runs" / DONE
    assert not (done / "checkpoint.json").exists() and not (done / "checkpoint.pt").exists()


def test_a_run_is_shown_by_the_start_of_its_name_or_hash(grid):
    by_hash = _semisam("runs", "show", grid, "0000000f")
    assert by_hash.exit_code == 0 and by_hash.output.startswith(FAILED)
    shown = json.loads(_semisam("runs", "show", grid, DONE, "--json").output)
    result = json.loads((grid / "runs" / DONE / "result.json").read_text())
    for part in ("settings", "metrics", "cost", "versions"):
        assert shown[part] == result[part]
    last = (grid / "runs" / DONE / "train.jsonl").read_text().splitlines()[-1]
    assert shown["losses"] == json.loads(last)
    text = _semisam("runs", "show", grid, DONE).output
    assert "iterations" in text and max(map(len, text.splitlines())) <= 80
    several = _semisam("runs", "show", grid, "mt-n2")
    assert several.exit_code == 2 and "got 'mt-n2', of 5 runs" in several.output
    unknown = _semisam("runs", "show", grid, "dtc-n2-subset0-seed0-00000000aaaa")
    assert unknown.exit_code == 2 and f"did you mean {DONE}" in unknown.output
    assert "a folder of runs is required" in _semisam("runs", "list", grid / "nothing").output


def test_a_cut_off_log_still_tells_the_last_losses(grid):
    run = store.find_run(grid, STOPPED)
    with (grid / "runs" / STOPPED / "train.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    assert describe(grid, run)["losses"]["step"] == 2


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "Expecting value"),
        ("[1]", "a list"),
        ('{"settings": {}}', "nothing under 'options'"),
        (b'{"run": "\xff"}', "can't decode"),
    ],
)
def test_a_foreign_result_is_named_and_skipped(grid, text, found):
    path = grid / "runs" / DAMAGED / "result.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    faults = []
    frame = collect([grid / "runs" / DONE, path.parent], faults.append)
    assert len(frame) == 1
    assert len(faults) == 1 and str(path) in faults[0] and found in faults[0]
    (run,) = (run for run in store.list_runs(grid) if run.name == DAMAGED)
    assert run.state == "damaged" and found in run.detail


def test_table_and_bench_name_a_damaged_result(grid, tiny_settings):
    result = _semisam("table", grid, "--format", "csv")
    assert result.exit_code == 0, result.output
    assert f"Left out: {grid / 'runs' / DAMAGED / 'result.json'}" in result.output

    class Silent:
        def __getattr__(self, name):
            return lambda *_: None

    (outcome,) = Local().run_all([Run(tiny_settings, DAMAGED)], grid / "runs", Silent())
    assert outcome.status == "failed" and "delete that file" in outcome.message


def test_lost_scores_leave_the_row_and_name_the_file(grid):
    (grid / "runs" / DONE / "cases.csv").write_text("case\n")
    result = _semisam("table", grid, "--format", "csv")
    assert result.exit_code == 0, result.output
    assert "cases.csv: the scores of a finished run are required" in result.output
    row = [line for line in result.output.splitlines() if line.startswith(f"{DEFAULT},")]
    assert len(row) == 1


_WRITER = """
import sys
from pathlib import Path
from semisam.core.files import write_json
import json
result, runs, who = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), sys.argv[3]
for number in range(int(sys.argv[4])):
    run = runs / f"mt-n2-subset0-seed0-{who}{number:011x}"
    run.mkdir()
    write_json(run / "settings.json", result["settings"])
    write_json(run / "result.json", {**result, "run": f"{who}{number:011x}"})
"""


def test_many_processes_write_and_no_reader_ever_sees_half_a_run(five_runs, tmp_path):
    runs = tmp_path / "runs"
    runs.mkdir()
    result = five_runs / "runs" / DONE / "result.json"
    # The first one would go on for ever: it is killed in the middle of its work.
    counts = {"a": 10**6, "b": 60, "c": 60, "d": 60}
    writers = [
        subprocess.Popen([sys.executable, "-c", _WRITER, str(result), str(runs), who, str(count)])
        for who, count in counts.items()
    ]
    deadline = time.monotonic() + 240
    seen: set[str] = set()
    try:
        while any(writer.poll() is None for writer in writers[1:]):
            assert time.monotonic() < deadline
            listed = store.list_runs(tmp_path)
            assert {run.state for run in listed} <= {"done", "stopped"}
            names = {run.name for run in listed}
            assert seen <= names  # none is away for the moment that a file of it is renamed
            seen = names
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
    assert [writer.returncode for writer in writers[1:]] == [0, 0, 0]
    listed = store.list_runs(tmp_path)
    done = [run for run in listed if run.state == "done"]
    assert len(done) >= len(listed) - 1  # the one that the killed writer was at
    assert sum(run.name[-12] != "a" for run in done) == 180
    faults = []
    assert len(collect((runs / run.name for run in listed), faults.append)) == len(done)
    assert faults == []
