"""Runs of a grid as jobs of SLURM: one each, by ``sbatch`` and ``squeue``, without accounting."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from semisam.bench.executors.contract import Display, Outcome
from semisam.bench.executors.runs import (
    PATIENCE,
    POLL,
    Watch,
    checkpoint_stamp,
    error_of,
    finished,
    is_finished,
    prepare,
    wait_shown,
)
from semisam.bench.grid import Run
from semisam.bench.worker import LOG, worker_command
from semisam.core.errors import InputError, SemisamError
from semisam.run.lock import wait_idle

_SCRIPT = Path(__file__).with_name("slurm_job.sh")
_WAIT = 300
"""Seconds for which a job waits for one that is still saving in the folder."""
_SILENCE = 900.0
"""Seconds without an answer of squeue after which the grid gives up; its jobs do not."""
_KEY = re.compile(r"[a-z][a-z0-9-]*")
_OURS = {
    *("array", "error", "help", "input", "job-name", "open-mode", "output", "parsable", "quiet"),
    *("test-only", "usage", "version", "wait", "wrap"),
}
_OVER = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY"),
    *("PREEMPTED", "REVOKED", "TIMEOUT"),
}


@dataclass
class _Job:
    """A run in SLURM's hands."""

    run: Run
    folder: Path
    number: str
    stamp: int
    state: str = "PENDING"


@dataclass
class _Grid:
    """Where the runs of a grid are."""

    waiting: list[tuple[Run, Path]]
    display: Display
    jobs: dict[str, _Job] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    refused: float = 0.0
    """When sbatch last refused a job; zero: never."""

    def end(self, outcome: Outcome) -> None:
        """Note how a run ended."""
        self.jobs.pop(outcome.run.name, None)
        self.outcomes[outcome.run.name] = outcome
        self.display.ended(outcome)


class Slurm:
    """Executes each run as a job of SLURM.

    A run is judged by what it writes, so no accounting is needed. A job that ends before its run is
    finished (the time limit, a dead node) is submitted again as long as the run has come further
    since; it goes on from its checkpoint. Jobs outlive this process: the same command finds them
    by their names and watches them again.

    Args:
        options: of ``sbatch``, by name; an empty value is a bare flag.
        jobs: how many at most in the queue; ``None``: all.
        device: of every run, on its node; ``auto``: a GPU if there is one.
        every: seconds between two questions to ``squeue``.
    """

    here = False

    def __init__(
        self,
        options: Mapping[str, str],
        jobs: int | None = None,
        device: str = "auto",
        every: float = 10.0,
    ) -> None:
        missing = [name for name in ("sbatch", "squeue", "scancel") if not shutil.which(name)]
        if missing:
            raise InputError(
                f"--executor slurm needs sbatch, squeue and scancel on the PATH, got no "
                f"{', '.join(missing)}: run it where jobs are submitted"
            )
        self._options = [sbatch_option(key, value) for key, value in options.items()]
        self._jobs = jobs
        self._device = device
        self._every = every
        self._asked = 0.0
        self._answered = time.monotonic()
        self._said = ""
        self._first_look()

    def run_all(self, runs: Sequence[Run], folder: Path, display: Display) -> list[Outcome]:
        """Execute every run that has no result yet; see `Executor`."""
        folder = folder.resolve()
        grid = _Grid([(run, folder / run.name) for run in runs], display)
        watch = Watch(display)
        self._answered = time.monotonic()
        try:
            found = self._first_look()
            self._submit(grid, found)
            if grid.jobs:
                display.note(
                    f"Jobs in SLURM's queue: {len(grid.jobs)}. Ctrl-C cancels them; should this "
                    "process die, the same command finds them again."
                )
            while grid.waiting or grid.jobs:
                self._submit(grid, found)
                for job in list(grid.jobs.values()):
                    watch.look(job.run, job.folder)
                    if is_finished(job.folder):
                        grid.end(finished(job.run, job.folder, "done"))
                time.sleep(POLL)
                self._update(grid)
        except KeyboardInterrupt:
            self._cancel(grid)
        return [grid.outcomes[run.name] for run in runs]

    def _submit(self, grid: _Grid, found: dict[str, tuple[str, str]]) -> None:
        """Submit the waiting runs, as many as may be; watch those that have a job already."""
        if grid.refused and time.monotonic() - grid.refused < self._every:
            return  # every try is work for SLURM
        while grid.waiting and (self._jobs is None or len(grid.jobs) < self._jobs):
            run, folder = grid.waiting[0]
            if is_finished(folder):
                grid.end(finished(run, folder, "kept"))
            elif (number := _alive(found, _job_name(folder))) is not None:
                found.pop(number)  # known from now on; its run may need another one later
                grid.jobs[run.name] = _Job(run, folder, number, checkpoint_stamp(folder))
            else:
                prepare(run, folder)
                stamp = checkpoint_stamp(folder)
                try:
                    grid.jobs[run.name] = _Job(run, folder, self._sbatch(folder), stamp)
                except InputError as error:
                    if not grid.jobs:
                        raise
                    # Perhaps a limit on submitted jobs: again later, when there may be room.
                    if not grid.refused:
                        grid.display.note(f"{error}. Meanwhile it is tried again by itself.")
                    grid.refused = time.monotonic()
                    return
            grid.waiting.pop(0)

    def _sbatch(self, folder: Path) -> str:
        # An argument each, never a line for a shell. SLURM reads % in a file's name as a pattern.
        log = str(folder / LOG).replace("%", "%%")
        own = [
            *("--parsable", "--requeue", f"--job-name={_job_name(folder)}", f"--output={log}"),
            *("--open-mode=append", "--signal=B:TERM@60"),
        ]
        command = worker_command(folder, f"--wait={_WAIT}", f"--device={self._device}")
        asked = ["sbatch", *own, *self._options, str(_SCRIPT), *command]
        answer = _ask(asked)
        if answer.returncode:
            raise InputError(
                f"sbatch must take the job of {folder.name}, got {_last_line(answer.stderr)!r}: "
                "change --slurm, or try again later"
            )
        return answer.stdout.strip().partition(";")[0]

    def _queue(self) -> dict[str, tuple[str, str]] | None:
        """Return job name and state by job number, or None where SLURM does not answer."""
        self._asked = time.monotonic()
        who = f"--user={os.getuid()}"
        answer = _ask(["squeue", "--noheader", "--states=all", "--format=%i|%T|%j", who])
        if answer.returncode:
            self._said = _last_line(answer.stderr)
            return None
        self._answered = self._asked
        rows = [line.strip().split("|", 2) for line in answer.stdout.splitlines()]
        return {row[0]: (row[2], row[1]) for row in rows if len(row) == 3}

    def _first_look(self) -> dict[str, tuple[str, str]]:
        """Return the queue, without which a run could be submitted that has a job already."""
        queue = self._queue()
        if queue is None:
            raise InputError(
                f"--executor slurm needs a SLURM that answers, got {self._said!r} from squeue: "
                "try squeue yourself, then run the same command again"
            )
        return queue

    def _update(self, grid: _Grid) -> None:
        """Ask for the jobs from time to time; end or continue the runs whose job is over."""
        if time.monotonic() - self._asked < self._every:
            return
        queue = self._queue()
        if queue is None:
            if time.monotonic() - self._answered > _SILENCE:
                raise SemisamError(
                    f"squeue must answer, got none for {_SILENCE / 60:.0f} minutes; the jobs are "
                    "left to SLURM: run the same command again to watch them"
                )
            return
        for job in list(grid.jobs.values()):
            _, job.state = queue.get(job.number, ("", "gone"))
            if job.state == "gone" or job.state in _OVER:
                self._over(grid, job)

    def _over(self, grid: _Grid, job: _Job) -> None:
        if job.state != "CANCELLED":
            wait_shown(job.folder)
        if is_finished(job.folder):
            grid.end(finished(job.run, job.folder, "done"))
        elif error := error_of(job.folder):
            grid.end(Outcome(job.run, "failed", error))
        elif job.state == "CANCELLED":
            grid.end(Outcome(job.run, "interrupted"))
        elif (queue := self._queue()) is None or _alive(queue, _job_name(job.folder)):
            return  # SLURM has put it into the queue again
        elif checkpoint_stamp(job.folder) != job.stamp:
            grid.jobs.pop(job.run.name)
            grid.waiting.insert(0, (job.run, job.folder))
            grid.display.note(
                f"{job.run.name}: job {job.number} ended before the run ({job.state}); it goes on "
                "in another job from its checkpoint"
            )
        else:
            state = "is gone" if job.state == "gone" else f"ended as {job.state}"
            message = f"job {job.number} {state} without a result; see {job.folder / LOG}"
            grid.end(Outcome(job.run, "failed", message))

    def _cancel(self, grid: _Grid) -> None:
        """End the jobs and wait until they have saved."""
        left = [*((job.run, job.folder) for job in grid.jobs.values()), *grid.waiting]
        names = {_job_name(folder) for _, folder in left}
        known = [job.number for job in grid.jobs.values()]
        deadline = time.monotonic() + PATIENCE
        told: set[str] = set()
        while time.monotonic() < deadline:
            # By name: Ctrl-C may have come between a job and the note of its number.
            queue = self._queue()
            alive = known if queue is None else _numbers(queue, names)
            if not alive:
                break
            if new := set(alive) - told:
                _ask(["scancel", *new])
                told |= new
            time.sleep(min(1.0, self._every))
        wait_idle([folder for _, folder in left], max(0.0, deadline - time.monotonic()))
        for run, folder in left:
            grid.end(Outcome(run, "done" if is_finished(folder) else "interrupted"))


def sbatch_option(key: str, value: str) -> str:
    """Return an option as ``sbatch`` takes it, one argument.

    Raises:
        InputError: if the key is no option's name or one that belongs to the grid, or the value
            holds what no option's value does.
    """
    if not _KEY.fullmatch(key):
        raise InputError(
            f"--slurm needs the long name of an option of sbatch, got {key!r}: for example "
            "--slurm partition=gpu"
        )
    if key in _OURS:
        raise InputError(f"--slurm must leave {key} to the grid, got {key}={value}: leave it out")
    if not value.isprintable():
        raise InputError(f"--slurm {key} must be printable text on one line, got {value!r}")
    return f"--{key}={value}" if value else f"--{key}"


def _job_name(folder: Path) -> str:
    """Return the name by which a later process finds a run's job: two folders, two names."""
    place = hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]
    return f"semisam-{place}-{folder.name}"


def _numbers(queue: Mapping[str, tuple[str, str]], names: Collection[str]) -> list[str]:
    """Return the numbers of the jobs of these names that are not over."""
    return [n for n, (name, state) in queue.items() if name in names and state not in _OVER]


def _alive(queue: Mapping[str, tuple[str, str]], name: str) -> str | None:
    """Return the number of the job of that name that is not over."""
    return next(iter(_numbers(queue, {name})), None)


def _ask(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a command of SLURM; one that hangs has not answered."""
    with contextlib.suppress(subprocess.TimeoutExpired, OSError):
        return subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=60,
            # A terminal sends Ctrl-C to the whole group: a question in flight must not die of it.
            start_new_session=True,
        )
    return subprocess.CompletedProcess(list(command), 1, "", "no answer")


def _last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1] if lines else "no message"
