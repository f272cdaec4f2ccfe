"""Runs of a grid as processes of this machine.

Another grid may be at work in the same folder; see `semisam.run.lock`.
"""

from __future__ import annotations

import os
import queue
import subprocess
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from semisam.bench.executors.contract import Display, Outcome
from semisam.bench.executors.runs import (
    POLL,
    finished,
    is_finished,
    judge,
    kept,
    make_folder,
)
from semisam.bench.grid import Run
from semisam.bench.worker import BUSY, attend, worker_command
from semisam.core.files import read_json, system_fault
from semisam.core.layout import PROGRESS, RUN_LOG
from semisam.run.lock import in_use, wait_for

_T = TypeVar("_T")


class Local:
    """Executes runs in processes of this machine.

    Args:
        jobs: runs at a time.
        devices: each run takes a free one; if empty, the device of its settings. If there are more
            jobs than devices, jobs share them.
    """

    here = True

    def __init__(self, jobs: int = 1, devices: Sequence[str] = ()) -> None:
        self.jobs = jobs
        self._processes: set[subprocess.Popen[bytes]] = set()
        # A run takes a device from the queue and gives it back.
        self._devices: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        for job in range(jobs):
            self._devices.put(devices[job % len(devices)] if devices else None)

    def run_all(self, runs: Sequence[Run], folder: Path, display: Display) -> list[Outcome]:
        """Execute every run that has no result yet; see `Executor`.

        A run that another process executes is put last and waited for.
        """
        stop = threading.Event()
        lock = threading.Lock()

        def one(run: Run, wait: bool) -> Outcome | None:
            try:
                outcome = self._run_one(run, folder / run.name, display, stop, wait)
            except OSError as error:
                outcome = Outcome(run, "failed", system_fault(error, folder))
            if outcome is not None:
                with lock:
                    display.ended(outcome)
            return outcome

        ended: dict[str, Outcome] = {}
        with ThreadPoolExecutor(self.jobs, thread_name_prefix="run") as pool:
            for wait in (False, True):
                futures = [pool.submit(one, run, wait) for run in runs if run.name not in ended]
                outcomes = self._results(futures, stop, display)
                ended |= {outcome.run.name: outcome for outcome in outcomes if outcome is not None}
        return [ended[run.name] for run in runs]

    def _results(
        self, futures: Sequence[Future[_T]], stop: threading.Event, display: Display
    ) -> list[_T]:
        """Return the results of all futures; Ctrl-C stops the runs, a second one kills them."""
        try:
            return [future.result() for future in futures]
        except KeyboardInterrupt:
            stop.set()
            display.note(
                "Stopping: every run finishes its step and saves a checkpoint. Ctrl-C again stops "
                "at once."
            )
        try:
            return [future.result() for future in futures]
        except KeyboardInterrupt:
            for process in tuple(self._processes):
                process.kill()
            raise

    def _run_one(
        self, run: Run, folder: Path, display: Display, stop: threading.Event, wait: bool
    ) -> Outcome | None:
        """Return the outcome of the run; ``None`` if another process executes it, without wait."""
        shown = False
        while True:
            if is_finished(folder):
                return finished(run, folder, "shared") if shown else kept(run, folder)
            if stop.is_set():
                return Outcome(run, "interrupted")
            busy = in_use(folder)
            if busy and not wait:
                return None
            if not shown:
                shown = True
                display.started(run)
            if busy:
                wait_for(folder, stop, lambda state: display.moved(run, state))
                continue
            code = self._execute(run, folder, display, stop)
            if code != BUSY:  # else another process was faster
                return judge(run, folder, code, stop.is_set())

    def _execute(self, run: Run, folder: Path, display: Display, stop: threading.Event) -> int:
        device = self._devices.get()
        try:
            settings = run.settings.model_copy(update={"device": device} if device else {})
            make_folder(replace(run, settings=settings), folder)
            return self._spawn(run, folder, display, stop)
        finally:
            self._devices.put(device)

    def _spawn(self, run: Run, folder: Path, display: Display, stop: threading.Event) -> int:
        environment = dict(os.environ)
        if self.jobs > 1:
            # Jobs share the cores; otherwise each would start a thread per core.
            share = max(1, (os.cpu_count() or 1) // self.jobs)
            environment.setdefault("OMP_NUM_THREADS", str(share))

        def look() -> None:
            state = read_json(folder / PROGRESS)
            if state is not None:
                display.moved(run, state)

        with (folder / RUN_LOG).open("ab") as log:
            process = subprocess.Popen(
                worker_command(folder, f"--parent={os.getpid()}"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
            )
            self._processes.add(process)
            try:
                return attend(process, stop, POLL, look)
            finally:
                self._processes.discard(process)
