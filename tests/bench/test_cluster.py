"""Grids on jobs of a batch system: on a SLURM of files, and on a real one where there is one.

For the real one: `benchmarks/slurm_loopback.sh start`, then SEMISAM_SLURM=1.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import fake_slurm
import pandas as pd
import pytest
import yaml
from grid_runs import (
    Recorder,
    arguments,
    bench,
    make_runs,
    processes_of,
    results_of,
    wait_for,
    words,
)

from semisam.bench.executors import cluster
from semisam.bench.executors.cluster import SYSTEMS, Jobs
from semisam.bench.executors.dask import Dask
from semisam.bench.results import read_finished, write
from semisam.core.errors import InputError, SemisamError

pytestmark = pytest.mark.usefixtures("child_environment")

DOCS = Path(__file__).parents[2] / "docs" / "cluster.md"
LONG = 100_000
"""Iterations of a run that must not finish."""


@dataclass
class Site:
    """A SLURM and how to look at it.

    Attributes:
        folder: of the files of a fake one; ``None``: a real one.
        config: of dask-jobqueue.
        place: where a test keeps what is its own.
    """

    folder: Path | None
    config: dict[str, Any]
    place: Path

    def jobs(self) -> list[str]:
        """Return the numbers of the jobs that wait or run."""
        if self.folder is not None:
            return [n for n, state in fake_slurm.jobs(self.folder).items() if state == "RUNNING"]
        name = f"--name={self.config['name']}"
        listed = ["/usr/bin/squeue", "--noheader", "--format=%i", name]
        return subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split()

    def started(self) -> set[str]:
        """Return the numbers of all jobs that started."""
        if self.folder is not None:
            return set(fake_slurm.jobs(self.folder))
        return {path.stem.rpartition("-")[2] for path in (self.place / "logs").glob("*.err")}

    def write(self, **changed: Any) -> None:
        """Write the configuration of dask-jobqueue as a user does, and read it."""
        self.config.update(changed)
        (self.place / "config").mkdir(exist_ok=True)
        file = self.place / "config" / "jobqueue.yaml"
        file.write_text(yaml.safe_dump({"jobqueue": {"slurm": self.config}}))
        dask.config.set({"jobqueue.slurm": {**dask.config.get("jobqueue.slurm"), **self.config}})


@pytest.fixture(
    params=[
        "fake",
        pytest.param(
            "real",
            marks=pytest.mark.skipif(
                os.environ.get("SEMISAM_SLURM") != "1" or not shutil.which("sbatch"),
                reason="needs a real SLURM and SEMISAM_SLURM=1",
            ),
        ),
    ]
)
def site(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    """A SLURM whose commands are on the PATH, and a user's configuration for it."""
    cluster._load_jobqueue()
    config = {
        **{"name": f"semisam-{os.getpid()}", "cores": 1, "memory": "500MiB", "interface": "lo"},
        **{"walltime": "00:10:00", "death-timeout": 5, "log-directory": str(tmp_path / "logs")},
        "scheduler-options": {"dashboard_address": "127.0.0.1:0"},
        "worker-extra-args": ["--no-dashboard"],
    }
    folder = None
    if request.param == "fake":
        folder = tmp_path / "slurm"
        programs = fake_slurm.install(folder)
        monkeypatch.setenv("PATH", os.pathsep.join([str(programs), os.environ["PATH"]]))
    monkeypatch.setenv("DASK_CONFIG", str(tmp_path / "config"))
    before = dask.config.get("jobqueue.slurm")
    found = Site(folder, config, tmp_path)
    found.write()
    try:
        yield found
    finally:
        dask.config.set({"jobqueue.slurm": before})
        if folder is not None:
            fake_slurm.kill_all(folder)
        elif left := found.jobs():
            subprocess.run(["/usr/bin/scancel", *left], check=True)


def _start(out: Path, *more: str) -> subprocess.Popen[str]:
    """Start the grid as a user does, in a process group of its own as in a terminal."""
    command = [sys.executable, "-m", "semisam", *arguments(out, "--executor", "dask", *more)]
    return subprocess.Popen(
        [*command, "--cluster", "slurm"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # A shell that starts the tests in the background has the signal ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def _checkpoints(out: Path) -> list[Path]:
    return list(out.glob("runs/*/checkpoint.pt"))


def _noisy(site: Site, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a site's wrappers before the commands; return the file with what scancel was given."""
    folder = site.place / "wrappers"
    folder.mkdir()
    for tool in fake_slurm.TOOLS:
        real = shutil.which(tool)
        log = f'echo "$@" >> "{folder}/{tool}.log"\n'
        talk = "" if tool != "sbatch" else 'echo "Welcome to cluster 2031, 70000 cores"\n'
        bye = "" if tool != "sbatch" else 'echo "You have used 12345 of 99999 hours"\n'
        call = "exit 0" if tool == "squeue" else f'"{real}" "$@" || exit $?\n'
        (folder / tool).write_text(f"#!/bin/sh\n{log}{talk}{call}{bye}")
        (folder / tool).chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(folder), os.environ["PATH"]]))
    return folder


def test_a_grid_runs_behind_a_talking_wrapper_and_an_empty_queue(
    site, tmp_path, reference, monkeypatch
):
    monkeypatch.setattr(cluster, "_LOOK", 0.0)
    folder = _noisy(site, monkeypatch)
    out = tmp_path / "100% out"
    result = bench(out, "--executor", "dask", "--cluster", "slurm", "--workers", "2")
    assert result.exit_code == 0, result.output
    pd.testing.assert_frame_equal(results_of(out), reference)
    wait_for(lambda: not site.jobs(), "the end of the jobs")
    cancelled = set((folder / "scancel.log").read_text().split())
    assert cancelled == site.started()  # and no number of the wrapper's
    assert not [path for path in (out / "runs").iterdir() if path.is_file()]


def test_a_job_at_its_time_limit_is_taken_up_by_another(site, tmp_path, reference):
    folder = tmp_path / "runs"
    (run,) = make_runs()
    if site.folder is None:
        site.write(walltime="00:01:00")
        (run,) = make_runs(iterations=2000)
    else:
        checkpoint = folder / run.name / "checkpoint.pt"

        def limit() -> None:
            wait_for(checkpoint.exists, "a checkpoint")
            fake_slurm.end(site.folder, "1", "TIMEOUT")

        threading.Thread(target=limit, daemon=True).start()
    (outcome,) = Dask(cluster="slurm").run_all([run], folder, Recorder())
    assert outcome.status == "done", outcome.message
    assert len(site.started()) > 1
    assert _steps(folder / run.name) == list(range(run.settings.iterations))
    if site.folder is not None:
        results = read_finished([folder / run.name]).results
        write(results, tmp_path / "results.csv", digits=10)
        found = results_of(tmp_path)
        same = reference[reference["run"].isin(found["run"])].reset_index(drop=True)
        pd.testing.assert_frame_equal(found, same)
    wait_for(lambda: not site.jobs(), "the end of the jobs")


def _steps(folder: Path) -> list[int]:
    """Return the iterations that a run executed, in its log's order."""
    lines = (folder / "train.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def test_ctrl_c_stops_at_once_and_leaves_no_job(site, tmp_path):
    out = tmp_path / "out"
    process = _start(out, "--workers", "2", "--iterations", str(LONG))
    try:
        wait_for(lambda: len(_checkpoints(out)) == 2, "checkpoints of both runs")
        began = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        said = ""
        while "Stopping" not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        assert time.monotonic() - began < 3
        said += process.communicate(timeout=180)[0]
    finally:
        process.kill()
    assert process.returncode == 130 and "Traceback" not in said, said
    assert "2 of 2 runs are not finished" in words(said)
    wait_for(lambda: not site.jobs(), "the end of the jobs")
    assert not processes_of(out)


def test_a_killed_bench_is_taken_up_by_the_same_command(site, tmp_path, reference):
    out = tmp_path / "out"
    first = _start(out)
    try:
        wait_for(lambda: _checkpoints(out), "a checkpoint")
    finally:
        first.kill()
    first.wait()
    old = set(site.jobs())
    result = bench(out, "--executor", "dask", "--cluster", "slurm")
    assert result.exit_code == 0, result.output
    pd.testing.assert_frame_equal(results_of(out), reference)
    assert not old & set(site.jobs())
    assert not list((out / "runs").glob(".job-*"))
    for folder in (out / "runs").iterdir():
        assert _steps(folder) == list(range(40))
    wait_for(lambda: not site.jobs(), "the end of the jobs")


def test_a_job_that_starts_after_its_bench_died_ends_by_itself(site, tmp_path):
    site.write(**{"job-extra-directives": ["--begin=now+15"]})
    out = tmp_path / "out"
    process = _start(out)
    try:
        wait_for(site.jobs, "a job")
    finally:
        process.kill()
    process.wait()
    wait_for(lambda: not site.jobs(), "the end of the job")
    assert not _checkpoints(out) and not processes_of(out)


def test_a_waiting_job_that_is_cancelled_by_hand_is_replaced(site, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "_LOOK", 0.0)
    site.write(**{"job-extra-directives": ["--begin=now+600"]})
    display = Recorder()

    def cancel() -> None:
        (number,) = wait_for(site.jobs, "a waiting job")
        site.write(**{"job-extra-directives": []})  # the next job begins at once
        subprocess.run(["scancel", number], check=True)

    threading.Thread(target=cancel, daemon=True).start()
    (outcome,) = Dask(cluster="slurm").run_all(make_runs(), tmp_path / "runs", display)
    assert outcome.status == "done", outcome.message
    assert any("was cancelled before it began" in note for note in display.notes)
    wait_for(lambda: not site.jobs(), "the end of the jobs")


# What the batch system refuses or breaks


fake_only = pytest.mark.parametrize("site", ["fake"], indirect=True)


@fake_only
def test_what_sbatch_refuses_is_one_sentence(site, tmp_path):
    site.write(queue="closed")
    result = bench(tmp_path / "out", "--executor", "dask", "--cluster", "slurm")
    assert result.exit_code == 2 and "Traceback" not in result.output
    assert "invalid partition specified: closed" in words(result.output)
    assert "jobqueue: slurm: in ~/.config/dask/jobqueue.yaml" in words(result.output)
    assert not fake_slurm.jobs(site.folder)


@fake_only
def test_a_limit_on_submitted_jobs_is_waited_for(site, tmp_path, monkeypatch):
    (site.folder / "limit").write_text("1")
    display = Recorder()
    outcomes = Dask(cluster="slurm", workers=2).run_all(
        make_runs(labels=(1, 2)), tmp_path / "runs", display
    )
    assert [outcome.status for outcome in outcomes] == ["done"] * 2
    (refused,) = [note for note in display.notes if "refused" in note]
    assert "QOSMaxSubmitJobPerUserLimit" in refused


@fake_only
def test_jobs_without_a_worker_are_not_submitted_for_ever(site, tmp_path, monkeypatch):
    site.write(python="/bin/false")
    with pytest.raises(SemisamError, match=r"3 jobs in a row without one \(1, 2, 3\)"):
        Dask(cluster="slurm").run_all(make_runs(), tmp_path / "runs", Recorder())
    assert list(fake_slurm.jobs(site.folder)) == ["1", "2", "3"]
    assert not [path for path in (tmp_path / "runs").iterdir() if path.is_file()]


@fake_only
def test_a_job_without_a_run_is_given_back(site, tmp_path):
    class Last(Recorder):
        """Presses Ctrl-C when the run that is left has the only job that is left."""

        def moved(self, run: Any, state: dict[str, Any]) -> None:
            super().moved(run, state)
            if self.ends and self.ends[0].run is not run and len(site.jobs()) == 1:
                raise KeyboardInterrupt

    runs = [*make_runs(labels=(1,)), *make_runs(iterations=LONG)]
    outcomes = Dask(cluster="slurm", workers=2).run_all(runs, tmp_path / "runs", Last())
    assert [outcome.status for outcome in outcomes] == ["done", "interrupted"]
    assert len(fake_slurm.jobs(site.folder)) == 2


@fake_only
def test_a_configuration_without_cores_is_one_sentence(site, tmp_path):
    site.write(cores=None)
    result = bench(tmp_path / "out", "--executor", "dask", "--cluster", "slurm")
    assert result.exit_code == 2 and "must have the cores and the memory" in words(result.output)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("system", "answer", "number"),
    [
        ("slurm", "Welcome to 7\nSubmitted batch job 42\n3 days left", "42"),
        ("slurm", "Submitted batch job 42 on cluster big", "42"),
        ("pbs", "Welcome to 7 nodes\n42.server.example.org\n", "42"),
        ("pbs", "42\n", "42"),
        ("sge", 'On 2 May:\nYour job 42 ("dask-worker") has been submitted', "42"),
        ("lsf", "7 slots free\nJob <42> is submitted to queue <normal>.", "42"),
    ],
)
def test_the_number_of_a_job_is_found_among_other_words(
    system, answer, number, programs, monkeypatch
):
    with dask.config.set({f"jobqueue.{system}": _small(system)}):
        jobs = Jobs(system, 1)
        try:
            assert jobs.cluster._dummy_job._job_id_from_submit_output(answer) == number
        finally:
            jobs.close()


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The programs of every batch system, which do nothing."""
    cluster._load_jobqueue()
    for _, program, _ in SYSTEMS.values():
        (tmp_path / program).write_text("#!/bin/sh\n")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(tmp_path), os.environ["PATH"]]))


def _small(system: str, **own: Any) -> dict[str, Any]:
    local = {"interface": "lo", "scheduler-options": {"dashboard_address": "127.0.0.1:0"}}
    return {**dask.config.get(f"jobqueue.{system}"), "cores": 1, "memory": "1GB", **own, **local}


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_documented_configuration_makes_such_jobs(system, programs, tmp_path):
    """Every value of the example reaches the job's script, and nothing else is needed."""
    blocks = DOCS.read_text().split("```yaml\n")[1:]
    examples = [yaml.safe_load(block.partition("```")[0])["jobqueue"] for block in blocks]
    (own,) = [example[system] for example in examples if system in example]
    place = {"log-directory": str(tmp_path / "logs")}
    with dask.config.set({f"jobqueue.{system}": _small(system, **own | place)}):
        jobs = Jobs(system, 1)
        try:
            script = jobs.cluster.job_script()
            jobs.keep_up(0, tmp_path)
            assert not list(tmp_path.glob(".job-*"))  # only a submitted job has a mark
        finally:
            jobs.close()
    assert str(own["walltime"]) in script and f"--resources {cluster.RESOURCE}=1" in script
    assert str(own["queue"]) in script
    for line in (*own["job-extra-directives"], *own["job-script-prologue"]):
        assert line in script
    assert "--no-nanny" in script and "--death-timeout 60" in script


def test_a_missing_program_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="--cluster lsf must be used where bsub is on the PATH"):
        Jobs("lsf", 1)
