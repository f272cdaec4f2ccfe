"""A lock that lets one process at a time into a run folder; no dead process keeps it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from semisam.core.errors import InUse
from semisam.core.files import read_json
from semisam.core.layout import LOCK, PROGRESS

_PATIENCE = 0.5
_POLL = 0.25


@contextlib.contextmanager
def locked(folder: Path, patience: float = _PATIENCE) -> Iterator[None]:
    """Hold the folder; the system releases the lock when the process ends in any way.

    Args:
        folder: of a run or a study.
        patience: seconds to wait for another process.

    Raises:
        InUse: another process holds it.
    """
    from filelock import FileLock, Timeout

    try:
        # A process that checks for a running run holds the lock for a moment.
        with FileLock(folder / LOCK).acquire(timeout=patience, poll_interval=0.02):
            yield
    except Timeout:
        raise InUse(
            f"the output folder must not be in use, got {folder}, which another process holds. "
            "Wait for it or name another folder."
        ) from None


def in_use(folder: Path) -> bool:
    """Return whether a process holds a run folder."""
    path = folder / LOCK
    if not path.exists():
        return False
    from filelock import FileLock, Timeout  # slow to import, and most folders have no lock

    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # another user's folder, which may be read-only
        return False


def wait_for(
    folder: Path, stop: threading.Event, on_move: Callable[[dict[str, Any]], None]
) -> None:
    """Wait until no other process holds the folder, or until ``stop`` is set.

    Args:
        folder: of the run.
        stop: ends the wait.
        on_move: called with the progress of the other process.
    """
    while in_use(folder) and not stop.wait(_POLL):
        state = read_json(folder / PROGRESS)
        if state is not None and "phase" in state:
            on_move({**state, "phase": f"another process, {state['phase']}"})


def wait_idle(folders: Sequence[Path], seconds: float) -> None:
    """Wait until no process holds any of these run folders, at most ``seconds`` in total."""
    from filelock import FileLock, Timeout

    deadline = time.monotonic() + seconds
    for folder in folders:
        if not (folder / LOCK).exists():
            continue
        try:
            with FileLock(folder / LOCK, timeout=max(0.0, deadline - time.monotonic())):
                pass
        except Timeout:
            return
