"""Functions of all executors: make a run's folder, and read the outcome of its run."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from semisam.bench.executors.contract import Display, Outcome, Status
from semisam.bench.grid import Run
from semisam.bench.worker import BUSY, FULL, INTERRUPTED
from semisam.core.errors import InputError
from semisam.core.files import (
    full_disk,
    read_json,
    remove_leftovers,
    removed_folder,
    write_json,
)
from semisam.core.layout import CHECKPOINT, ERROR, NOTES, PROGRESS, RESULT, RUN_LOG, SETTINGS
from semisam.run.folder import read_result
from semisam.run.model import trains_network
from semisam.training.checkpoint import remove_checkpoints

POLL = 0.25
"""Seconds between two readings of the progress of runs."""
PATIENCE = 120.0
"""Seconds for interrupted runs on other machines to finish their step and save."""
SHARED = 15.0
"""Seconds within which a network file system shows what another machine has written."""


def make_folder(run: Run, folder: Path) -> None:
    """Make a run's folder and write its settings.

    The folder's name has the run's identity, so older settings there differ only in settings that
    do not change a result, such as the device.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = run.settings.model_dump(mode="json")
    if read_json(folder / SETTINGS) != settings:  # another grid may have written it
        write_json(folder / SETTINGS, settings)
    for name in (ERROR, PROGRESS):  # of an earlier attempt
        (folder / name).unlink(missing_ok=True)


def is_finished(folder: Path) -> bool:
    """Return whether the run of a folder has its result."""
    return (folder / RESULT).exists()


def judge(run: Run, folder: Path, code: int, stopped: bool = False) -> Outcome:
    """Return the outcome of a run, from the files that it wrote.

    Args:
        run: the run that ended.
        folder: of the run.
        code: exit code of its process.
        stopped: True if the user interrupted the grid.
    """
    if is_finished(folder):
        return finished(run, folder, "done")
    if code == INTERRUPTED or stopped:
        return Outcome(run, "interrupted")
    return Outcome(run, "failed", reason(folder, code))


def finished(run: Run, folder: Path, status: Status) -> Outcome:
    """Return the outcome of a run that has its result, with its warnings."""
    try:
        read_result(folder / RESULT)
    except InputError as error:
        return Outcome(run, "failed", str(error))
    notes = (read_json(folder / NOTES) or {}).get("notes", []) if status == "done" else []
    return Outcome(run, status, "; ".join(notes))


def reason(folder: Path, code: int) -> str:
    """Return why the run of a folder failed: its message, or else its exit code."""
    if not folder.is_dir():
        return removed_folder(folder)
    if code == FULL:  # the disk may have been too full for the message
        return full_disk(folder)
    if code == BUSY:
        return f"Another process is at work in {folder}. Run the same command again later."
    return error_of(folder) or f"{how(code)}; see {folder / RUN_LOG}"


def kept(run: Run, folder: Path) -> Outcome:
    """Return the outcome of a run that was finished earlier.

    What a process left that was killed after the result was written is removed.
    """
    with contextlib.suppress(OSError):  # another user's folder
        remove_checkpoints(folder, adapted=trains_network(run.settings.method))
        (folder / PROGRESS).unlink(missing_ok=True)
        remove_leftovers(folder)
    return finished(run, folder, "kept")


def error_of(folder: Path) -> str:
    """Return the error message of a run; empty if it wrote none."""
    return str((read_json(folder / ERROR) or {"error": ""})["error"])


def how(code: int) -> str:
    """Return an exit code in words."""
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"


def checkpoint_stamp(folder: Path) -> int:
    """Return a number that changes whenever a run saves a checkpoint."""
    try:
        return (folder / CHECKPOINT).stat().st_mtime_ns
    except OSError:
        return 0


def wait_shown(folder: Path) -> None:
    """Wait until a run's result or error is visible; another machine may just have written it."""
    deadline = time.monotonic() + SHARED
    while not (is_finished(folder) or (folder / ERROR).exists()) and time.monotonic() < deadline:
        time.sleep(POLL)
        list(folder.iterdir())  # a network file system looks again


class Watch:
    """A reader of progress files, which shows runs on other machines."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._shown: set[str] = set()

    def look(self, run: Run, folder: Path) -> None:
        """Show the progress of a run, if it has started."""
        state = read_json(folder / PROGRESS)
        if state is None:
            return
        if run.name not in self._shown:
            self._shown.add(run.name)
            self._display.started(run)
        self._display.moved(run, state)
