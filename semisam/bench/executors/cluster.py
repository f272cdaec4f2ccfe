"""A Dask cluster of batch jobs, each with one worker that executes one run at a time."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Any
from uuid import uuid4

import dask
from distributed.core import Status

from semisam.bench.executors.dask_task import RESOURCE
from semisam.core.errors import InputError, SemisamError

SYSTEMS = {
    "slurm": ("SLURMCluster", "sbatch", r"Submitted batch job (?P<job_id>\d+)"),
    "pbs": ("PBSCluster", "qsub", r"(?m)^(?P<job_id>\d+)(?:\.\S+)?\s*$"),
    "sge": ("SGECluster", "qsub", r"Your job(?:-array)? (?P<job_id>\d+)"),
    "lsf": ("LSFCluster", "bsub", r"Job <(?P<job_id>\d+)>"),
}
"""A batch system's class in dask-jobqueue, its program, and the line with a job's number.

dask-jobqueue takes the first number that the program prints, which may be in a site's banner.
"""
_CANCELLED = ("squeue", "--noheader", "--states=CANCELLED", "--format=%i", "--jobs")
"""The command that lists those of some jobs of SLURM that were cancelled.

Only a listed job counts. A listing that lags or is empty proves nothing.
"""
_LOOK = 30.0
"""Seconds between two such listings."""
_TRIES = 3
"""Jobs in a row that may end without a worker."""


class Jobs:
    """The batch jobs of a study.

    Args:
        system: key of `SYSTEMS`.
        number: jobs at a time.

    Attributes:
        cluster: Dask's cluster, which submits and cancels the jobs.
        refusal: message of the batch system when it last refused a job; empty if it never did.
        cancelled: numbers of jobs that were cancelled before they began.

    Raises:
        InputError: if the batch system or its configuration is missing.
    """

    def __init__(self, system: str, number: int) -> None:
        self.refusal = ""
        self.cancelled: list[str] = []
        self._next_look = 0.0
        self._system = system
        self._number = number
        self._submitted = 0
        self._lost: list[str] = []
        self._folder: Path | None = None
        self._marks: list[Path] = []
        self.cluster = self._make()

    def keep_up(self, runs: int, folder: Path) -> None:
        """Submit missing jobs, replace jobs that ended, and cancel jobs that are not needed.

        Args:
            runs: number of runs that have not ended.
            folder: shared with the jobs. A job removes its mark there when its worker ended.

        Raises:
            SemisamError: if no job can be submitted, or no job starts a worker.
        """
        self._folder = folder
        if self.refusal and not self._submitted:
            raise InputError(
                f"The batch system must take the jobs, got {self.refusal!r}. Correct jobqueue: "
                f"{self._system}: in ~/.config/dask/jobqueue.yaml."
            )
        self.cluster.sync(self._sort_out, runs)
        if len(self._lost) >= _TRIES:
            raise SemisamError(
                f"A job must start a Dask worker that reaches this process, got {_TRIES} jobs in a "
                f"row without one ({', '.join(self._lost)}). Read the logs of these jobs."
            )
        self.cluster.scale(min(self._number, runs))

    def close(self) -> None:
        """Cancel the jobs and end the scheduler."""
        self.cluster.close()
        for mark in self._marks:
            mark.unlink(missing_ok=True)

    async def _sort_out(self, runs: int) -> None:
        """Forget jobs that were refused or ended without a worker; end workers without a run."""
        cluster = self.cluster
        states = cluster.scheduler.workers.values()
        here = {state.name for state in states}
        if here:
            self._lost.clear()
        for name, job in cluster.workers.items():
            job.came |= name in here
        cancelled = await self._newly_cancelled()
        for name, job in list(cluster.workers.items()):
            lost = not job.came and not job.mark.exists()
            if lost:
                self._lost.append(str(job.job_id))
            if lost or job.job_id is None or str(job.job_id) in cancelled:
                del cluster.workers[name]  # Dask submits another
        idle = [state.name for state in states if not state.processing]
        surplus = len(cluster.worker_spec) - runs
        if surplus > 0 and idle:
            await cluster.scale_down(idle[:surplus])

    async def _newly_cancelled(self) -> list[str]:
        """Return the numbers of jobs that a person cancelled before they began."""
        pending = {
            str(j.job_id): j for j in self.cluster.workers.values() if j.job_id and not j.came
        }
        if self._system != "slurm" or not pending or time.monotonic() < self._next_look:
            return []
        self._next_look = time.monotonic() + _LOOK
        try:
            listed = await next(iter(pending.values()))._call([*_CANCELLED, ",".join(pending)])
        except (OSError, RuntimeError):  # no such program, or no such job any more
            return []
        found = [number for number in listed.split() if number in pending]
        self.cancelled += found
        return found

    def _new_mark(self) -> Path:
        """Make a file for a job to remove when its worker ended."""
        assert self._folder is not None
        self._marks.append(self._folder / f".job-{uuid4().hex[:12]}")
        self._marks[-1].touch()
        return self._marks[-1]

    def _make(self) -> Any:
        """Return a cluster without jobs, by the user's configuration of dask-jobqueue."""
        name, program, _ = SYSTEMS[self._system]
        if not shutil.which(program):
            raise InputError(
                f"--cluster {self._system} must be used where {program} is on the PATH, got a PATH "
                "without it. Run the command where jobs are submitted."
            )
        base = getattr(_load_jobqueue(), name)
        kind = type(name, (base,), {"job_cls": self._job_class(base.job_cls)})
        own = dask.config.get(f"jobqueue.{self._system}", {})
        extra = [*(own.get("worker-extra-args") or []), "--resources", f"{RESOURCE}=1"]
        try:
            # A run is its own process, so a nanny would watch over an empty worker.
            return kind(processes=1, nanny=False, worker_extra_args=extra)
        except ValueError as error:
            raise InputError(
                f"--cluster {self._system} must have the cores and the memory of a job, got "
                f"{str(error).splitlines()[0]!r}. Write them under jobqueue: {self._system}: in "
                "~/.config/dask/jobqueue.yaml."
            ) from None

    def _job_class(self, base: Any) -> Any:
        """Return dask-jobqueue's class of a job, made robust against failures of batch systems."""
        jobs = self

        class Job(base):  # type: ignore[misc]
            job_id_regexp = SYSTEMS[jobs._system][2]
            came = False  # its worker reached the scheduler
            mark: Path | None = None

            async def start(self) -> None:
                # dask-jobqueue also makes jobs that it never submits.
                self.mark = jobs._new_mark()
                try:
                    await super().start()
                    jobs._submitted += 1
                except (OSError, RuntimeError, ValueError) as error:
                    jobs.refusal = _telling_line(str(error))
                    self.status = Status.running  # an exception would be lost in Dask's loop

            async def close(self) -> None:
                await super().close()
                self.status = Status.closed

            def job_script(self) -> str:
                script: str = super().job_script()
                return script if self.mark is None else f"{script}rm -f {quote(str(self.mark))}\n"

            @staticmethod
            async def _call(command: Sequence[str], **options: Any) -> str:
                # A terminal sends Ctrl-C to its whole group, which must not end a submission.
                said: str = await base._call(command, start_new_session=True, **options)
                return said

        return Job


def _load_jobqueue() -> Any:
    """Import dask-jobqueue, and restore the handler of Ctrl-C that the import replaces."""
    before = signal.getsignal(signal.SIGINT)
    try:
        import dask_jobqueue
    finally:
        signal.signal(signal.SIGINT, before)
    return dask_jobqueue


def _telling_line(text: str) -> str:
    """Return the line with the error in a program's output, or else the last line."""
    lines = [line.strip() for line in text.splitlines() if not line.endswith(":")]
    lines = [line for line in lines if line]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or ["no message"])[-1]
