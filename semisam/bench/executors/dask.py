"""Runs of a grid on the workers of a Dask scheduler, or of a cluster that Dask makes of jobs."""

from __future__ import annotations

import logging
import signal
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dask
from distributed import Client, KilledWorker

from semisam.bench.executors import dask_task
from semisam.bench.executors.contract import Display, Outcome
from semisam.bench.executors.runs import (
    PATIENCE,
    POLL,
    Watch,
    checkpoint_stamp,
    finished,
    is_finished,
    judge,
    prepare,
    wait_shown,
)
from semisam.bench.grid import Run
from semisam.bench.worker import INTERRUPTED
from semisam.core.errors import InputError
from semisam.run.lock import wait_idle

CLUSTERS = {
    "slurm": ("SLURMCluster", "sbatch"),
    "pbs": ("PBSCluster", "qsub"),
    "sge": ("SGECluster", "qsub"),
}
"""A batch system's cluster and the program that submits to it."""
_PROTOCOLS = {"tcp", "tls", "ucx", "ws", "wss"}
_CONNECT = 10.0
_KEEP_UP = 30.0
"""Seconds between two looks whether workers whose job has ended must be replaced."""


class Dask:
    """Executes each run as a task of Dask, in a process of its own on a worker's machine.

    A run whose worker died is scheduled again and goes on from its checkpoint. The run folders must
    lie on a file system that the workers share.

    Args:
        scheduler: address of a running scheduler; or
        cluster: the batch system (see `CLUSTERS`) in which to make workers, as the user's
            configuration of dask-jobqueue says;
        workers: and how many. Each executes one run at a time.
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
        # What Dask tells of lost connections and ended workers is no news to the user.
        for logger in list(logging.root.manager.loggerDict):
            if logger.partition(".")[0] == "distributed":  # some have a level of their own
                logging.getLogger(logger).setLevel(logging.CRITICAL)
        self._device = device
        self._workers = workers
        self._cluster = None if cluster is None else _make_cluster(cluster)
        self._resources = None if cluster is None else {dask_task.RESOURCE: 1}
        self._client = _connect(scheduler if self._cluster is None else self._cluster)
        self._next_look = 0.0
        self._equip()

    def run_all(self, runs: Sequence[Run], folder: Path, display: Display) -> list[Outcome]:
        """Execute every run that has no result yet; see `Executor`."""
        folder = folder.resolve()
        outcomes: dict[str, Outcome] = {}

        def end(outcome: Outcome) -> None:
            outcomes[outcome.run.name] = outcome
            display.ended(outcome)

        todo = []
        for run in runs:
            if is_finished(folder / run.name):
                end(finished(run, folder / run.name, "kept"))
            else:
                todo.append(run)
        tasks: dict[str, Any] = {}
        try:
            watch = Watch(display)
            stamps = {run.name: checkpoint_stamp(folder / run.name) for run in todo}
            for run in todo:
                prepare(run, folder / run.name)
                tasks[run.name] = self._submit(run, folder / run.name)
            self._tell_of_workers(display)
            while len(outcomes) < len(runs):
                self._keep_up()
                for run in todo:
                    if run.name in outcomes:
                        continue
                    watch.look(run, folder / run.name)
                    if not tasks[run.name].done():
                        continue
                    stamp = checkpoint_stamp(folder / run.name)
                    if _killed(tasks[run.name]) and stamp != stamps[run.name]:
                        # Its workers died too often for Dask, but between them it came further.
                        display.note(f"{run.name}: workers died; it goes on from its checkpoint")
                        stamps[run.name] = stamp
                        tasks[run.name] = self._submit(run, folder / run.name)
                        continue
                    end(_outcome(run, folder / run.name, tasks[run.name]))
                time.sleep(POLL)
        except KeyboardInterrupt:
            left = [run for run in todo if run.name not in outcomes]
            self._client.cancel([tasks[run.name] for run in left if run.name in tasks], force=True)
            time.sleep(2 * POLL)  # the workers hear of it
            wait_idle([folder / run.name for run in left], PATIENCE)
            for run in left:
                end(judge(run, folder / run.name, INTERRUPTED))
        finally:
            self._close()
        return [outcomes[run.name] for run in runs]

    def _submit(self, run: Run, folder: Path) -> Any:
        return self._client.submit(
            dask_task.execute,
            str(folder),
            str(Path.cwd()),
            self._device,
            key=f"{run.name}-{uuid.uuid4().hex}",
            pure=False,
            resources=self._resources,
        )

    def _equip(self) -> None:
        """Give the workers, those that come later too, what ends runs."""
        try:
            # The scheduler unpickles tasks as well.
            self._client.run_on_scheduler(dask_task.is_known)
            self._client.register_plugin(dask_task.StopRuns())
        except Exception as error:  # whatever unpickling it there raises
            self._close()
            raise InputError(
                "the Dask scheduler and its workers must be able to import this version of "
                f"semisam, got {_sentence(error)}: install it in their environment"
            ) from None

    def _close(self) -> None:
        self._client.close()
        if self._cluster is not None:
            self._cluster.close()

    def _tell_of_workers(self, display: Display) -> None:
        """Say who executes the runs, and why nothing moves where nobody does."""
        if self._cluster is not None:
            display.note(f"Dask asks the batch system for {self._workers} workers.")
            return
        workers = len(self._client.nthreads())
        if workers:
            display.note(f"Workers of the Dask scheduler: {workers}.")
        else:
            display.note("The Dask scheduler has no workers yet: the runs begin when one comes.")

    def _keep_up(self) -> None:
        """Ask for the workers, again for those whose job reached its time limit or died."""
        if self._cluster is not None and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + _KEEP_UP
            self._cluster.scale(self._workers)


def _outcome(run: Run, folder: Path, task: Any) -> Outcome:
    """Return how a run ended whose task is over."""
    if is_finished(folder):
        return finished(run, folder, "done")
    if task.status == "finished":
        code = task.result()
        if code == dask_task.NO_FOLDER:
            return Outcome(
                run,
                "failed",
                f"the run's folder must lie on a file system that the Dask workers share, got "
                f"{folder}, which one of them does not see: name another with --out",
            )
        if code != INTERRUPTED:
            wait_shown(folder)
        return judge(run, folder, code)
    if task.status == "error":
        error = task.exception()
        if _killed(task):
            said = "its Dask workers died one after the other before the first checkpoint"
        else:
            said = f"the Dask worker raised {_sentence(error)}"
        return Outcome(run, "failed", said)
    return Outcome(run, "failed", "the Dask scheduler is gone; run the same command again")


def _killed(task: Any) -> bool:
    return task.status == "error" and isinstance(task.exception(), KilledWorker)


def _sentence(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _check_address(address: str) -> None:
    """Refuse what is no address; what Dask makes of it is no sentence, and takes its time."""
    try:
        parts = urlsplit(address if "://" in address else f"tcp://{address}")
        valid = parts.scheme in _PROTOCOLS and bool(parts.hostname and parts.port)
    except ValueError:  # a port that is no number, half an IPv6 address
        valid = False
    if not valid:
        raise InputError(
            f"--scheduler must be the address of a Dask scheduler, got {address!r}: "
            "for example tcp://host:8786, which `dask scheduler` prints"
        )


def _connect(where: Any) -> Any:
    if isinstance(where, str):
        _check_address(where)
    try:
        return Client(where, timeout=_CONNECT, set_as_default=False)
    except (OSError, ValueError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"--scheduler must be the address of a Dask scheduler that answers, got {where} "
            f"({said[0]}): for example tcp://host:8786, where `dask scheduler` runs"
        ) from None


def load_jobqueue() -> Any:
    """Import dask-jobqueue, which takes Ctrl-C for itself, and give Ctrl-C back."""
    before = signal.getsignal(signal.SIGINT)
    try:
        import dask_jobqueue
    finally:
        signal.signal(signal.SIGINT, before)
    return dask_jobqueue


def _make_cluster(name: str) -> Any:
    """Return a cluster without workers, as the user's configuration says, one run a worker."""
    import shutil

    kind, program = CLUSTERS[name]
    if not shutil.which(program):
        raise InputError(
            f"--cluster {name} needs {program} on the PATH, got none: run it where jobs are "
            "submitted"
        )
    make = getattr(load_jobqueue(), kind)
    own = dask.config.get(f"jobqueue.{name}", {})
    extra = [*(own.get("worker-extra-args") or []), "--resources", f"{dask_task.RESOURCE}=1"]
    try:
        return make(processes=own.get("processes") or 1, worker_extra_args=extra)
    except ValueError as error:
        said = str(error).strip().splitlines()[0]
        raise InputError(
            f"--cluster {name} needs cores and memory of a job in the configuration of "
            f"dask-jobqueue, got {said!r}: write them under jobqueue: {name}: in "
            "~/.config/dask/jobqueue.yaml"
        ) from None
