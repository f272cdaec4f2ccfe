"""Files written beside and renamed, so that nothing is ever half-written."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from semisam.errors import InputError


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
