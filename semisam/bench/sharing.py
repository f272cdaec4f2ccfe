"""Runs that another process is executing: known by a lock that no dead process keeps, and awaited.

Two grids in one folder share the runs: what one is at work on, the other takes up last, and if it
is still under way then, waits for it and uses its result.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from semisam.core.layout import LOCK, PROGRESS

_POLL = 0.25


def in_use(folder: Path) -> bool:
    """Return whether a process is at work in a run's folder."""
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
    """Return when no other process is at work in the folder, or when told to stop.

    Args:
        folder: the run's.
        stop: ends the wait.
        on_move: told how far the other process is.
    """
    while in_use(folder) and not stop.wait(_POLL):
        state = read_progress(folder / PROGRESS)
        if state is not None:
            on_move({**state, "phase": f"another process, {state['phase']}"})


def wait_idle(folders: Sequence[Path], seconds: float) -> None:
    """Wait until no process is at work in any of these run folders, but not for ever."""
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


def read_progress(path: Path) -> dict[str, Any] | None:
    """Return what a run left in a small file, if it is there and whole."""
    try:
        state = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return state if isinstance(state, dict) else None
