"""Runs of a grid on this machine: one process each, idempotent, none in the way of the others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from semisam.bench.grid import Run
from semisam.bench.worker import ERROR, INTERRUPTED, PROGRESS
from semisam.files import write_json
from semisam.run import RESULT

LOG = "run.log"
_POLL = 0.25

Status = Literal["done", "kept", "failed", "interrupted"]


@dataclass(frozen=True)
class Outcome:
    """How a run ended: ``kept`` was finished earlier and not run again."""

    run: Run
    status: Status
    message: str = ""


class Display(Protocol):
    """What shows the grid's progress."""

    def started(self, run: Run) -> None:
        """Show that a run begins."""

    def moved(self, run: Run, state: dict[str, Any]) -> None:
        """Show how far a run is: ``phase``, ``done``, ``total``, ``loss``."""

    def ended(self, outcome: Outcome) -> None:
        """Show how a run ended."""


def run_all(runs: Sequence[Run], folder: Path, display: Display, jobs: int = 1) -> list[Outcome]:
    """Execute every run that has no result yet.

    A run that fails does not stop the rest. After Ctrl-C the running ones write a checkpoint and
    end, and the rest is not started.

    Args:
        runs: of the grid.
        folder: where a folder for each lies or is made.
        display: told of every start, move and end.
        jobs: how many at a time.
    """
    stop = threading.Event()
    lock = threading.Lock()

    def one(run: Run) -> Outcome:
        outcome = _run_one(run, folder / run.name, display, stop, jobs)
        with lock:
            display.ended(outcome)
        return outcome

    with ThreadPoolExecutor(jobs, thread_name_prefix="run") as pool:
        futures = [pool.submit(one, run) for run in runs]
        try:
            return [future.result() for future in futures]
        except KeyboardInterrupt:
            # The terminal has sent the signal to the children too; they are given time to save.
            stop.set()
            return [future.result() for future in futures]


def _run_one(run: Run, folder: Path, display: Display, stop: threading.Event, jobs: int) -> Outcome:
    if (folder / RESULT).exists():
        return Outcome(run, "kept")
    if stop.is_set():
        return Outcome(run, "interrupted")
    folder.mkdir(parents=True, exist_ok=True)
    # The folder's name is the run's identity, so settings that lie there differ in nothing that
    # counts: the data may have moved, or the device be another.
    write_json(folder / "settings.json", run.settings.model_dump(mode="json"))
    display.started(run)
    code = _spawn(run, folder, display, stop, jobs)
    if (folder / RESULT).exists():
        return Outcome(run, "done")
    if code == INTERRUPTED or stop.is_set():
        return Outcome(run, "interrupted")
    return Outcome(run, "failed", _reason(folder, code))


def _spawn(run: Run, folder: Path, display: Display, stop: threading.Event, jobs: int) -> int:
    environment = dict(os.environ)
    if jobs > 1:
        # Jobs share the cores; without this each would start a thread per core.
        share = max(1, (os.cpu_count() or 1) // jobs)
        environment.setdefault("OMP_NUM_THREADS", str(share))
    with (folder / LOG).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "semisam.bench.worker", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        told = False
        while True:
            try:
                return process.wait(_POLL)
            except subprocess.TimeoutExpired:
                pass
            if stop.is_set() and not told:
                told = True
                process.terminate()
            state = _read_progress(folder / PROGRESS)
            if state is not None:
                display.moved(run, state)


def _read_progress(path: Path) -> dict[str, Any] | None:
    try:
        state: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return state


def _reason(folder: Path, code: int) -> str:
    error = _read_progress(folder / ERROR)
    if error is not None:
        return str(error["error"])
    how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    return f"{how}; see {folder / LOG}"
