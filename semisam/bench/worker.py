"""The process that executes one run: ``python -m semisam.bench.worker FOLDER``."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from semisam.core.errors import InUse, SemisamError, SemisamWarning
from semisam.core.files import is_full, system_fault, write_json
from semisam.core.layout import ERROR, NOTES, PROGRESS
from semisam.plugins.blame import note_plugin
from semisam.run.lock import in_use, wait_idle

if TYPE_CHECKING:
    from semisam.run.settings import RunSettings

INTERRUPTED = 130
FULL = 74
BUSY = 75
"""Exit codes: stopped with a checkpoint; the disk is full; another process executes the run."""

_INTERVAL = 0.5


def worker_command(folder: Path, *more: str) -> list[str]:
    """Return the command that executes the run of a folder with this Python."""
    return [sys.executable, "-m", "semisam.bench.worker", str(folder), *more]


def attend(
    process: subprocess.Popen[bytes],
    stop: threading.Event,
    poll: float,
    look: Callable[[], None] = lambda: None,
) -> int:
    """Wait for a process that executes a run, and return its exit code.

    Args:
        process: of a `worker_command`.
        stop: set it to end the run, which saves first.
        poll: seconds between two polls.
        look: called at every poll.
    """
    told = False
    while True:
        try:
            return process.wait(poll)
        except subprocess.TimeoutExpired:
            pass
        if stop.is_set() and not told:
            told = True
            process.terminate()
        look()


class ProgressFile:
    """A writer of the run's progress, at most twice a second."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / PROGRESS
        self._next = 0.0

    def __call__(self, phase: str, done: int, total: int, figures: Mapping[str, float]) -> None:
        """Write the state of the run if the last one is half a second old."""
        now = time.monotonic()
        if now < self._next and done < total:
            return
        self._next = now + _INTERVAL
        state = {"phase": phase, "done": done, "total": total, "figures": dict(figures)}
        temporary = self._path.with_suffix(".tmp")
        try:
            temporary.write_text(json.dumps(state))
            temporary.replace(self._path)
        except OSError:  # a full disk; no result depends on this file
            temporary.unlink(missing_ok=True)


def main(
    folder: Path, *, wait: float = 0.0, device: str | None = None, parent: int | None = None
) -> int:
    """Execute the run whose settings are in the folder, and return the exit code.

    Args:
        folder: of the run.
        wait: seconds to wait for another process that is at work in the folder.
        device: replaces that of the settings; ``auto``: a GPU if there is one.
        parent: process whose end stops the run; ``None``: the current parent.
    """
    from semisam.run.execute import execute
    from semisam.training.allocator import keep_memory
    from semisam.training.trainer import Interrupted

    keep_memory()
    _end_with_parent(os.getppid() if parent is None else parent)
    if wait > 0:
        # A run that lost its parent finishes its step and saves before it ends.
        wait_idle([folder], wait)
    if in_use(folder):
        return BUSY
    for name in (ERROR, NOTES):
        (folder / name).unlink(missing_ok=True)
    _pass_on_warnings(folder)
    code = 0
    try:
        execute(_settings(folder, device), folder, ProgressFile(folder))
    except InUse:
        return BUSY  # the files in the folder belong to the other process
    except (Interrupted, KeyboardInterrupt):
        code = INTERRUPTED
    except SemisamError as error:
        code = _failed(folder, str(error), 2)
    except OSError as error:
        if not is_full(error):
            traceback.print_exc()
        code = _failed(folder, system_fault(error, folder), FULL if is_full(error) else 1)
    except Exception as error:
        from semisam.training.accumulation import is_out_of_memory, too_little

        note_plugin(error)
        traceback.print_exc()
        reason = [f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())]
        said = too_little(error) if is_out_of_memory(error) else ". ".join(reason)
        code = _failed(folder, said, 1)
    (folder / PROGRESS).unlink(missing_ok=True)
    return code


def _pass_on_warnings(folder: Path) -> None:
    """Write semisam's own warnings into a file, from which the grid shows them."""
    show = warnings.showwarning
    notes: list[str] = []

    def note(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        show(message, category, filename, lineno, file, line)
        if issubclass(category, SemisamWarning):
            notes.append(str(message))
            with contextlib.suppress(OSError):
                write_json(folder / NOTES, {"notes": notes})

    warnings.showwarning = note


def _failed(folder: Path, reason: str, code: int) -> int:
    """Write the reason into a file for the grid, if the disk has room."""
    with contextlib.suppress(OSError):
        write_json(folder / ERROR, {"error": reason})
    return code


def _settings(folder: Path, device: str | None) -> RunSettings:
    from semisam.run.settings import read_settings

    settings = read_settings(folder)
    if device is None:
        return settings
    if device == "auto":
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
    return settings.model_copy(update={"device": device})


def _end_with_parent(parent: int) -> None:
    """Stop with a checkpoint when the process that started this run is gone."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        with contextlib.suppress(ProcessLookupError):
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m semisam.bench.worker")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--wait", type=float, default=0.0)
    parser.add_argument("--device")
    parser.add_argument("--parent", type=int)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main(**vars(_arguments())))
