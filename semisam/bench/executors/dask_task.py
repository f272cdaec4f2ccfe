"""The task that a Dask worker executes: one run, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path
from typing import Any

from distributed import WorkerPlugin, get_worker
from distributed.core import Status

from semisam.bench.worker import attend, worker_command
from semisam.core.layout import RUN_LOG, SETTINGS

RESOURCE = "semisam"
"""Resource of which a worker of the grid's own cluster has one: it executes one run at a time."""
NO_FOLDER = -1000
"""Returned where the worker does not see the run's folder."""
_WAIT = 300
_POLL = 0.5


def is_known() -> bool:
    """Return True; a process of Dask that lacks this module fails to unpickle the call."""
    return True


class StopRuns(WorkerPlugin):  # type: ignore[misc]
    """Ends runs whose grid was interrupted or is gone, or whose worker closes.

    Dask cannot stop a thread, but it notifies plugins when a task is released.
    """

    name = "semisam-stop-runs"

    def __init__(self) -> None:
        self.unwanted: dict[str, threading.Event] = {}

    def setup(self, worker: Any) -> None:
        """Take over the running runs; each grid registers the plugin, and grids share a worker."""
        self.unwanted = vars(worker).setdefault("_semisam_unwanted", {})

    def teardown(self, worker: Any) -> None:
        """End the runs of a worker that closes, for example because its scheduler is gone."""
        if worker.status == Status.closing:
            for event in self.unwanted.values():
                event.set()

    def transition(self, key: Any, start: str, finish: str, **kwargs: Any) -> None:
        """Note a task that starts, is released or is over."""
        name = str(key)
        if finish == "executing":
            self.unwanted[name] = threading.Event()
        elif start == "executing" and finish == "released":
            self.unwanted.get(name, threading.Event()).set()
        elif finish in {"memory", "error", "forgotten"}:
            self.unwanted.pop(name, None)


def execute(folder: str, cwd: str, device: str) -> int:
    """Execute the run of a folder in a process of its own and return its exit code.

    Memory and crashes are the process's; the worker only waits. It is a subprocess, because a
    worker may be a daemon process, which multiprocessing gives no children.

    Args:
        folder: of the run, on a file system that the workers share.
        cwd: folder to which relative paths in the settings refer.
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
    with (place / RUN_LOG).open("ab") as log:
        process = subprocess.Popen(
            worker_command(place, *options),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=cwd if Path(cwd).is_dir() else None,
        )
        return attend(process, unwanted, _POLL)
