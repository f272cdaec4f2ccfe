"""The files of a training: checkpoints that survive any interruption, and the log."""

from __future__ import annotations

import hashlib
import json
import os
import textwrap
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import nn

from semisam.core.errors import InputError, PluginError, SemisamError, SemisamWarning, first_line
from semisam.core.files import replace_file, write_json
from semisam.core.layout import ADAPTED, ADAPTED_NOTE, CHECKPOINT, LOG, PREVIOUS, STEP
from semisam.core.logger import Logger
from semisam.plugins.registry import in_one_line

_END_OF_ZIP = 22  # bytes of the last record of a zip archive without a comment
_MARK, _HEX = b"sha256:", 64
_CHUNK = 1 << 24
_REASON = 120  # letters of a message of torch that are shown


def save_tensors(state: Any, path: Path) -> None:
    """Write tensors as `torch.save` does, with the file's digest in the comment of its archive.

    A plain `torch.load` opens the file. A full disk is an `OSError`, as with any other file; given
    a file name, torch would report it as one of several `RuntimeError`s.
    """
    _save(state, path)
    with path.open("rb+") as file:
        end = file.seek(-_END_OF_ZIP, os.SEEK_END)
        last = file.read()
        if not last.startswith(b"PK\x05\x06"):
            raise RuntimeError("torch.save must end a file as a zip archive without a comment")
        file.seek(end + _END_OF_ZIP - 2)
        file.write((len(_MARK) + _HEX).to_bytes(2, "little") + _MARK)
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.write(digest.encode())


def load_tensors(path: Path) -> Any:
    """Read a file of `save_tensors`, on the CPU, after a check of its digest.

    Nothing in the file is executed.

    Raises:
        InputError: the file is missing, was changed or damaged, or holds more than tensors.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(size - _HEX - len(_MARK), 0))
            mark, stated = file.read(len(_MARK)), file.read()
            file.seek(0)
            hashed, left = hashlib.sha256(), size - _HEX
            while left > 0 and (part := file.read(min(left, _CHUNK))):
                hashed.update(part)
                left -= len(part)
            if mark != _MARK or stated != hashed.hexdigest().encode():
                raise ValueError("its digest is not that of its content")
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch reports a damaged file in many ways
        reason = first_line(error)
        raise InputError(
            f"{path}: the file must be as it was written, got a damaged one ({reason}). Restore "
            "it, or train again."
        ) from error


def fit_weights(module: nn.Module, weights: Any, folder: Path) -> None:
    """Give a method the weights of a run of its own.

    Raises:
        InputError: they are no weights, or the code of the method or the network changed since the
            run.
    """
    if not isinstance(weights, Mapping) or not all(isinstance(name, str) for name in weights):
        raise InputError(
            f"the weights of a run must be tensors by name, got others in {folder}. Restore them, "
            "or train again in another folder."
        )
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(
            "the weights of a run must fit its method and network as installed, got others in "
            f"{folder} ({reason_of(error)}). Install the version that trained it, or train again "
            "in another folder."
        ) from None


def reason_of(error: RuntimeError) -> str:
    """Return why weights do not fit: the begin of the last line of torch's message."""
    return textwrap.shorten(str(error).splitlines()[-1].rstrip("."), _REASON, placeholder=" ...")


def _save(state: Any, path: Path) -> None:
    with path.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            # Its archive fails once more as it is closed; the first failure is the reason.
            reason: BaseException | None = error
            while reason is not None and not isinstance(reason, OSError):
                reason = reason.__cause__ or reason.__context__
            if reason is None:
                raise
            raise reason from None


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint to a temporary file and rename it; keep the previous one.

    Once there is a ``checkpoint.pt``, a readable one exists at every moment. ``checkpoint.json``
    holds its step.
    """
    path = folder / CHECKPOINT
    with replace_file(path) as temporary:
        save_tensors(state, temporary)
        if path.exists():
            _keep(path, folder / PREVIOUS)
    write_json(folder / STEP, {"step": state["step"]})


def remove_checkpoints(folder: Path, *, adapted: bool = True) -> None:
    """Remove the checkpoints of a finished run.

    Args:
        folder: of the run.
        adapted: remove its adapted model too, which only a method that trains nothing deploys.
    """
    for name in (STEP, CHECKPOINT, PREVIOUS, *((ADAPTED, ADAPTED_NOTE) if adapted else ())):
        (folder / name).unlink(missing_ok=True)


def _keep(path: Path, previous: Path) -> None:
    """Give the file a second name and keep the first; a file of the second name is replaced."""
    second = previous.with_suffix(".tmp")
    second.unlink(missing_ok=True)
    try:
        second.hardlink_to(path)
    except OSError:  # a file system without hard links
        path.replace(previous)
    else:
        second.replace(previous)


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Return the newest readable checkpoint of a folder, or ``None`` without checkpoints.

    If the newest cannot be read, the previous one is read and a `SemisamWarning` is issued.

    Raises:
        InputError: if the folder has checkpoints and no checkpoint can be read.
    """
    problems = []
    for path in (folder / CHECKPOINT, folder / PREVIOUS):
        if not path.exists():
            continue
        try:
            state: dict[str, Any] = load_tensors(path)
        except InputError as error:
            problems.append(f"{path.name}: {error.__cause__}".splitlines()[0])
            continue
        if problems:
            warnings.warn(
                f"{folder}: the newest checkpoint cannot be read ({problems[0]}). The run resumes "
                f"from the previous one, after {state.get('step')} iterations.",
                SemisamWarning,
                stacklevel=2,
            )
        return state
    if problems:
        raise InputError(
            f"{folder}: a checkpoint must be readable, got {'; '.join(problems)}. Delete the "
            "folder to start the run again."
        )
    return None


def kept_lines(path: Path, start: int) -> list[str]:
    """Return the lines of a log with a step before ``start``, one per step, in order.

    A killed run may leave a line half-written, and lines past its checkpoint, which are made again.
    A `SemisamWarning` says how many steps have no line, of a log that was lost or damaged.
    """
    lines: dict[int, str] = {}
    for raw in path.read_bytes().split(b"\n") if path.exists() else ():
        try:
            text = raw.decode("utf-8")
            step = json.loads(text)["step"]
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        if isinstance(step, int) and 0 <= step < start:
            lines.setdefault(step, text)
    if len(lines) < start:
        warnings.warn(
            f"{path}: the log must have a line for each of the {start} iterations so far, got "
            f"{len(lines)}. Curves lack the others; weights and scores do not depend on it.",
            SemisamWarning,
            stacklevel=3,
        )
    return [lines[step] for step in sorted(lines)]


class TrainLog:
    """The log ``train.jsonl``, whose figures a logger gets too.

    On resume the log is cut back to the checkpoint.

    Args:
        folder: of the run.
        start: the first step that is logged.
        logger: gets the figures; ``None``: only the file does.
        settings: of the run, for the logger.

    Raises:
        PluginError: the logger cannot be opened.
    """

    def __init__(
        self,
        folder: Path,
        start: int,
        logger: Logger | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        path = folder / LOG
        kept = kept_lines(path, start)
        with replace_file(path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        if logger is not None:
            _open(logger, folder, settings or {}, start)
        self._logger = logger
        self._file: IO[str] = path.open("a", encoding="utf-8")

    def __enter__(self) -> TrainLog:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()
        if self._logger is not None:
            self._call("close", self._logger.close)

    def write(self, step: int, figures: dict[str, float]) -> None:
        """Add the figures of one step."""
        self._file.write(json.dumps({"step": step, **figures}) + "\n")
        if self._logger is not None:
            logger = self._logger
            self._call(f"log step {step}", lambda: logger.log(step, figures))

    def flush(self) -> None:
        """Write all lines to the disk, because a checkpoint relies on them."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def _call(self, what: str, call: Callable[[], None]) -> None:
        """Call the logger; it is given up where it fails, because the file has all figures."""
        try:
            call()
        except Exception as error:
            self._logger = None
            warnings.warn(
                f"The logger must {what}, got {in_one_line(error)}. The training continues without "
                f"it; {LOG} has every figure.",
                SemisamWarning,
                stacklevel=3,
            )


def _open(logger: Logger, folder: Path, settings: Mapping[str, Any], start: int) -> None:
    try:
        logger.open(folder, settings, start)
    except SemisamError:
        raise
    except Exception as error:
        raise PluginError(
            f"the logger must open {folder}, got {in_one_line(error)}. Correct its options, or "
            "leave --logger out."
        ) from error
