"""What may go from a folder of runs: never a run at work, nothing outside, and no link followed."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from semisam.bench.sharing import in_use
from semisam.bench.store import RunInfo, list_runs, runs_of
from semisam.core.errors import InputError
from semisam.core.layout import CHECKPOINT, LOCK, PREVIOUS

KINDS = ("failed", "stopped", "checkpoints", "leftovers")
"""Failed and stopped runs; checkpoints of finished ones; half-written files of killed processes."""

_OLD = 60.0


@dataclass(frozen=True)
class Rubbish:
    """Something to delete.

    Attributes:
        path: a file, or a whole run's folder.
        kind: of `KINDS`.
        size: bytes.
        why: for a reader.
        run: the run's folder that must be held meanwhile; ``None``: it is in none.
    """

    path: Path
    kind: str
    size: int
    why: str
    run: Path | None


def find_rubbish(folder: Path, kinds: Sequence[str] = KINDS) -> list[Rubbish]:
    """Return what could be deleted from a folder of runs; nothing is touched.

    Raises:
        InputError: it is no folder, or its ``runs`` is a link.
    """
    root = runs_of(folder)
    if root.is_symlink() or folder.is_symlink():
        raise InputError(
            f"the folder itself is required, got the link {root if root.is_symlink() else folder}: "
            "name what it points to"
        )
    found: list[Rubbish] = []
    for run in list_runs(folder):
        found += _of_run(run, root / run.name)
    for place in dict.fromkeys((folder, root)):
        found += [
            Rubbish(path, "leftovers", _size(path), "half-written", None)
            for path in _temporaries(place)
            if time.time() - path.lstat().st_mtime > _OLD  # a younger one may be at work
        ]
    return [rubbish for rubbish in found if rubbish.kind in kinds]


def delete(rubbish: Rubbish) -> bool:
    """Delete one piece; ``False``: a process is at work there, or it is gone already."""
    if rubbish.run is None:
        return _remove(rubbish.path)
    if rubbish.run.is_symlink() or not rubbish.run.is_dir():
        return False
    from filelock import FileLock, Timeout

    try:
        with FileLock(rubbish.run / LOCK, timeout=0):
            if rubbish.path != rubbish.run:
                return _remove(rubbish.path)
            # Under its own name it is whole or gone, whatever stops us.
            doomed = rubbish.run.with_name(f".{rubbish.run.name}.{uuid.uuid4().hex[:8]}.tmp")
            rubbish.run.rename(doomed)
            return _remove(doomed)
    except (Timeout, FileNotFoundError):
        return False


def _of_run(run: RunInfo, folder: Path) -> Iterator[Rubbish]:
    if run.state in ("failed", "stopped"):
        why = f"failed: {run.detail}" if run.state == "failed" else f"stopped at {run.detail}"
        yield Rubbish(folder, run.state, run.size, why, folder)
        return
    if run.state == "done":
        for name in (CHECKPOINT, PREVIOUS):
            path = folder / name
            if path.is_file() or path.is_symlink():
                yield Rubbish(path, "checkpoints", _size(path), "of a finished run", folder)
    if run.state in ("done", "damaged") and not in_use(folder):
        for path in _temporaries(folder):
            yield Rubbish(path, "leftovers", _size(path), "half-written", folder)


def _temporaries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.tmp"))


def _size(path: Path) -> int:
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size
    return sum(
        Path(place, name).lstat().st_size for place, _, names in os.walk(path) for name in names
    )


def _remove(path: Path) -> bool:
    """Remove a file, a link itself, or a folder with what is in it."""
    with contextlib.suppress(FileNotFoundError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)  # which follows no links
        else:
            path.unlink()
        return True
    return False
