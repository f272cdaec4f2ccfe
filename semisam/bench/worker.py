"""One run in a process of its own: ``python -m semisam.bench.worker FOLDER``."""

from __future__ import annotations

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

from semisam.errors import SemisamError
from semisam.files import write_json

PROGRESS = "progress.json"
ERROR = "error.json"
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


def main(folder: Path) -> int:
    """Execute the run whose settings lie in the folder; return the exit code."""
    from semisam.allocator import keep_memory
    from semisam.config import read_settings
    from semisam.run import execute
    from semisam.trainer import Interrupted

    keep_memory()
    _end_with_parent()
    (folder / ERROR).unlink(missing_ok=True)
    try:
        execute(read_settings(folder), folder, ProgressFile(folder))
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


def _end_with_parent() -> None:
    """Stop politely (with a checkpoint) when the grid that started this run is gone."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        with contextlib.suppress(ProcessLookupError):
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
