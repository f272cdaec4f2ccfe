"""Files written beside and renamed, so that nothing is ever half-written."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from semisam.core.errors import InputError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success it takes the name ``path``.

    The content is on the disk before the name changes, so that even a crash of the machine leaves
    the old file or the new one. On failure the temporary file is removed and ``path`` is as before.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON with stable order, beside and renamed."""
    with replace_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object of a small JSON file, if the file is there and whole."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def remove_leftovers(folder: Path) -> None:
    """Remove what a process that was killed had begun to write beside; the folder must be held."""
    for path in folder.glob("*.tmp"):
        with contextlib.suppress(OSError):  # a folder or somebody else's: in nobody's way
            path.unlink()


def is_full(error: BaseException) -> bool:
    """Return whether an error says that the disk, or the user's share of it, is full."""
    return isinstance(error, OSError) and error.errno in _FULL


def full_disk(where: Path | str | None) -> str:
    """Return the sentence about a full disk."""
    what = "" if where is None else f" for {where}"
    return (
        f"the disk must have room, got a full one{what}: make room and give the same command "
        "again; it goes on where it was, and nothing is left half-written"
    )


def writable_folder(path: Path) -> Path:
    """Make the folder if need be and return it.

    Raises:
        InputError: if it cannot be made or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".{uuid.uuid4().hex[:8]}.tmp"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"the output folder must be one that can be written to, got {path} "
            f"({error.strerror}): name another with --out"
        ) from error
    return path
