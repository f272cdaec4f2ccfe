"""A lock that lets one process at a time into a run folder; no dead process keeps it."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from semisam.core.errors import InputError, InUse
from semisam.core.files import read_json
from semisam.core.layout import LOCK, PROGRESS

_PATIENCE = 0.5
_POLL = 0.25
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)


@contextlib.contextmanager
def locked(folder: Path, patience: float = _PATIENCE) -> Iterator[None]:
    """Hold the folder; the system releases the lock when the process ends in any way.

    Args:
        folder: of a run or a study.
        patience: seconds to wait for another process.

    Raises:
        InUse: another process holds it.
        InputError: the file system has no locks.
    """
    from filelock import Timeout

    try:
        # A process that checks for a running run holds the lock for a moment.
        with _lock(folder, patience):
            yield
    except Timeout:
        raise InUse(
            f"the output folder must not be in use, got {folder}, which another process holds. "
            "Wait for it or name another folder."
        ) from None


def in_use(folder: Path) -> bool:
    """Return whether a process holds a run folder."""
    if not (folder / LOCK).exists():
        return False
    from filelock import Timeout  # slow to import, and most folders have no lock

    try:
        with _lock(folder, 0.0):
            return False
    except Timeout:
        return True
    except (OSError, InputError):  # another user's folder, which may be read-only
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
    from filelock import Timeout

    deadline = time.monotonic() + seconds
    for folder in folders:
        if not (folder / LOCK).exists():
            continue
        try:
            with _lock(folder, max(0.0, deadline - time.monotonic())):
                pass
        except Timeout:
            return


@contextlib.contextmanager
def _lock(folder: Path, patience: float) -> Iterator[None]:
    """Hold the folder, or raise filelock's ``Timeout``, an `OSError`."""
    from filelock import FileLock

    lock = FileLock(folder / LOCK)
    try:
        with warnings.catch_warnings():
            # Without locks filelock warns and takes a file instead, which a killed process leaves.
            warnings.filterwarnings("error", "flock not supported", UserWarning)
            lock.acquire(timeout=patience, poll_interval=0.02)
    except (OSError, UserWarning, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
        number = error.errno if isinstance(error, OSError) and error.errno else errno.ENOSYS
        raise InputError(
            f"the output folder must be on a file system with locks, got {folder} "
            f"({os.strerror(number)}). Name a folder on another one with --out."
        ) from None
    try:
        yield
    finally:
        lock.release()
