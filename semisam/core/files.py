"""Atomic writes: a file is written under a temporary name and then renamed."""

from __future__ import annotations

import codecs
import contextlib
import csv
import errno
import functools
import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from semisam.core.errors import InputError
from semisam.core.layout import PREDICTIONS

# An apostrophe in front counts too, so that every cell has one text.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|nan)")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Of `replace_file` and `writable_folder`: a file of a user may end in .tmp, too.
_TEMPORARY = re.compile(r"\.(.+\.)?[0-9a-f]{8}\.tmp(\.\w+)*", re.DOTALL)
_OF_RUNS = ("progress.tmp", "checkpoint.previous.tmp")
_TOO_MANY = (errno.EMFILE, errno.ENFILE)


@contextlib.contextmanager
def replace_file(path: Path, ending: str = "") -> Iterator[Path]:
    """Yield a temporary path in the same folder and rename it to ``path`` on success.

    The content reaches the disk before the rename, so even a crash of the machine leaves either
    the old file or the new one. On failure the temporary file is removed and ``path`` is unchanged.

    Args:
        path: of the file.
        ending: of the temporary name, for a library that chooses the format by it.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp{ending}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_text(path: Path) -> str:
    """Read a text that a person wrote: UTF-8, or UTF-16 with its mark; marks are left out.

    Raises:
        InputError: it is unreadable or in another encoding.
    """
    try:
        raw = path.read_bytes()
        if raw.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
            raise ValueError("UTF-32")
        wide = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = raw.decode("utf-16" if wide else "utf-8-sig")
        if "\0" in text:
            raise ValueError("a NUL character")
    except OSError as error:
        raise InputError(
            f"{path}: it must be readable, got '{error.strerror}'. Check it."
        ) from error
    except ValueError as error:
        raise InputError(
            f"{path}: it must be a text in UTF-8, got '{error}'. Save it again as UTF-8."
        ) from error
    return text


def csv_cell(value: Any) -> Any:
    """Return a value for a CSV file; a spreadsheet shows a text as text, not as a formula.

    A text that begins as a formula gets an apostrophe in front, and numbers stay numbers.

    Example:
        >>> csv_cell("=1+1"), csv_cell("p1"), csv_cell("-0.5"), csv_cell(-0.5)
        ("'=1+1", 'p1', '-0.5', -0.5)
    """
    if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def csv_text(cell: str) -> str:
    """Return the text that `csv_cell` wrote as a cell."""
    return cell[1:] if cell[:1] == "'" and _FORMULA.match(cell) else cell


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV, atomically; the columns are those of all rows, as they first appear."""
    names = dict.fromkeys(name for row in rows for name in row)
    with (
        replace_file(path) as temporary,
        # The name of a file need not be UTF-8.
        temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        writer = csv.DictWriter(file, fieldnames=list(names), lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: csv_cell(value) for key, value in row.items()} for row in rows)


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys, atomically."""
    with replace_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object of a small JSON file, if the file is there and whole."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def digest_of_file(path: str | Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of_path(path: Path) -> str:
    """Return the SHA-256 of a file, or of all files of a folder with their names.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        marks = tuple((str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in files)
        return _digest_of_marks(str(path), marks)
    except OSError as error:
        raise InputError(
            f"a file that an option names must be readable, got {path} ({error.strerror}). Check "
            "the path."
        ) from None


@functools.lru_cache(maxsize=64)
def _digest_of_marks(root: str, marks: tuple[tuple[str, int, int], ...]) -> str:
    """Return the digest of files; an unchanged file is read once in a process."""
    if len(marks) == 1 and marks[0][0] == root:
        return digest_of_file(root)
    parts = [f"{Path(path).relative_to(root)} {digest_of_file(path)}" for path, *_ in marks]
    return hashlib.sha256("\n".join(parts).encode(errors="surrogateescape")).hexdigest()


def check_digest(path: Path) -> None:
    """Refuse a file whose SHA-256 is not the one in the card next to it, if there is one.

    Args:
        path: of the file; the card has its name with the ending ``.json``.

    Raises:
        InputError: the file was changed or damaged.
    """
    card = path.with_suffix(".json")
    stated = (read_json(card) or {}).get("sha256")
    if stated is None or digest_of_file(path) == stated:
        return
    raise InputError(
        f"{path}: the file must be as it was written, got another digest than in {card.name}. "
        "Restore both, or adapt the model again."
    )


def remove_leftovers(folder: Path, *, inside: bool = True) -> None:
    """Remove the temporary files of a killed process; the caller must hold the folder's lock.

    Args:
        folder: of a run, a study or masks.
        inside: it is the folder of a run, which has more of them, also in its ``predictions``.
    """
    paths = [*folder.glob(".*")]
    if inside:
        paths += [*(folder / PREDICTIONS).rglob(".*"), *(folder / name for name in _OF_RUNS)]
    for path in paths:
        if _TEMPORARY.fullmatch(path.name) or path.name in _OF_RUNS:
            with contextlib.suppress(OSError):  # a folder, or another user's file: harmless
                path.unlink()


def printable(text: str) -> str:
    """Return a text without control characters other than newlines, for a terminal.

    The name of a file may hold escape sequences, which would be executed there.
    """
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def is_full(error: BaseException) -> bool:
    """Return whether an error means that the disk or the user's quota is full."""
    return isinstance(error, OSError) and error.errno in _FULL


def full_disk(where: Path | str | None) -> str:
    """Return the message about a full disk."""
    what = "" if where is None else f" for {where}"
    return (
        f"the disk must have room, got a full one{what}. Free some space and run the same command "
        "again: it resumes, and no file is half-written."
    )


def removed_folder(folder: Path) -> str:
    """Return the message about an output folder that was removed while it was in use."""
    return (
        f"the output folder must stay until the command ends, got {folder}, which was removed. Run "
        "the same command again."
    )


def system_fault(error: OSError, where: Path | str | None = None) -> str:
    """Return the message about an error of the system.

    Args:
        error: of the system.
        where: the file or folder in use, if the error names no file.
    """
    where = error.filename or where
    if is_full(error):
        return full_disk(where)
    what = "" if where is None else f" for {where}"
    reason = error.strerror or str(error).split("\n")[0] or type(error).__name__
    if error.errno in _TOO_MANY:
        advice = "Raise the limit of open files, for example by `ulimit -n 1024`"
    else:
        advice = "Correct that"
    return (
        f"the system must provide what the command needs, got {reason!r}{what}. {advice}, and run "
        "the same command again."
    )


def writable_folder(path: Path) -> Path:
    """Return the folder, created where it does not exist.

    Raises:
        InputError: it cannot be created or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".{uuid.uuid4().hex[:8]}.tmp"
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"the output folder must be writable, got {path} ({error.strerror}). Choose another "
            "with --out."
        ) from error
    return path


def check_no_folder(flag: str, path: Path) -> None:
    """Refuse a folder where a file is to be written.

    Raises:
        InputError: the path is a folder.
    """
    if path.is_dir():
        raise InputError(f"{flag} must be a file, got the folder {path}. Name a file in it.")


def check_parent(flag: str, path: Path) -> None:
    """Refuse a file in a folder that does not exist.

    Raises:
        InputError: its folder is missing.
    """
    if not path.resolve().parent.is_dir():
        raise InputError(f"the folder of {flag} must exist, got {path}. Make it first.")


def check_writable(path: Path) -> None:
    """Refuse a folder that cannot be written to, before time is spent; leave no new one.

    Raises:
        InputError: as `writable_folder`.
    """
    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    writable_folder(path)
    for folder in new:
        folder.rmdir()
