"""One run in a process of its own: ``python -m semisam.bench.worker FOLDER``."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from semisam.errors import SemisamError
from semisam.files import write_json

if TYPE_CHECKING:
    from semisam.config import RunSettings

PROGRESS = "progress.json"
ERROR = "error.json"
LOG = "run.log"
LOCK = ".lock"
INTERRUPTED = 130
_INTERVAL = 0.5


class ProgressFile:
    """Tells the parent how far the run is, a few times a second, without ever blocking on it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / PROGRESS
        self._next = 0.0

    def __call__(self, phase: str, done: int, total: int, figures: Mapping[str, float]) -> None:
        """Write the state of the run if the last one is old enough."""
        now = time.monotonic()
        if now < self._next and done < total:
            return
        self._next = now + _INTERVAL
        state = {"phase": phase, "done": done, "total": total, "loss": figures.get("loss")}
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps(state))
        temporary.replace(self._path)


def main(
    folder: Path, *, wait: float = 0.0, device: str | None = None, parent: int | None = None
) -> int:
    """Execute the run whose settings lie in the folder; return the exit code.

    Args:
        folder: of the run.
        wait: seconds for which a process that is still at work in the folder is waited for.
        device: of this machine, instead of the settings'; ``auto``: a GPU if there is one.
        parent: the process that started this one, whose end ends the run; ``None``: who it is now.
    """
    from semisam.allocator import keep_memory
    from semisam.run import execute
    from semisam.trainer import Interrupted

    keep_memory()
    _end_with_parent(os.getppid() if parent is None else parent)
    try:
        _wait_for(folder, wait)
        (folder / ERROR).unlink(missing_ok=True)
        execute(_settings(folder, device), folder, ProgressFile(folder))
    except (Interrupted, KeyboardInterrupt):
        return INTERRUPTED
    except SemisamError as error:
        write_json(folder / ERROR, {"error": str(error)})
        return 2
    except Exception as error:
        traceback.print_exc()
        write_json(folder / ERROR, {"error": f"{type(error).__name__}: {error}"})
        return 1
    finally:
        (folder / PROGRESS).unlink(missing_ok=True)
    return 0


def _wait_for(folder: Path, seconds: float) -> None:
    """Wait, but not for ever, until no other process is at work in the folder.

    One that lost its parent finishes the step in hand and saves before it ends. Whether the folder
    is free in the end, the run itself finds out.
    """
    from filelock import FileLock, Timeout

    if seconds <= 0 or not (folder / LOCK).exists():
        return
    with contextlib.suppress(Timeout), FileLock(folder / LOCK, timeout=seconds):
        pass


def _settings(folder: Path, device: str | None) -> RunSettings:
    from semisam.config import read_settings

    settings = read_settings(folder)
    if device is None:
        return settings
    if device == "auto":
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
    return settings.model_copy(update={"device": device})


def _end_with_parent(parent: int) -> None:
    """Stop politely (with a checkpoint) when the grid that started this run is gone."""

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
