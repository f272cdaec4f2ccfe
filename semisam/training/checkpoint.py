"""The files of a training: checkpoints that survive any interruption, and the log."""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from pathlib import Path
from typing import IO, Any

import torch

from semisam.core.errors import InputError, SemisamWarning
from semisam.core.files import replace_file, write_json
from semisam.core.layout import CHECKPOINT, LOG, PREVIOUS, STEP


def save_tensors(state: Any, path: Path) -> None:
    """Write tensors as `torch.save` does; a full disk is an `OSError`, as with any other file.

    Given a file name, torch would report a full disk as one of several `RuntimeError`s.
    """
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


def remove_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a finished run."""
    for name in (STEP, CHECKPOINT, PREVIOUS):
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
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch reports a damaged file in many ways
            problems.append(f"{path.name}: {str(error).splitlines()[0]}")
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


class TrainLog:
    """The log ``train.jsonl``, and a TensorBoard log if TensorBoard is installed.

    On resume the log is cut back to the checkpoint.
    """

    def __init__(self, folder: Path, start: int) -> None:
        path = folder / LOG
        kept: list[str] = []
        if path.exists():
            # A line may be half-written by a killed run; lines past the checkpoint are redone.
            kept = path.read_text().splitlines()[:start]
        with replace_file(path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in kept))
        self._file: IO[str] = path.open("a")
        self._board: Any = None
        with contextlib.suppress(ImportError):
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=start)

    def __enter__(self) -> TrainLog:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()

    def write(self, step: int, figures: dict[str, float]) -> None:
        """Add the figures of one step."""
        self._file.write(json.dumps({"step": step, **figures}) + "\n")
        if self._board is not None:
            for name, value in figures.items():
                self._board.add_scalar(name, value, step)

    def flush(self) -> None:
        """Write all lines to the disk, because a checkpoint relies on them."""
        self._file.flush()
        os.fsync(self._file.fileno())
