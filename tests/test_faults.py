"""What a grid survives: SIGKILL, a full disk, a damaged checkpoint."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_runs import TINY_NET

from semisam.bench.running import bench
from semisam.core.errors import SemisamWarning
from semisam.run.execute import execute
from semisam.run.folder import list_runs
from semisam.training.checkpoint import save_checkpoint, save_tensors
from semisam.training.trainer import Interrupted

PATIENCE = 240.0
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL, no limits there")


@pytest.fixture(scope="module")
def faults():
    """The long study of the same, for how it kills and compares."""
    path = Path(__file__).resolve().parents[1] / "benchmarks" / "faults.py"
    spec = importlib.util.spec_from_file_location("faults", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look there
    spec.loader.exec_module(module)
    return module


def _command(out, *more):
    return [
        *(sys.executable, "-m", "semisam", "bench", "--out", str(out)),
        *("--method", "mt", "--sam", "geodesic", "--labels", "2"),
        *("--set", "phantom.cases=4", "--set", "phantom.test_cases=2", "--set", "phantom.size=32"),
        *("--patch", "16x16x16", "--stride", "16x16x16", *TINY_NET),
        *("--iterations", "40", "--checkpoint-every", "5", *more),
    ]


def _until(condition, process):
    """Wait for a condition as long as the process is at work."""
    deadline = time.monotonic() + PATIENCE
    while not condition() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture(scope="module")
def two_grids(tmp_path_factory, faults):
    """The folder of two grids that were started at once, what each printed, and how it ended."""
    out = tmp_path_factory.mktemp("shared") / "out"
    grids = [
        subprocess.Popen(
            _command(out), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8"
        )
        for _ in range(2)
    ]
    try:
        said = [grid.communicate(timeout=PATIENCE)[0] for grid in grids]
    finally:
        for grid in grids:
            faults.kill(grid, "all")
    return out, said, [grid.returncode for grid in grids]


@pytest.mark.slow
def test_two_grids_in_one_folder_share_their_run(two_grids):
    out, said, codes = two_grids
    assert codes == [0, 0], said
    # It was executed by one of them, and both have its result.
    assert len(re.findall(r"seed 0: done, in ", "".join(said), re.MULTILINE)) == 1, said
    other = r"seed 0: (?:done by another process|finished earlier), Dice"
    assert len(re.findall(other, "".join(said), re.MULTILINE)) == 1, said
    assert [run.state for run in list_runs(out)] == ["done"]
    assert len((out / "results.csv").read_text().splitlines()) == 2


@pytest.mark.slow
def test_killed_at_any_moment_and_started_again_the_table_is_the_same(tmp_path, faults, two_grids):
    for attempt in range(5):  # a machine may be so busy that the run ends before it is hit
        out = tmp_path / f"out-{attempt}"
        for whom, file in (("run", "checkpoint.pt"), ("all", "checkpoint.previous.pt")):
            with (tmp_path / "log").open("ab") as log:
                process = subprocess.Popen(_command(out), stdout=log, stderr=log)
                try:
                    _until(lambda out=out, file=file: list(out.glob(f"runs/*/{file}")), process)
                finally:
                    faults.kill(process, whom)
        if list(out.glob("runs/*/checkpoint.pt")):
            break
    (checkpoint,) = out.glob("runs/*/checkpoint.pt")
    # Beside and renamed: killed between two steps of a write, both checkpoints are one file.
    damaged = tmp_path / "damaged"
    damaged.write_bytes(checkpoint.read_bytes()[:-1000])
    damaged.replace(checkpoint)
    again = subprocess.run(
        _command(out), check=True, capture_output=True, encoding="utf-8", timeout=PATIENCE
    )
    assert "the newest checkpoint cannot be read" in " ".join(again.stderr.split())
    assert faults.digest(out) == faults.digest(two_grids[0])
    assert faults.leftovers(out) == []


def _names(folder):
    """Return the files of a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def kill_points(tmp_path, monkeypatch):
    """A function that does some work and copies its folder at every rename, as a kill leaves it."""
    replace = os.replace

    def points(work, folder):
        copies = []

        def copy():
            copies.append(tmp_path / f"killed-{len(copies)}")
            shutil.copytree(folder, copies[-1])

        def copying(source, target, **options):
            copy()
            replace(source, target, **options)
            if Path(target).name in ("result.json", "settings.json"):
                copy()

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", copying)
            work(folder)
        return copies

    return points


def test_train_killed_at_any_rename_leaves_no_file_behind(tiny_settings, tmp_path, kill_points):
    settings = tiny_settings.model_copy(update={"save_predictions": True})

    def work(folder):
        return execute(settings, folder)

    copies = kill_points(work, tmp_path / "whole")
    left = [name for copy in copies for name in _names(copy) if ".tmp" in name]
    assert {"checkpoint.previous.tmp", "checkpoint.pt"} <= {Path(n).name for n in left} | {
        name for copy in copies for name in _names(copy)
    }
    for copy in copies:
        work(copy)
        assert _names(copy) == _names(tmp_path / "whole")
        for name in ("model.pt", "train.jsonl", "split.json", "settings.json"):
            same = (copy / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
            assert same or name == "train.jsonl"


@pytest.mark.slow
def test_bench_killed_at_any_rename_leaves_no_file_behind(tmp_path, kill_points, in_process):
    # In this process, so that every rename is seen.
    options = {"phantom.cases": 4, "phantom.test_cases": 2, "phantom.size": 32, "vnet.filters": 2}
    tiny = {"patch": (16, 16, 16), "stride": (16, 16, 16), "iterations": 2, "checkpoint_every": 1}
    tiny["network"] = "vnet"

    def work(folder):
        bench("mt", labels=2, sams="none", out=folder, options=options, precision="fp32", **tiny)

    (tmp_path / "whole").mkdir()
    copies = kill_points(work, tmp_path / "whole")
    assert any((copy / "results.csv").exists() for copy in copies)
    for copy in copies:
        work(copy)
        assert _names(copy) == _names(tmp_path / "whole")


def test_a_full_disk_is_one_sentence_and_the_run_goes_on_when_there_is_room(
    tmp_path, faults, two_grids
):
    resource = pytest.importorskip("resource")
    out = tmp_path / "out"
    # A file may grow to what the settings and the log need; a checkpoint needs more.
    limited = subprocess.run(
        _command(out),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
        capture_output=True,
        encoding="utf-8",
        timeout=PATIENCE,
    )
    assert limited.returncode == 1
    said = " ".join(limited.stderr.split())
    assert "the disk must have room, got a full one" in said and "Traceback" not in said
    (run,) = list_runs(out)
    assert run.state == "failed" and "the disk must have room" in run.detail
    files = {path.name for path in (out / "runs" / run.name).iterdir()}
    assert not files & {"checkpoint.pt", "model.pt", "result.json"}
    assert not [name for name in files if name.endswith(".tmp")]
    for path in (out / "runs" / run.name).glob("*.json"):
        json.loads(path.read_text())

    subprocess.run(_command(out), check=True, capture_output=True, timeout=PATIENCE)
    (run,) = list_runs(out)
    assert run.state == "done" and faults.digest(out) == faults.digest(two_grids[0])


def test_a_disk_that_fills_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, {"step": 1})
    before = (tmp_path / "checkpoint.pt").read_bytes()

    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *exc):
            self.file.close()

        def write(self, data):
            self.file.write(bytes(data)[:10])
            raise OSError(28, "No space left on device")

        def flush(self):
            """Nothing is kept back."""

    opened = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *mode: Full(opened(self, *mode)))
    with pytest.raises(OSError, match="No space left"):
        save_tensors({"step": 2}, tmp_path / "other.pt")
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, {"step": 2})
    monkeypatch.undo()
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert not list(tmp_path.glob("*.tmp")) and not list(tmp_path.glob(".*.tmp"))


def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(tiny_settings, tmp_path):
    def interrupt(phase, done, total, figures):
        if phase == "train" and done == 3:
            raise Interrupted(done)

    settings = tiny_settings.model_copy(update={"checkpoint_every": 1})
    whole = execute(settings, tmp_path / "whole")
    with pytest.raises(Interrupted):
        execute(settings, tmp_path / "run", interrupt)
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    # Beside and renamed: killed between two steps of a write, both checkpoints are one file.
    damaged = tmp_path / "damaged"
    damaged.write_bytes(checkpoint.read_bytes()[:-1000])
    damaged.replace(checkpoint)
    with pytest.warns(SemisamWarning, match="resumes from the previous one, after 2 iterations"):
        result = execute(settings, tmp_path / "run")
    one, other = (json.loads(path.read_text())["metrics"] for path in (whole, result))
    assert one == other
