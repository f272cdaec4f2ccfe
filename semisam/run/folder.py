"""Whose folder it is: one run's, and one process's at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from semisam.core.errors import InputError, InUse
from semisam.core.files import write_json
from semisam.core.layout import LOCK, SETTINGS
from semisam.run.settings import RunSettings, read_settings

_PATIENCE = 0.5


def claim(folder: Path, settings: RunSettings) -> None:
    """Write the settings, or refuse a folder that belongs to other ones."""
    path = folder / SETTINGS
    if not path.exists():
        write_json(path, settings.model_dump(mode="json"))
        return
    ours = settings.model_dump(mode="json")
    theirs = read_settings(folder).model_dump(mode="json")
    free = {"data", "device", "checkpoint_every", "save_predictions"}
    other = sorted(key for key in ours if key not in free and ours[key] != theirs[key])
    if other:
        raise InputError(
            f"the output folder must be empty or of the same run, got {folder}, a run with other "
            f"{', '.join(other)}: name another folder"
        )


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder; the system lets go of the lock when the process ends, however it ends."""
    try:
        # Who only asks whether a run is at work holds the lock for a moment: not a reason to fail.
        with FileLock(folder / LOCK).acquire(timeout=_PATIENCE, poll_interval=0.02):
            yield
    except Timeout:
        raise InUse(
            f"the output folder must not be in use, got {folder}, where another process is at "
            "work: wait for it or name another folder"
        ) from None
