"""One process at a time in a run folder: a lock that no dead process keeps."""

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
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder; the system releases the lock when the process ends, however it ends.

    Raises:
        InUse: another process holds it.
    """
    from filelock import FileLock, Timeout

    try:
        # A look whether a run is at work holds the lock for a moment: no reason to fail.
        with FileLock(folder / LOCK).acquire(timeout=_PATIENCE, poll_interval=0.02):
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
    from filelock import FileLock, Timeout  # a tenth of a second, and mostly there is no lock

    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # somebody else's folder, that may be read only
        return False


def wait_for(
    folder: Path, stop: threading.Event, on_move: Callable[[dict[str, Any]], None]
) -> None:
    """Return when no other process holds the folder, or when told to stop.

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
    """Wait until no process holds any of these run folders, at most so many seconds in all."""
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
