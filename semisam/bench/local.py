"""Runs of a grid on this machine: one process each, idempotent, none in the way of the others.

Another grid may be at work in the same folder: see `semisam.bench.sharing`.
"""

from __future__ import annotations

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
from semisam.bench.sharing import in_use, read_progress, wait_for
from semisam.bench.store import read_result
from semisam.bench.worker import BUSY, ERROR, FULL, INTERRUPTED, NOTES, PROGRESS
from semisam.errors import InputError
from semisam.files import full_disk, is_full, write_json
from semisam.names import RESULT, SETTINGS

LOG = "run.log"
_POLL = 0.25

Status = Literal["done", "kept", "shared", "failed", "interrupted"]


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    ``kept`` was finished earlier and not run again; ``shared`` was finished meanwhile, by another
    process. The message is why it failed, or what is to be said of a run that is done.
    """

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
    end, and the rest is not started. A run that another process executes is put last, and awaited.

    Args:
        runs: of the grid.
        folder: where a folder for each lies or is made.
        display: told of every start, move and end.
        jobs: how many at a time.
    """
    stop = threading.Event()
    lock = threading.Lock()

    def one(run: Run, wait: bool) -> Outcome | None:
        try:
            outcome = _run_one(run, folder / run.name, display, stop, jobs, wait)
        except OSError as error:
            if not is_full(error):
                raise
            outcome = Outcome(run, "failed", full_disk(folder))
        with lock:
            if outcome is not None:
                display.ended(outcome)
        return outcome

    ended: dict[str, Outcome] = {}
    with ThreadPoolExecutor(jobs, thread_name_prefix="run") as pool:
        for wait in (False, True):
            futures = [pool.submit(one, run, wait) for run in runs if run.name not in ended]
            try:
                outcomes = [future.result() for future in futures]
            except KeyboardInterrupt:
                # The terminal has sent the signal to the children too: they get time to save.
                stop.set()
                outcomes = [future.result() for future in futures]
            ended |= {outcome.run.name: outcome for outcome in outcomes if outcome is not None}
    return [ended[run.name] for run in runs]


def _run_one(
    run: Run, folder: Path, display: Display, stop: threading.Event, jobs: int, wait: bool
) -> Outcome | None:
    """Return how the run ended; ``None``: another process executes it, and we do not wait."""
    shown = False
    while True:
        if (folder / RESULT).exists():
            return _finished(run, folder, "shared" if shown else "kept")
        if stop.is_set():
            return Outcome(run, "interrupted")
        busy = in_use(folder)
        if busy and not wait:
            return None
        if not shown:
            shown = True
            display.started(run)
        if busy:
            wait_for(folder, stop, lambda state: display.moved(run, state))
            continue
        folder.mkdir(parents=True, exist_ok=True)
        # The folder's name is the run's identity, so settings that lie there differ in nothing
        # that counts: the data may have moved, or the device be another.
        write_json(folder / SETTINGS, run.settings.model_dump(mode="json"))
        code = _spawn(run, folder, display, stop, jobs)
        if code == BUSY:  # another process was faster
            continue
        if (folder / RESULT).exists():
            notes = (read_progress(folder / NOTES) or {}).get("notes", [])
            return _finished(run, folder, "done", "; ".join(notes))
        if code == INTERRUPTED or stop.is_set():
            return Outcome(run, "interrupted")
        return Outcome(run, "failed", _reason(folder, code))


def _finished(run: Run, folder: Path, status: Status, message: str = "") -> Outcome:
    try:
        read_result(folder / RESULT)
    except InputError as error:
        return Outcome(run, "failed", str(error))
    return Outcome(run, status, message)


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
            state = read_progress(folder / PROGRESS)
            if state is not None:
                display.moved(run, state)


def _reason(folder: Path, code: int) -> str:
    if code == FULL:  # there may have been no room for the reason
        return full_disk(folder)
    error = read_progress(folder / ERROR)
    if error is not None:
        return str(error["error"])
    how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    return f"{how}; see {folder / LOG}"
