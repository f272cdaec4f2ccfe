"""Runs of a grid on this machine: one process each, idempotent, none in the way of the others."""

from __future__ import annotations

import os
import queue
import subprocess
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from semisam.bench.executors.contract import Display, Outcome
from semisam.bench.executors.runs import (
    POLL,
    is_finished,
    judge,
    prepare,
    read_state,
    worker_command,
)
from semisam.bench.grid import Run
from semisam.bench.worker import LOG, PROGRESS


class Local:
    """Executes runs in processes of this machine.

    Args:
        jobs: how many at a time.
        devices: each run takes one that is free; empty: that of its settings. Shared by jobs
            where there are more of these.
    """

    here = True

    def __init__(self, jobs: int = 1, devices: Sequence[str] = ()) -> None:
        self.jobs = jobs
        # A queue of which a run takes the next and gives it back: the devices, as often as needed.
        self._devices: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        for job in range(jobs):
            self._devices.put(devices[job % len(devices)] if devices else None)

    def run_all(self, runs: Sequence[Run], folder: Path, display: Display) -> list[Outcome]:
        """Execute every run that has no result yet; see `Executor`."""
        stop = threading.Event()
        lock = threading.Lock()

        def one(run: Run) -> Outcome:
            outcome = self._run_one(run, folder / run.name, display, stop)
            with lock:
                display.ended(outcome)
            return outcome

        with ThreadPoolExecutor(self.jobs, thread_name_prefix="run") as pool:
            futures = [pool.submit(one, run) for run in runs]
            try:
                return [future.result() for future in futures]
            except KeyboardInterrupt:
                # The terminal has sent the signal to the children too; they are given time to save.
                stop.set()
                return [future.result() for future in futures]

    def _run_one(self, run: Run, folder: Path, display: Display, stop: threading.Event) -> Outcome:
        if is_finished(folder):
            return Outcome(run, "kept")
        if stop.is_set():
            return Outcome(run, "interrupted")
        device = self._devices.get()
        try:
            settings = run.settings.model_copy(update={"device": device} if device else {})
            prepare(replace(run, settings=settings), folder)
            display.started(run)
            code = self._spawn(run, folder, display, stop)
        finally:
            self._devices.put(device)
        return judge(run, folder, code, stop.is_set())

    def _spawn(self, run: Run, folder: Path, display: Display, stop: threading.Event) -> int:
        environment = dict(os.environ)
        if self.jobs > 1:
            # Jobs share the cores; without this each would start a thread per core.
            share = max(1, (os.cpu_count() or 1) // self.jobs)
            environment.setdefault("OMP_NUM_THREADS", str(share))
        with (folder / LOG).open("ab") as log:
            process = subprocess.Popen(
                worker_command(folder, f"--parent={os.getpid()}"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
            )
            told = False
            while True:
                try:
                    return process.wait(POLL)
                except subprocess.TimeoutExpired:
                    pass
                if stop.is_set() and not told:
                    told = True
                    process.terminate()
                state = read_state(folder / PROGRESS)
                if state is not None:
                    display.moved(run, state)
