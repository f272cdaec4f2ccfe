"""The executors of a grid: local, a Dask scheduler with real workers, SLURM's commands."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import fake_slurm
import pandas as pd
import psutil
import pytest
from click.testing import CliRunner

import semisam
from semisam.bench.executors.contract import Executor, Outcome
from semisam.bench.executors.local import Local
from semisam.bench.executors.runs import is_finished
from semisam.bench.executors.slurm import Slurm, sbatch_option
from semisam.bench.grid import Axes, Run, check, expand
from semisam.bench.store import PARTS
from semisam.cli.executors import take_executor
from semisam.cli.main import main
from semisam.core.errors import InputError
from semisam.core.files import write_json
from semisam.run.settings import RunSettings

PATIENCE = 240
"""Seconds after which a test gives up; two slow cores that import torch take a while."""
GRID = {
    **{"patch": "16x16x16", "stride": "16x16x16", "iterations": "40", "checkpoint-every": "5"},
    **{"set": "vnet.filters=2", "method": "mt", "labels": "1,2", "sam": "none"},
    **{"dataset": "phantom", "precision": "fp32"},
}
PHANTOM = ("phantom.cases=4", "phantom.test_cases=2", "phantom.size=32")

RESULT = {"run": "x", **{part: {} for part in PARTS}}
# Beside and renamed, as semisam writes it.
FINISH = f"""echo '{json.dumps(RESULT)}' > "$1/new"; mv "$1/new" "$1/result.json"
"""


@pytest.fixture(autouse=True, scope="module")
def _environment() -> Iterator[None]:
    """What a process of a test inherits: this semisam, one thread, loopback alone."""
    here = [str(Path(semisam.__file__).parents[1])]
    if given := os.environ.get("PYTHONPATH"):
        here.append(given)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(here))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


def _bench(out: Path, *more: str) -> Any:
    arguments = [text for key, value in GRID.items() for text in (f"--{key}", value)]
    for option in PHANTOM:
        arguments += ["--set", option]
    return CliRunner().invoke(main, ["bench", *arguments, "--out", str(out), *more])


def _words(text: str) -> str:
    """Return an output without its line breaks, which the width of a terminal decides."""
    return " ".join(text.split())


def _wait(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {PATIENCE} s for {what}"
        time.sleep(0.02)
    return value


def _runs(labels: tuple[int, ...] = (2,), iterations: int = 40) -> list[Run]:
    common = {
        **{"dataset": "phantom", "patch": (16, 16, 16), "stride": (16, 16, 16)},
        **{"dataset_options": {"cases": 4, "test_cases": 2, "size": 32}, "iterations": iterations},
        **{"checkpoint_every": 5, "precision": "fp32", "network_options": {"filters": 2}},
    }
    return check(expand(Axes(["mt"], labels=labels), common, {}, {}), here=False)


def _processes(text: str | Path) -> list[psutil.Process]:
    """Return the processes that have a text in their command."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and str(text) in " ".join(
                process.cmdline()
            ):
                found.append(process)
    return found


class Recorder:
    """A display that remembers, and may press Ctrl-C once a run trains."""

    def __init__(self, interrupt: bool = False) -> None:
        self.notes: list[str] = []
        self.moves: list[dict[str, Any]] = []
        self.ends: list[Outcome] = []
        self._interrupt = interrupt

    def started(self, run: Run) -> None:
        pass

    def moved(self, run: Run, state: dict[str, Any]) -> None:
        self.moves.append(state)
        if self._interrupt and state["phase"] == "train" and state["done"] > 5:
            self._interrupt = False
            raise KeyboardInterrupt

    def ended(self, outcome: Outcome) -> None:
        self.ends.append(outcome)

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The results of the grid on two devices of this machine, of which both are its CPU."""
    out = tmp_path_factory.mktemp("local")
    result = _bench(out, "--device", "cpu,cpu")
    assert result.exit_code == 0, result.output
    return _results(out)


def _results(out: Path) -> pd.DataFrame:
    """Return what a run's place must not change: all but its cost and when it was cut off."""
    frame = pd.read_csv(out / "results.csv").sort_values("run", ignore_index=True)
    kept = [name for name in frame if name.startswith(("metrics.", "data.", "run", "settings."))]
    return frame[[name for name in kept if "second" not in name and "device" not in name]]


# Dask


def _dask(*command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.fixture(scope="module")
def scheduler(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A Dask scheduler on loopback and two workers, each a process."""
    folder = tmp_path_factory.mktemp("dask")
    file = folder / "scheduler.json"
    where = ("--host", "127.0.0.1", "--no-dashboard")
    processes = [
        _dask("distributed.cli.dask_scheduler", *where, "--port=0", f"--scheduler-file={file}")
    ]
    workers: list[subprocess.Popen[bytes]] = []
    try:

        def address() -> str | None:
            assert processes[0].poll() is None, "the scheduler ended"
            with contextlib.suppress(OSError, ValueError):
                return str(json.loads(file.read_text())["address"])
            return None

        found = str(_wait(address, "the scheduler"))
        for number in range(2):
            local = f"--local-directory={folder / str(number)}"
            options = ("--no-nanny", "--nthreads=1", local)
            workers.append(_dask("distributed.cli.dask_worker", found, *where, *options))
        yield found, workers
    finally:
        for process in (*workers, *processes):
            process.kill()
            process.wait()


@pytest.mark.slow
def test_a_killed_dask_worker_changes_no_result(scheduler, tmp_path, reference):
    address, workers = scheduler
    out = tmp_path / "out"
    killed: list[str] = []

    def kill() -> None:
        def at_work() -> tuple[subprocess.Popen[bytes], Path] | None:
            for worker in workers:
                with contextlib.suppress(psutil.Error):
                    for child in psutil.Process(worker.pid).children():
                        folder = next((p for p in child.cmdline() if str(out) in p), None)
                        if folder and (Path(folder) / "checkpoint.pt").exists():
                            return worker, Path(folder)
            return None

        worker, folder = _wait(at_work, "a run with a checkpoint on a worker")
        worker.send_signal(signal.SIGKILL)
        if not is_finished(folder):
            killed.append(folder.name)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    result = _bench(out, "--executor", "dask", "--scheduler", address)
    killer.join(PATIENCE)
    assert result.exit_code == 0, result.output
    assert killed, "the worker died too late to test anything"
    assert sorted(worker.poll() is None for worker in workers) == [False, True]
    pd.testing.assert_frame_equal(_results(out), reference)
    assert "2/2" in result.output and "Comparison" in result.output
    assert not _processes(out)


def test_a_dask_without_this_semisam_is_one_sentence(scheduler, tmp_path, monkeypatch):
    from semisam.bench.executors import dask_task

    address, _ = scheduler
    # What this process pickles by its name is no name there.
    monkeypatch.setattr(dask_task.is_known, "__module__", "semisam.of_the_future")
    module = type(sys)("semisam.of_the_future")
    module.is_known = dask_task.is_known
    monkeypatch.setitem(sys.modules, "semisam.of_the_future", module)
    result = _bench(tmp_path / "out", "--executor", "dask", "--scheduler", address)
    assert result.exit_code == 2 and "Traceback" not in result.output
    assert "must be able to import this version of semisam" in _words(result.output)
    assert "No module named 'semisam.of_the_future'" in _words(result.output)
    assert not (tmp_path / "out").exists()


def test_a_second_grid_forgets_no_run_of_the_first():
    from types import SimpleNamespace

    from semisam.bench.executors.dask_task import StopRuns

    worker = SimpleNamespace()
    first, second = StopRuns(), StopRuns()
    first.setup(worker)
    first.transition("run", "ready", "executing")
    unwanted = first.unwanted["run"]
    second.setup(worker)
    assert not unwanted.is_set()
    second.transition("run", "executing", "released")
    assert unwanted.is_set()


def test_no_dask_scheduler_is_one_sentence(tmp_path, monkeypatch):
    import socket

    from semisam.bench.executors import dask as executor

    monkeypatch.setattr(executor, "_CONNECT", 2.0)
    with socket.socket() as unused:  # bound but not listening: nobody else gets the port
        unused.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{unused.getsockname()[1]}"
        result = _bench(tmp_path / "out", "--executor", "dask", "--scheduler", address)
    assert result.exit_code == 2
    assert "--scheduler must be the address of a Dask scheduler that answers" in result.output
    assert address in _words(result.output) and "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "address", ["nonsense", "tcp://", "http://127.0.0.1:1", "tcp://[::", "a:b"]
)
def test_what_is_no_address_is_one_sentence(tmp_path, address):
    result = _bench(tmp_path / "out", "--executor", "dask", "--scheduler", address)
    assert result.exit_code == 2 and "--scheduler must be" in result.output


@pytest.fixture
def jobqueue(tmp_path: Path) -> Iterator[None]:
    """A user's configuration of dask-jobqueue: jobs of one core, all on loopback."""
    from semisam.bench.executors.dask import load_jobqueue

    before = signal.getsignal(signal.SIGINT)
    load_jobqueue()
    assert signal.getsignal(signal.SIGINT) == before, "dask-jobqueue keeps Ctrl-C for itself"
    own: dict[str, Any] = {"cores": 1, "memory": "1GiB", "interface": "lo", "walltime": "00:10:00"}
    own |= {
        "log-directory": str(tmp_path),
        "scheduler-options": {"dashboard_address": "127.0.0.1:0"},
    }
    own["worker-extra-args"] = ["--no-nanny", "--no-dashboard"]
    with dask.config.set({"jobqueue.slurm": {**dask.config.get("jobqueue.slurm"), **own}}):
        yield


def test_a_dask_cluster_of_jobs_ends_with_ctrl_c(slurm, tmp_path, jobqueue, monkeypatch):
    from semisam.bench.executors.dask import Dask

    (run,) = _runs(iterations=100_000)
    display = Recorder(interrupt=True)
    executor = Dask(cluster="slurm", workers=1)
    close = executor._client.close

    def closing() -> None:
        # The worker ends its run; the end of the cluster is not what ends it.
        _wait(lambda: not _processes(tmp_path / "runs"), "the run's end")
        close()

    monkeypatch.setattr(executor._client, "close", closing)
    (outcome,) = executor.run_all([run], tmp_path / "runs", display)
    assert outcome.status == "interrupted" and display.ends == [outcome]
    assert (tmp_path / "runs" / run.name / "checkpoint.pt").exists()
    assert list(fake_slurm.jobs(slurm)) == ["1"]
    _wait(lambda: fake_slurm.jobs(slurm)["1"]["state"] != "RUNNING", "the end of the job")


# SLURM


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A SLURM of files, first on the PATH; where the files lie."""
    folder = tmp_path / "slurm"
    programs = fake_slurm.install(folder)
    monkeypatch.setenv("PATH", os.pathsep.join([str(programs), os.environ["PATH"]]))
    try:
        yield folder
    finally:
        fake_slurm.kill_all(folder)


def test_a_job_that_meets_its_time_limit_goes_on_in_another(slurm, tmp_path, reference):
    runs = _runs()
    folder = tmp_path / "100% runs" / "runs"  # SLURM reads % as a pattern
    limited: list[str] = []

    def limit() -> None:
        def first() -> bool:
            return (folder / runs[0].name / "checkpoint.pt").exists()

        _wait(first, "a checkpoint")
        fake_slurm.end(slurm, "1", "TIMEOUT")
        limited.append(runs[0].name)

    timer = threading.Thread(target=limit, daemon=True)
    timer.start()
    display = Recorder()
    executor = Slurm({"partition": "gpu", "exclusive": ""}, jobs=1, every=0.2)
    outcomes = executor.run_all(runs, folder, display)
    timer.join(PATIENCE)
    assert limited and [outcome.status for outcome in outcomes] == ["done"]
    assert [state["phase"] for state in display.moves if state["done"]]
    assert any("goes on in another job" in note for note in display.notes)
    jobs = fake_slurm.jobs(slurm)
    executed = [job["name"].split("-", 2)[2] for job in jobs.values()]
    assert executed == [runs[0].name] * 2
    options = jobs["1"]["options"]
    assert options["partition"] == "gpu" and options["exclusive"] == ""
    again = executor.run_all(runs, folder, Recorder())
    assert [outcome.status for outcome in again] == ["kept"]
    assert len(fake_slurm.jobs(slurm)) == 2
    from semisam.bench.results import collect, write

    write(collect(folder / run.name for run in runs), tmp_path / "results.csv", digits=10)
    found = _results(tmp_path)
    same = reference[reference["run"].isin(found["run"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, same)


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[Run]]:
    """Runs whose jobs execute a line of shell in their folder, ``$1``, in place of training."""

    def jobs_do(line: str, number: int = 1) -> list[Run]:
        from semisam.bench.executors import slurm

        def command(folder: Path, *more: str) -> list[str]:
            return ["/bin/sh", "-c", line, "sh", str(folder)]

        monkeypatch.setattr(slurm, "worker_command", command)
        settings = RunSettings(data=str(tmp_path), dataset="la", method="mt", labels=1)
        return [Run(settings, f"run{i}") for i in range(number)]

    return jobs_do


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("""echo '{"error": "the loss is nan"}' > "$1/error.json"; exit 2""", "the loss is nan"),
        ("exit 3", "job 1 ended as FAILED without a result; see"),
        # It came no further, so it is not tried for ever.
        ("exit 0", "job 1 ended as COMPLETED without a result; see"),
    ],
)
def test_a_failed_job_is_told_and_not_repeated(slurm, tmp_path, quick, monkeypatch, line, said):
    from semisam.bench.executors import slurm as executor

    # Nothing else writes here, so there is nothing that could show later.
    monkeypatch.setattr(executor, "wait_shown", lambda folder: None)
    (outcome,) = Slurm({}, every=0.05).run_all(quick(line), tmp_path / "out", Recorder())
    assert outcome.status == "failed" and said in outcome.message
    assert len(fake_slurm.jobs(slurm)) == 1


def test_ctrl_c_cancels_the_jobs(slurm, tmp_path, quick):
    line = """
    trap 'touch "$1/saved"; exit 130' TERM
    echo '{"phase": "train", "done": 6, "total": 9}' > "$1/progress.json"
    while :; do sleep 0.05; done
    """
    runs = quick(line, 3)
    display = Recorder(interrupt=True)
    outcomes = Slurm({}, jobs=2, every=0.05).run_all(runs, tmp_path / "out", display)
    assert [outcome.status for outcome in outcomes] == ["interrupted"] * 3
    jobs = fake_slurm.jobs(slurm)
    assert [job["state"] for job in jobs.values()] == ["CANCELLED"] * 2
    assert not (tmp_path / "out" / "run2").exists()


def test_the_jobs_of_a_grid_that_died_are_found_again(slurm, tmp_path, quick):
    wait = 'while [ ! -e "$1/go" ]; do sleep 0.02; done; ' + FINISH
    (run,) = quick(wait)

    class Gone(Slurm):
        """A grid that dies as soon as its job is submitted."""

        def _update(self, grid: Any) -> None:
            raise SystemExit

    with pytest.raises(SystemExit):
        Gone({}).run_all([run], tmp_path / "out", Recorder())
    (tmp_path / "out" / run.name / "go").touch()
    (outcome,) = Slurm({}, every=0.05).run_all([run], tmp_path / "out", Recorder())
    assert outcome.status in ("done", "kept") and len(fake_slurm.jobs(slurm)) == 1


def test_a_limit_on_submitted_jobs_is_told_and_waited_for(slurm, tmp_path, quick):
    (slurm / "limit").write_text("1")
    runs = quick("sleep 0.2; " + FINISH, 3)
    display = Recorder()
    outcomes = Slurm({}, every=0.05).run_all(runs, tmp_path / "out", display)
    assert [outcome.status for outcome in outcomes] == ["done"] * 3
    assert len(fake_slurm.jobs(slurm)) == 3
    (refused,) = [note for note in display.notes if "QOSMaxSubmitJobPerUserLimit" in note]
    assert "tried again" in refused


def test_what_sbatch_refuses_is_one_sentence(slurm, tmp_path):
    result = _bench(tmp_path / "out", "--executor", "slurm", "--slurm", "partition=closed")
    assert result.exit_code == 2
    assert "sbatch must take the job of mt-n1" in _words(result.output)
    assert "invalid partition specified: closed" in _words(result.output)
    assert not fake_slurm.jobs(slurm)


def test_a_slurm_that_does_not_answer_is_one_sentence_before_anything_starts(slurm, tmp_path):
    (slurm / "down").touch()
    result = _bench(tmp_path / "out", "--executor", "slurm")
    assert result.exit_code == 2 and not (tmp_path / "out").exists()
    assert "needs a SLURM that answers, got 'slurm_load_jobs error" in _words(result.output)


def test_a_pause_of_squeue_is_no_end_of_jobs(slurm, tmp_path, quick):
    line = """
    touch "$(dirname "$(dirname "$1")")/slurm/down"; sleep 0.5
    rm "$(dirname "$(dirname "$1")")/slurm/down"
    """
    (outcome,) = Slurm({}, every=0.05).run_all(quick(line + FINISH), tmp_path / "out", Recorder())
    assert outcome.status == "done"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("Partition gpu", "", "the long name of an option of sbatch"),
        ("job-name", "x", "must leave job-name to the grid"),
        ("comment", "a\nb", "must be printable text on one line"),
    ],
)
def test_options_of_sbatch_that_cannot_be(key, value, said):
    with pytest.raises(InputError, match=said):
        sbatch_option(key, value)
    assert sbatch_option("comment", "a; rm -rf $HOME") == "--comment=a; rm -rf $HOME"


# The command line


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--scheduler", "tcp://127.0.0.1:1"), "--scheduler must go with --executor dask"),
        (("--slurm", "partition=x"), "--slurm must go with --executor slurm"),
        (("--executor", "dask"), "needs one of --scheduler ADDRESS and --cluster NAME, got none"),
        (
            ("--executor", "dask", "--scheduler", "tcp://127.0.0.1:1", "--cluster", "pbs"),
            "needs one of --scheduler ADDRESS and --cluster NAME, got both",
        ),
        (
            ("--executor", "dask", "--scheduler", "tcp://127.0.0.1:1", "--workers", "2"),
            "--workers must go with --cluster",
        ),
        (("--executor", "dask", "--jobs", "2"), "--jobs must go with --executor local or slurm"),
        (("--executor", "slurm", "--slurm", "time="), "must be of the form KEY=VALUE"),
        (("--executor", "slurm", "--device", "cuda:0,cuda:1"), "a machine's one device"),
        (("--device", "cpu,nothing"), "--device must name devices that torch can use here"),
    ],
)
def test_options_that_do_not_go_together(tmp_path, slurm, options, said):
    result = _bench(tmp_path / "out", *options)
    assert result.exit_code == 2 and said in _words(result.output)
    assert result.output.count("\n") == 1 and not (tmp_path / "out").exists()


def test_what_is_not_installed_is_one_sentence(tmp_path, monkeypatch):
    from semisam.cli import executors

    monkeypatch.setenv("PATH", str(tmp_path))
    result = _bench(tmp_path / "out", "--executor", "slurm")
    assert result.exit_code == 2
    assert "needs sbatch, squeue and scancel on the PATH" in _words(result.output)
    result = _bench(tmp_path / "out", "--executor", "dask", "--cluster", "pbs")
    assert result.exit_code == 2 and "--cluster pbs needs qsub" in _words(result.output)
    monkeypatch.setattr(executors.importlib.util, "find_spec", lambda name: None)
    result = _bench(tmp_path / "out", "--executor", "dask", "--scheduler", "tcp://127.0.0.1:1")
    assert result.exit_code == 2 and "pip install 'semisam[dask]'" in _words(result.output)


def test_the_other_executors_need_no_dask(monkeypatch):
    from semisam.bench import executors

    for name in ("dask", "distributed", "dask_jobqueue"):
        monkeypatch.setitem(sys.modules, name, None)  # as if not installed
    for name in ("contract", "runs", "local", "slurm"):
        module = f"semisam.bench.executors.{name}"
        monkeypatch.setattr(executors, name, importlib.import_module(module))  # put back after
        monkeypatch.delitem(sys.modules, module)
        importlib.import_module(module)
    with pytest.raises(ImportError):
        monkeypatch.delitem(sys.modules, "semisam.bench.executors.dask", raising=False)
        importlib.import_module("semisam.bench.executors.dask")


@pytest.mark.parametrize(
    ("device", "jobs", "expected"), [(None, None, 1), ("cpu,cpu", None, 2), ("cpu", 3, 3)]
)
def test_one_local_job_a_device_unless_told(device, jobs, expected):
    given = {"executor": "local", "jobs": jobs, "device": device, "slurm": ()}
    given |= dict.fromkeys(("scheduler", "cluster", "workers"))
    executor = take_executor(given)
    assert isinstance(executor, Local) and executor.jobs == expected and executor.here
    assert given == {"device": "cpu" if device else None}


# Real SLURM: benchmarks/slurm_loopback.sh start, then SEMISAM_SLURM=1.

real_slurm = pytest.mark.skipif(
    os.environ.get("SEMISAM_SLURM") != "1" or not shutil.which("sbatch"),
    reason="needs a real SLURM and SEMISAM_SLURM=1",
)


@real_slurm
def test_real_slurm_executes_a_grid(tmp_path, reference):
    out = tmp_path / "100% out"
    result = _bench(out, "--executor", "slurm", "--slurm", "time=5")
    assert result.exit_code == 0, result.output
    pd.testing.assert_frame_equal(_results(out), reference)


@real_slurm
def test_real_slurm_ends_its_jobs_on_ctrl_c_and_goes_on(tmp_path):
    runs = _runs(iterations=600)
    executor: Executor = Slurm({"time": "5"}, every=1.0)
    (outcome,) = executor.run_all(runs, tmp_path, Recorder(interrupt=True))
    assert outcome.status == "interrupted"
    assert (tmp_path / runs[0].name / "checkpoint.pt").exists()
    assert not _processes(tmp_path / runs[0].name)
    (outcome,) = executor.run_all(runs, tmp_path, Recorder())
    assert outcome.status == "done"


@real_slurm
def test_real_slurm_holds_a_dask_cluster(tmp_path, reference, jobqueue):
    out = tmp_path / "out"
    result = _bench(out, "--executor", "dask", "--cluster", "slurm")
    assert result.exit_code == 0, result.output
    pd.testing.assert_frame_equal(_results(out), reference)


@pytest.mark.slow
def test_a_failed_run_stops_no_other_on_dask_and_says_its_sentence(tmp_path):
    """What a worker returns is judged by what the run wrote, not by its code."""
    from semisam.bench.executors.dask_task import NO_FOLDER
    from semisam.bench.executors.runs import judge

    settings = RunSettings(data=str(tmp_path), dataset="la", method="mt", labels=1)
    run = Run(settings, "run")
    write_json(tmp_path / "error.json", {"error": "the loss is nan"})
    assert judge(run, tmp_path, 1) == Outcome(run, "failed", "the loss is nan")
    write_json(tmp_path / "result.json", RESULT)
    assert judge(run, tmp_path, NO_FOLDER) == Outcome(run, "done")
