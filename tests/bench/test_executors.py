"""The executors of a grid: processes of this machine, and a Dask scheduler with real workers."""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
from grid_runs import PATIENCE, Recorder, bench, processes_of, results_of, wait_for, words
from tiny_runs import settings_of

from semisam.bench.executors import local
from semisam.bench.executors.contract import Outcome
from semisam.bench.executors.local import Local
from semisam.bench.executors.runs import is_finished
from semisam.bench.grid import Run
from semisam.bench.running import tabulate
from semisam.cli.executors import take_executor
from semisam.core.files import write_json
from semisam.run.folder import PARTS

pytestmark = pytest.mark.usefixtures("child_environment")

SCORES = dict.fromkeys(("dice", "jaccard", "asd_voxel", "hd95_voxel", "empty_predictions"), 0.5)
RESULT = {
    "run": "x",
    **{part: {} for part in PARTS},
    "settings": {
        "labels": 1,
        "method": "mt",
        "sam": "none",
        **{part: [] for part in ("departures", "choices")},
    },
    "data": {"labeled": 1, "unlabeled": 1},
    "metrics": SCORES,
    "cost": {"train_seconds": 1.0, "peak_memory_gib": 1.0},
}

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

        found = str(wait_for(address, "the scheduler"))
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

        worker, folder = wait_for(at_work, "a run with a checkpoint on a worker")
        worker.send_signal(signal.SIGKILL)
        if not is_finished(folder):
            killed.append(folder.name)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    result = bench(out, "--executor", "dask", "--scheduler", address)
    killer.join(PATIENCE)
    assert result.exit_code == 0, result.output
    assert killed, "the worker died too late to test anything"
    assert sorted(worker.poll() is None for worker in workers) == [False, True]
    pd.testing.assert_frame_equal(results_of(out), reference)
    assert "2/2" in result.output and "Comparison" in result.output
    assert not processes_of(out)


def test_a_dask_without_this_semisam_is_one_sentence(scheduler, tmp_path, monkeypatch):
    from semisam.bench.executors import dask_task

    address, _ = scheduler
    # What this process pickles by its name is no name there.
    monkeypatch.setattr(dask_task.is_known, "__module__", "semisam.of_the_future")
    module = type(sys)("semisam.of_the_future")
    module.is_known = dask_task.is_known
    monkeypatch.setitem(sys.modules, "semisam.of_the_future", module)
    result = bench(tmp_path / "out", "--executor", "dask", "--scheduler", address)
    assert result.exit_code == 2 and "Traceback" not in result.output
    assert "must be able to import this version of semisam" in words(result.output)
    assert "No module named 'semisam.of_the_future'" in words(result.output)
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
        result = bench(tmp_path / "out", "--executor", "dask", "--scheduler", address)
    assert result.exit_code == 2
    assert "--scheduler must be the address of a running Dask scheduler" in result.output
    assert address in words(result.output) and "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "address", ["nonsense", "tcp://", "http://127.0.0.1:1", "tcp://[::", "a:b"]
)
def test_what_is_no_address_is_one_sentence(tmp_path, address):
    result = bench(tmp_path / "out", "--executor", "dask", "--scheduler", address)
    assert result.exit_code == 2 and "--scheduler must be" in result.output


# This machine


def _press_ctrl_c() -> None:
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


class _AtOnce(Recorder):
    """A display that sends Ctrl-C at the start of the run, and again at the note of the stop."""

    def started(self, run: Run) -> None:
        super().started(run)
        threading.Timer(1.0, _press_ctrl_c).start()

    def note(self, text: str) -> None:
        super().note(text)
        threading.Timer(0.5, _press_ctrl_c).start()


def test_a_second_ctrl_c_waits_for_no_run(tmp_path, monkeypatch):
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
    command = [sys.executable, "-c", deaf, str(tmp_path)]
    monkeypatch.setattr(local, "worker_command", lambda folder, *more: command)
    settings = settings_of(data=str(tmp_path), dataset="la", method="mt", labels=1)
    display = _AtOnce()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            Local().run_all([Run(settings, "run")], tmp_path, display)
    finally:
        signal.signal(signal.SIGINT, before)
    (note,) = display.notes
    assert note.startswith("Stopping") and not processes_of(deaf)


def test_few_open_files_and_a_removed_folder_are_one_sentence_each(tmp_path, monkeypatch):
    settings = settings_of(data=str(tmp_path), dataset="la", method="mt", labels=1)
    runs, folder = [Run(settings, "run")], tmp_path / "out"

    def none_left(*args: Any, **options: Any) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    def remove(*args: Any, **options: Any) -> int:
        shutil.rmtree(folder)
        return 2

    monkeypatch.setattr(local.subprocess, "Popen", none_left)
    (outcome,) = Local().run_all(runs, folder, Recorder())
    assert outcome.status == "failed" and "Raise the limit of open files" in outcome.message
    monkeypatch.setattr(Local, "_spawn", remove)
    (outcome,) = Local().run_all(runs, folder, Recorder())
    assert outcome.status == "failed" and "which was removed" in outcome.message
    assert tabulate(folder).empty


# The command line


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--scheduler", "tcp://127.0.0.1:1"), "--scheduler must go with --executor dask"),
        (("--executor", "dask"), "either --scheduler ADDRESS or --cluster NAME, got neither"),
        (
            ("--executor", "dask", "--scheduler", "tcp://127.0.0.1:1", "--cluster", "pbs"),
            "either --scheduler ADDRESS or --cluster NAME, got both",
        ),
        (
            ("--executor", "dask", "--scheduler", "tcp://127.0.0.1:1", "--workers", "2"),
            "--workers must go with --cluster",
        ),
        (("--executor", "dask", "--jobs", "2"), "--jobs must go with --executor local"),
        (
            ("--executor", "dask", "--cluster", "lsf", "--device", "cuda:0,cuda:1"),
            "--device must name one device with --executor dask",
        ),
        (("--device", "cpu,nothing"), "--device must name devices that torch can use here"),
    ],
)
def test_options_that_do_not_go_together(tmp_path, options, said):
    result = bench(tmp_path / "out", *options)
    assert result.exit_code == 2 and said in words(result.output)
    assert result.output.count("\n") == 1 and not (tmp_path / "out").exists()


def test_what_is_not_installed_is_one_sentence(tmp_path, monkeypatch):
    from semisam.cli import executors

    monkeypatch.setenv("PATH", str(tmp_path))
    result = bench(tmp_path / "out", "--executor", "dask", "--cluster", "pbs")
    assert (
        result.exit_code == 2
        and "--cluster pbs must be used where qsub is on the PATH" in words(result.output)
    )
    monkeypatch.setattr(executors.importlib.util, "find_spec", lambda name: None)
    result = bench(tmp_path / "out", "--executor", "dask", "--scheduler", "tcp://127.0.0.1:1")
    assert result.exit_code == 2 and "pip install 'semisam[dask]'" in words(result.output)


def test_the_other_executors_need_no_dask(monkeypatch):
    from semisam.bench import executors

    for name in ("dask", "distributed", "dask_jobqueue"):
        monkeypatch.setitem(sys.modules, name, None)  # as if not installed
    for name in ("contract", "runs", "local"):
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
    given = {"executor": "local", "jobs": jobs, "device": device}
    given |= dict.fromkeys(("scheduler", "cluster", "workers"))
    executor = take_executor(given)
    assert isinstance(executor, Local) and executor.jobs == expected and executor.here
    assert given == {"device": "cpu" if device else None}


@pytest.mark.slow
def test_a_failed_run_stops_no_other_on_dask_and_says_its_sentence(tmp_path):
    """The files of a run decide its outcome, not the exit code of its worker."""
    from semisam.bench.executors.dask_task import NO_FOLDER
    from semisam.bench.executors.runs import judge

    settings = settings_of(data=str(tmp_path), dataset="la", method="mt", labels=1)
    run = Run(settings, "run")
    write_json(tmp_path / "error.json", {"error": "the loss is nan"})
    assert judge(run, tmp_path, 1) == Outcome(run, "failed", "the loss is nan")
    write_json(tmp_path / "result.json", RESULT)
    assert judge(run, tmp_path, NO_FOLDER) == Outcome(run, "done")
