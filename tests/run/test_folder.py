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
from tiny_runs import changed, settings_of

from semisam.bench.executors.local import Local
from semisam.bench.grid import Run
from semisam.bench.results import read_finished
from semisam.cli.main import main
from semisam.core.errors import InputError
from semisam.run.execute import execute
from semisam.run.folder import claim, claim_data, find_run, leading_runs, list_runs, read_run
from semisam.run.protocols import DEFAULT
from semisam.run.settings import read_settings
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
        network="vnet",
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
        execute(changed(settings, seed=1), runs / STOPPED, interrupt)
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


def test_lost_scores_leave_the_run_out_and_name_the_file(grid):
    whole, scores = grid / "runs" / "mt-n2-subset0-seed7-00000000abab", grid / "runs" / DONE
    shutil.copytree(scores, whole)
    result = json.loads((whole / "result.json").read_text())
    (whole / "result.json").write_text(json.dumps({**result, "run": "00000000abab"}))
    (scores / "cases.csv").write_text("case\n")
    result = _semisam("table", grid, "--format", "csv")
    assert result.exit_code == 0, result.output
    assert "cases.csv: the scores of a finished run must be there" in result.output
    (row,) = [line for line in result.stdout.splitlines() if line.startswith(f"{DEFAULT},")]
    assert row.split(",")[9] == "1"  # the column runs


_WRITER = """
import shutil, sys
from pathlib import Path
from semisam.core.files import write_json
import json
result, runs, who = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), sys.argv[3]
for number in range(int(sys.argv[4])):
    run = runs / f"mt-n2-subset0-seed0-{who}{number:011x}"
    run.mkdir()
    write_json(run / "settings.json", result["settings"])
    shutil.copy(Path(sys.argv[1]).with_name("cases.csv"), run)
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
            listed = list_runs(tmp_path)
            assert {run.state for run in listed} <= {"done", "waiting"}
            names = {run.name for run in listed}
            assert seen <= names  # none is away for the moment that a file of it is renamed
            seen = names
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
    assert [writer.returncode for writer in writers[1:]] == [0, 0, 0]
    listed = list_runs(tmp_path)
    done = [run for run in listed if run.state == "done"]
    assert len(done) >= len(listed) - 1  # the one that the killed writer was at
    assert sum(run.name[-12] != "a" for run in done) == 180
    faults = []
    assert len(read_finished([tmp_path], faults.append).results) == len(done)
    assert faults == []


def test_a_run_is_named_by_path_hash_or_start(grid):
    runs = grid / "runs"
    assert find_run(str(runs / DONE)) == runs / DONE
    assert find_run(f"{grid}#0000000f") == runs / FAILED
    assert find_run(f"{grid}#{DONE[:-6]}") == runs / DONE
    assert find_run(str(runs / DONE[:-6])) == runs / DONE
    assert find_run(str(grid / DONE[:-6])) == runs / DONE
    with pytest.raises(InputError, match=r"'mt-n2' must be one, got 5 that match .* longer start"):
        find_run(str(runs / "mt-n2"))
    with pytest.raises(InputError, match=f"did you mean {DONE}"):
        find_run(f"{grid}#dtc-n2-subset0-seed0-00000000aaaa")
    with pytest.raises(InputError, match="no such folder"):
        find_run(str(grid / "nothing" / "here"))
    with pytest.raises(InputError, match=r"got the file .*model\.pt\. Name the folder"):
        find_run(str(runs / DONE / "model.pt"))


def test_a_folder_may_be_named_with_a_hash_sign(grid, tmp_path):
    single = tmp_path / "b#x"
    shutil.copytree(grid / "runs" / DONE, single / "runs" / DONE)
    for text in (single, single / "runs", f"{single}#{DONE[-12:]}", single / "runs" / DONE[:-6]):
        assert find_run(str(text)) == single / "runs" / DONE
    assert leading_runs([str(single), "scan"]) == ([single / "runs" / DONE], ["scan"])


def test_the_folder_of_a_single_run_names_it(grid, tmp_path):
    (tmp_path / "one" / "runs").mkdir(parents=True)
    shutil.copytree(grid / "runs" / DONE, tmp_path / "one" / "runs" / DONE)
    assert find_run(str(tmp_path / "one")) == tmp_path / "one" / "runs" / DONE


def test_a_run_is_shown_whole(grid):
    path = grid / "runs" / DONE
    shown = json.loads(_semisam("runs", "show", path, "--json").output)
    result = json.loads((path / "result.json").read_text())
    for part in ("settings", "metrics", "cost", "versions"):
        assert shown[part] == result[part]
    assert shown["losses"] == json.loads((path / "train.jsonl").read_text().splitlines()[-1])
    text = _semisam("runs", "show", f"{grid}#{DONE[-12:]}").output
    assert text.startswith(DONE)
    assert "iterations" in text and max(map(len, text.splitlines())) <= 80
    assert "the folder of runs must exist" in _semisam("runs", "list", grid / "nothing").output


def test_a_cut_off_log_has_the_last_whole_line(grid):
    with (grid / "runs" / STOPPED / "train.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    assert read_run(grid / "runs" / STOPPED).describe()["losses"]["step"] == 2
    with (grid / "runs" / STOPPED / "train.jsonl").open("a") as file:
        file.write(f"\n{'[' * 30_000}\n")
    assert read_run(grid / "runs" / STOPPED).describe()["losses"]["step"] == 2


def test_a_run_that_has_not_begun_is_waiting(grid):
    path = grid / "runs" / "mt-n2-subset0-seed9-00000000ffff"
    path.mkdir()
    shutil.copy(grid / "runs" / DONE / "settings.json", path)
    run = read_run(path)
    assert (run.state, run.detail, run.step) == ("waiting", "0/4", None)


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "Expecting value"),
        ("[1]", "a list"),
        ('{"settings": {}}', "nothing under 'data'"),
        (b'{"run": "\xff"}', "can't decode"),
        (DEEP, "recursion"),
        ("null", "a NoneType"),
    ],
    ids=["empty", "list", "parts", "bytes", "deep", "null"],
)
def test_a_damaged_result_is_named_and_stops_no_other(grid, text, found):
    path = grid / "runs" / DAMAGED / "result.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    run = read_run(path.parent)
    assert run.state == "damaged" and found in run.detail and str(path) in run.detail
    faults = []
    assert len(read_finished([grid], faults.append).results) == 1
    assert faults == [run.detail]
    assert "1 damaged" in _semisam("runs", "list", grid).output
    table = _semisam("table", grid, "--format", "csv")
    assert table.exit_code == 0 and f"Left out: {path}" in table.output


@pytest.mark.parametrize("part", ["settings", "metrics", "cost", "data"])
def test_wrong_types_in_a_result_stop_no_other(grid, part):
    other = grid / "runs" / "mt-n2-subset0-seed7-00000000abab"
    shutil.copytree(grid / "runs" / DONE, other)
    result = json.loads((other / "result.json").read_text())
    result[part] = dict.fromkeys(result[part], "text")
    (other / "result.json").write_text(json.dumps({**result, "run": "00000000abab"}))
    assert _semisam("runs", "list", grid).exit_code == 0
    page = _semisam("report", grid, "--no-predict", "-o", grid / "page")
    assert page.exit_code == 0, page.output


@pytest.mark.parametrize(
    ("file", "name"),
    [("settings.json", "iterations"), *(("result.json", n) for n in ("sam", "departures"))],
)
def test_settings_that_lack_one_stop_no_other(grid, file, name):
    whole = json.loads((grid / "runs" / DONE / file).read_text())
    del (whole if file == "settings.json" else whole["settings"])[name]
    other = grid / "runs" / "mt-n2-subset0-seed7-00000000abab"
    other.mkdir()
    (other / file).write_text(json.dumps(whole))
    run = read_run(other)
    assert run.state == "damaged" and f"settings without {name}" in run.detail
    listed = _semisam("runs", "list", grid)
    assert listed.exit_code == 0 and "2 damaged" in listed.output
    assert _semisam("table", grid, "--format", "csv").exit_code == 0


def test_bench_names_a_damaged_result(grid, tiny_settings):
    class Silent:
        def __getattr__(self, name):
            return lambda *_: None

    (outcome,) = Local().run_all([Run(tiny_settings, DAMAGED)], grid / "runs", Silent())
    assert outcome.status == "failed" and "Delete that file" in outcome.message


def test_a_folder_is_claimed_by_settings_and_data(tiny_settings, tmp_path):
    claim(tmp_path, changed(tiny_settings, lr=0.5))
    claim(tmp_path, tiny_settings)  # the run has not begun
    assert read_settings(tmp_path) == tiny_settings
    claim_data(tmp_path, {"data": "a", "test": ["x"]})
    claim(tmp_path, changed(tiny_settings, checkpoint_every=1, save_predictions=True))
    assert read_settings(tmp_path) == tiny_settings
    with pytest.raises(InputError, match=r"a run with lr 0\.0003\. Name another folder"):
        claim(tmp_path, changed(tiny_settings, lr=0.5))
    with pytest.raises(InputError, match=r"a run with method_options ema_decay 0\.99"):
        claim(tmp_path, changed(tiny_settings, method_options={"ema_decay": 0.5}))
    claim_data(tmp_path, {"data": "a", "test": ["x"]})
    for other in ({"data": "b", "test": ["x"]}, {"data": "a", "test": ["y"]}):
        with pytest.raises(InputError, match="the scans must be those that the run began with"):
            claim_data(tmp_path, other)
