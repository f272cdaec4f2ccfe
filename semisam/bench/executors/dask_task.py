"""What a Dask worker executes of a grid: a run in a process of its own."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path
from typing import Any

from distributed import WorkerPlugin, get_worker

from semisam.bench.worker import LOG, attend, worker_command
from semisam.core.layout import SETTINGS

RESOURCE = "semisam"
"""What a worker of the grid's own cluster has one of, so that it executes one run at a time."""
NO_FOLDER = -1000
"""Returned where the worker does not see the run's folder."""
_WAIT = 300
_POLL = 0.5


def is_known() -> bool:
    """Whether a process of Dask knows this module: it answers, or it cannot even be asked."""
    return True


class StopRuns(WorkerPlugin):  # type: ignore[misc]
    """Ends the runs that nobody waits for any more: interrupted, or their grid is gone.

    Dask cannot stop a thread, but it tells its plugins when a task is not wanted any more.
    """

    name = "semisam-stop-runs"

    def __init__(self) -> None:
        self.unwanted: dict[str, threading.Event] = {}

    def setup(self, worker: Any) -> None:
        """Begin with the runs at work: each grid registers the plugin anew, beside others."""
        self.unwanted = vars(worker).setdefault("_semisam_unwanted", {})

    def transition(self, key: Any, start: str, finish: str, **kwargs: Any) -> None:
        """Note what begins, what is not wanted any more and what is over."""
        name = str(key)
        if finish == "executing":
            self.unwanted[name] = threading.Event()
        elif start == "executing" and finish == "released":
            self.unwanted.get(name, threading.Event()).set()
        elif finish in {"memory", "error", "forgotten"}:
            self.unwanted.pop(name, None)


def execute(folder: str, cwd: str, device: str) -> int:
    """Execute the run of a folder in a process of its own and return its exit code.

    Memory and crashes are the process's; the worker only waits. Worker processes are daemons, so
    it is none of multiprocessing's.

    Args:
        folder: of the run, on a file system that the workers share.
        cwd: where the grid was started, from which relative paths in the settings count.
        device: of this machine; ``auto``: a GPU if there is one.
    """
    worker = get_worker()
    place = Path(folder)
    if not (place / SETTINGS).is_file():
        return NO_FOLDER
    plugin = worker.plugins[StopRuns.name]
    unwanted = plugin.unwanted.get(str(worker.get_current_task()), threading.Event())
    environment = dict(os.environ)
    if RESOURCE in worker.state.total_resources:
        # Dask gives its processes one thread for arithmetic, for tasks that share the worker.
        environment["OMP_NUM_THREADS"] = str(worker.state.nthreads)
    options = [f"--wait={_WAIT}", f"--device={device}", f"--parent={os.getpid()}"]
    with (place / LOG).open("ab") as log:
        process = subprocess.Popen(
            worker_command(place, *options),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=cwd if Path(cwd).is_dir() else None,
        )
        return attend(process, unwanted, _POLL)
