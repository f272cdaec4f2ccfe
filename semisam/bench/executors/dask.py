"""Runs of a grid on the workers of a Dask scheduler, or of a cluster that Dask makes of jobs."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from distributed import Client, KilledWorker

from semisam.bench.executors import dask_task
from semisam.bench.executors.cluster import Jobs
from semisam.bench.executors.contract import Display, Outcome
from semisam.bench.executors.runs import (
    PATIENCE,
    POLL,
    Watch,
    checkpoint_stamp,
    finished,
    is_finished,
    judge,
    kept,
    make_folder,
    wait_shown,
)
from semisam.bench.grid import Run
from semisam.bench.worker import BUSY, INTERRUPTED
from semisam.core.errors import InputError, first_line
from semisam.run.lock import wait_idle

_PROTOCOLS = {"tcp", "tls", "ucx", "ws", "wss"}
_CONNECT = 10.0
_KEEP_UP = 5.0
"""Seconds between two checks for jobs that ended and must be replaced."""
_TRIES = 3
"""Largest number of attempts in a row without progress of a run."""


@dataclass
class _Attempt:
    """A run that is submitted to Dask.

    Attributes:
        task: Dask's future.
        stamp: of the checkpoint from which it began.
        vain: attempts in a row without progress of the run.
    """

    task: Any
    stamp: int
    vain: int = 0


class Dask:
    """Executes each run as a task of Dask, in a process of its own on a worker's machine.

    A run whose worker or job ended continues from its checkpoint on another. If this process dies,
    the workers of its own cluster end; the same command then continues their runs. The run folders
    must be on a file system that the workers share.

    Args:
        scheduler: address of a running scheduler, if ``cluster`` is not given.
        cluster: the batch system whose jobs become workers, by the user's configuration of
            dask-jobqueue; a key of `semisam.bench.executors.cluster.SYSTEMS`.
        workers: jobs at a time. Each executes one run at a time.
        device: of every run, on its worker's machine; ``auto``: a GPU if there is one.
    """

    here = False

    def __init__(
        self,
        scheduler: str | None = None,
        cluster: str | None = None,
        workers: int = 1,
        device: str = "auto",
    ) -> None:
        # Dask logs every lost connection and ended worker; both are normal here.
        for logger in list(logging.root.manager.loggerDict):
            if logger.partition(".")[0] == "distributed":  # some have their own level
                logging.getLogger(logger).setLevel(logging.CRITICAL)
        self._device = device
        self._jobs = None if cluster is None else Jobs(cluster, workers)
        self._resources = None if cluster is None else {dask_task.RESOURCE: 1}
        self._client = _connect(scheduler if self._jobs is None else self._jobs.cluster)
        self._next_look = 0.0
        self._said = ""
        self._equip()

    def run_all(self, runs: Sequence[Run], folder: Path, display: Display) -> list[Outcome]:
        """Execute every run that has no result yet; see `Executor`."""
        folder = folder.resolve()
        outcomes: dict[str, Outcome] = {}

        def end(outcome: Outcome) -> None:
            outcomes[outcome.run.name] = outcome
            display.ended(outcome)

        attempts: dict[str, _Attempt] = {}
        try:
            for run in runs:
                if is_finished(folder / run.name):
                    end(kept(run, folder / run.name))
                else:
                    make_folder(run, folder / run.name)
                    attempts[run.name] = self._submit(run, folder / run.name)
            self._tell_of_workers(display)
            watch = Watch(display)
            while len(outcomes) < len(runs):
                self._keep_up(len(runs) - len(outcomes), folder, display)
                for run in [run for run in runs if run.name not in outcomes]:
                    watch.look(run, folder / run.name)
                    attempt = attempts[run.name]
                    if attempt.task.done() and not self._goes_on(run, folder, attempt, display):
                        end(_outcome(run, folder / run.name, attempt))
                time.sleep(POLL)
        except KeyboardInterrupt:
            display.note(
                f"Stopping: every run saves a checkpoint, which may take {PATIENCE:.0f} s. "
                "Ctrl-C again does not wait for it."
            )
            self._client.cancel([attempt.task for attempt in attempts.values()], force=True)
            time.sleep(2 * POLL)  # notifies the workers
            left = [run for run in runs if run.name not in outcomes]
            wait_idle([folder / run.name for run in left], PATIENCE)
            for run in left:
                end(judge(run, folder / run.name, INTERRUPTED))
        finally:
            self._close()
        return [outcomes[run.name] for run in runs]

    def _submit(self, run: Run, folder: Path) -> _Attempt:
        stamp = checkpoint_stamp(folder)
        task = self._client.submit(
            dask_task.execute,
            str(folder),
            str(Path.cwd()),
            self._device,
            key=f"{run.name}-{uuid.uuid4().hex}",
            pure=False,
            resources=self._resources,
        )
        return _Attempt(task, stamp)

    def _goes_on(self, run: Run, folder: Path, attempt: _Attempt, display: Display) -> bool:
        """Submit a run again if its worker or job ended before it, while the run makes progress."""
        place = folder / run.name
        killed, code = _killed(attempt.task), _code(attempt.task)
        if is_finished(place) or not (killed or code in (INTERRUPTED, BUSY)):
            return False
        came_further = checkpoint_stamp(place) != attempt.stamp
        if code != BUSY:  # else wait for the other process that executes it
            attempt.vain = 0 if came_further else attempt.vain + 1
        if attempt.vain >= _TRIES or (killed and attempt.vain):  # Dask itself tries a few times
            return False
        if came_further:
            display.note(f"{run.name}: its worker ended; the run continues from its checkpoint.")
        again = self._submit(run, place)
        attempt.task, attempt.stamp = again.task, again.stamp
        return True

    def _equip(self) -> None:
        """Give present and future workers the plugin that ends runs."""
        try:
            # The scheduler unpickles tasks as well.
            self._client.run_on_scheduler(dask_task.is_known)
            self._client.register_plugin(dask_task.StopRuns())
        except Exception as error:  # unpickling it there may raise any error
            self._close()
            raise InputError(
                "The Dask scheduler and its workers must be able to import this version of "
                f"semisam, got {_sentence(error)}. Install it in their environment."
            ) from None

    def _close(self) -> None:
        self._client.close()
        if self._jobs is not None:
            self._jobs.close()

    def _tell_of_workers(self, display: Display) -> None:
        """Show where the runs are executed, and why they wait if there is no worker."""
        if self._jobs is not None:
            display.note("Jobs are submitted. The runs start when the batch system starts jobs.")
            return
        workers = len(self._client.nthreads())
        if workers:
            display.note(f"Workers of the Dask scheduler: {workers}.")
        else:
            display.note("The Dask scheduler has no workers yet. The runs start when one connects.")

    def _keep_up(self, left: int, folder: Path, display: Display) -> None:
        """Replace jobs that ended, from time to time."""
        if self._jobs is None or time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + _KEEP_UP
        told = len(self._jobs.cancelled)
        self._jobs.keep_up(left, folder)
        for number in self._jobs.cancelled[told:]:
            display.note(f"Job {number} was cancelled before it began. Another is submitted.")
        if self._jobs.refusal != self._said:
            self._said = self._jobs.refusal
            display.note(f"A job was refused: {self._said!r}. It is submitted again later.")


def _outcome(run: Run, folder: Path, attempt: _Attempt) -> Outcome:
    """Return the outcome of a run whose task is over."""
    task = attempt.task
    if is_finished(folder):
        return finished(run, folder, "done")
    if attempt.vain:
        return Outcome(
            run, "failed", "its workers ended one after the other before it could save a checkpoint"
        )
    code = _code(task)
    if code == dask_task.NO_FOLDER:
        return Outcome(
            run,
            "failed",
            f"The run's folder must be on a file system that the Dask workers share, got {folder}, "
            "which a worker does not see. Name another with --out.",
        )
    if code is not None:
        wait_shown(folder)
        return judge(run, folder, code)
    if task.status == "error":
        return Outcome(run, "failed", f"the Dask worker raised {_sentence(task.exception())}")
    return Outcome(
        run,
        "failed",
        "the Dask scheduler must stay until the runs end, got one that ended. Start it and run the "
        "same command again, which resumes the run.",
    )


def _code(task: Any) -> int | None:
    """Return the exit code of a run whose task finished."""
    return int(task.result()) if task.status == "finished" else None


def _killed(task: Any) -> bool:
    return task.status == "error" and isinstance(task.exception(), KilledWorker)


def _sentence(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _check_address(address: str) -> None:
    """Refuse a wrong address at once; Dask would wait and raise an unclear error."""
    try:
        parts = urlsplit(address if "://" in address else f"tcp://{address}")
        valid = parts.scheme in _PROTOCOLS and bool(parts.hostname and parts.port)
    except ValueError:  # a port that is not a number, half an IPv6 address
        valid = False
    if not valid:
        raise InputError(
            f"--scheduler must be the address of a Dask scheduler, got {address!r}. "
            "Give for example tcp://host:8786, which `dask scheduler` prints."
        )


def _connect(where: Any) -> Any:
    if isinstance(where, str):
        _check_address(where)
    try:
        return Client(where, timeout=_CONNECT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"--scheduler must be the address of a running Dask scheduler, got {where} "
            f"({first_line(error)}). Give for example tcp://host:8786, where `dask scheduler` runs."
        ) from None
