"""A grid that is disturbed and started again, against the same grid undisturbed.

    python benchmarks/faults.py --kills 20 [--before ../before] [--out FILE]

First come the faults of `TRIALS`: each disturbs a grid of one run once, and the same command then
finishes it. With ``--before``, the fault is also tried on the semisam of another checkout. Then
come kills.

The grid (phantoms; a method with and without SemiSAM, two seeds) runs once undisturbed. Then it is
started repeatedly. At a random moment, SIGKILL hits all of it, only the grid, or the run that it
executes and, a second later, the grid. The last start is undisturbed. Four things are compared byte
for byte: the tables of ``semisam table`` (csv without time and memory, md, latex, html), the
weights, the scores (``cases.csv`` without seconds) and the logs of every step (without seconds).
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

import semisam
from semisam.bench import formats, tables
from semisam.bench.columns import TableForm

GRID = (
    *("--method", "mt", "--sam", "none,geodesic", "--labels", "2", "--seeds", "0,1"),
    *("--set", "phantom.cases=4", "--set", "phantom.test_cases=2", "--set", "phantom.size=32"),
    *("--patch", "16x16x16", "--stride", "16x16x16"),
    *("--network", "vnet", "--set", "vnet.filters=2"),
)
SMALL = ("--sam", "none", "--seeds", "0")
"""Options that leave one run of the grid."""
WHOM = ("all", "grid", "run")
MEASURED = ("seconds", "memory")
_PATIENCE = 300.0
_LATEST = 12.0
_SAID = ("Error: ", "Failed: ", "Interrupted")
_HERE = Path(semisam.__file__).parents[1]


def command(out, *more):
    return [sys.executable, "-m", "semisam", "bench", "--out", str(out), *GRID, *more]


def start(out, log, *more):
    return subprocess.Popen(
        command(out, *more), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
    )


def unfinished(out):
    """Return how far each run is: its result is there, or the size of what it has logged."""
    return tuple(
        (path.name, (path / "result.json").exists()) for path in sorted(out.glob("runs/*"))
    )


def kill(process, whom):
    """Send SIGKILL to processes of the grid; return the names of those hit, all of them ended."""
    try:
        runs = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        runs = []
    hit = {"all": [process.pid], "grid": [process.pid], "run": []}[whom]
    hit += [run.pid for run in runs] if whom in ("all", "run") else []
    for pid in hit:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    if whom == "run":
        # The grid continues with the next run and is killed next.
        time.sleep(1.0)
        return len(hit) + kill(process, "all")
    process.wait(_PATIENCE)
    # A run whose grid is gone writes a checkpoint and ends.
    _, alive = psutil.wait_procs(runs, timeout=_PATIENCE)
    for run in alive:
        run.kill()
    if alive:
        raise RuntimeError(f"{len(alive)} runs outlived their grid by {_PATIENCE} s")
    return len(hit)


def without_measured(text):
    """Return a CSV without the columns that tell time or memory."""
    rows = list(csv.DictReader(io.StringIO(text)))
    names = [name for name in rows[0] if not any(word in name for word in MEASURED)]
    target = io.StringIO()
    writer = csv.DictWriter(target, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return target.getvalue()


def digest(out):
    """Return what must not depend on any kill: a hash of each thing by its name."""
    found = {}
    table = tables.load(out).table
    for kind, written in formats.FORMATS.items():
        made = written(table, TableForm())
        found[f"table.{kind}"] = without_measured(made) if kind == "csv" else made
    found["table.csv of bench"] = without_measured((out / "table.csv").read_text())
    for run in sorted(out.glob("runs/*")):
        found[f"{run.name}/cases.csv"] = without_measured((run / "cases.csv").read_text())
        lines = [json.loads(line) for line in (run / "train.jsonl").read_text().splitlines()]
        kept = [{k: v for k, v in line.items() if "seconds" not in k} for line in lines]
        found[f"{run.name}/train.jsonl"] = json.dumps(kept)
        state = torch.load(run / "model.pt", weights_only=True)
        weights = b"".join(value.numpy().tobytes() for value in state.values())
        found[f"{run.name}/model.pt"] = hashlib.sha256(weights).hexdigest()
        result = json.loads((run / "result.json").read_text())
        found[f"{run.name}/metrics"] = json.dumps(result["metrics"])
    return {name: hashlib.sha256(text.encode()).hexdigest()[:16] for name, text in found.items()}


def disturbed(folder, kills, seed, seconds, *more):
    """Run the grid, killed so many times, and yield a row a kill.

    Args:
        folder: for the grid and what it prints.
        kills: how many.
        seed: of the moments.
        seconds: that the grid takes undisturbed.
        more: options of the grid.
    """
    rng = random.Random(seed)
    out = folder / "out"
    with (folder / "grid.log").open("wb") as log:
        number = 0
        while number < kills:
            whom = WHOM[number % len(WHOM)]
            before = unfinished(out)
            # Once all runs have ended, a fresh start of the grid is what remains to be killed.
            moment = rng.uniform(0.0, min(seconds / 2, _LATEST))
            process = start(out, log, *more)
            deadline = time.monotonic() + moment
            while time.monotonic() < deadline and process.poll() is None:
                time.sleep(0.01)
            if process.poll() is not None:
                # It ended before the kill: begin again, so that every kill hits.
                yield {"kill": "", "whom": "", "second": "", "hit": 0, "done": "all, begun again"}
                out.rename(folder / f"whole-{number}-{time.monotonic_ns()}")
                continue
            hit = kill(process, whom)
            done = sum(is_done for _, is_done in unfinished(out))
            number += 1
            yield {
                "kill": number,
                "whom": whom,
                "second": round(moment, 2),
                "hit": hit,
                "done": f"{done} of {len(unfinished(out)) or len(before)} begun",
            }
        if kills:
            subprocess.run(
                command(out, *more), check=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )


def leftovers(out):
    """Return temporary files that a kill has left and no later start removed."""
    return sorted(str(path.relative_to(out)) for path in out.rglob("*.tmp"))


@dataclass(frozen=True)
class Place:
    """Where a fault is tried.

    Attributes:
        out: folder of the grid.
        more: options of the grid.
        code: checkout of the semisam that is tried.
    """

    out: Path
    more: tuple[str, ...]
    code: Path = _HERE

    def start(self, *more, limit=None, **environment):
        """Start the grid in a group of its own, as a terminal does; a variable may be ``None``."""
        return self.start_command(command(self.out, *self.more, *more), limit, **environment)

    def start_command(self, words, limit=None, **environment):
        """Start any command of semisam; ``limit`` is a resource and its value."""
        given = {**os.environ, "PYTHONPATH": str(self.code), **environment}
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            env={name: value for name, value in given.items() if value is not None},
            start_new_session=True,
            preexec_fn=lambda: _limited(limit),
        )

    def at_work(self, process, pattern="runs/*/checkpoint.pt"):
        """Wait until a run has a checkpoint."""
        deadline = time.monotonic() + _PATIENCE
        while not list(self.out.glob(pattern)) and process.poll() is None:
            if time.monotonic() > deadline:
                raise RuntimeError(f"no {pattern} in {self.out} after {_PATIENCE} s")
            time.sleep(0.01)
        return process


def _limited(limit):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if limit is not None:
        import resource

        resource.setrlimit(getattr(resource, limit[0]), (limit[1], limit[1]))


def ended(process):
    """Return the exit code of a command, and its output."""
    said = process.communicate(timeout=_PATIENCE)[0]
    return process.returncode, said


def interrupt(place, *signals, group=True):
    """Send signals to the grid, to all of its group or to its first process only."""
    process = place.at_work(place.start())
    for number in signals:
        (os.killpg if group else os.kill)(process.pid, number)
        time.sleep(0.2)
    return ended(process)


def remove_folder(place):
    """Remove the output folder while a run is at work."""
    process = place.at_work(place.start())
    while place.out.exists():
        shutil.rmtree(place.out, ignore_errors=True)
    return ended(process)


def several_at_once(place, number=3):
    """Start the same grid several times."""
    processes = [place.start() for _ in range(number)]
    ends = [ended(process) for process in processes]
    return max(code for code, _ in ends), "\n".join(said for _, said in ends)


def dask(place, kill_scheduler):
    """Kill the scheduler or a worker of Dask while a run is at work."""
    file = place.out.with_suffix(".scheduler.json")
    module = [sys.executable, "-m"]
    own = ["--host", "127.0.0.1", "--no-dashboard"]
    scheduler = [*module, "distributed.cli.dask_scheduler", *own, "--port=0"]
    started = [
        subprocess.Popen([*scheduler, f"--scheduler-file={file}"], stderr=subprocess.DEVNULL)
    ]
    try:
        while not file.exists() or not file.stat().st_size:
            time.sleep(0.1)
        address = json.loads(file.read_text())["address"]
        environment = {**os.environ, "PYTHONPATH": str(place.code)}
        worker = [*module, "distributed.cli.dask_worker", address, *own, "--no-nanny"]
        for number in range(2):
            spill = f"--local-directory={place.out.with_suffix(f'.{number}')}"
            words = [*worker, "--nthreads=1", spill]
            started.append(subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL))
        process = place.at_work(place.start("--executor", "dask", "--scheduler", address))
        started[0 if kill_scheduler else 1].kill()
        return ended(process)
    finally:
        for each in started:
            each.kill()
            each.wait()


def torchrun(place, processes=2, lose=True):
    """Kill a rank of a training, or start it with another number of processes than before."""
    run = place.out.with_suffix(".torchrun")
    torch_run = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    words = [*torch_run, f"--nproc-per-node={processes}", "-m", "semisam", "train", "--method=mt"]
    words += [f"--out={run}", "--labels=2", "--device=cpu", *GRID[8:], *_without(place.more, SMALL)]
    words += ["--patch", "32x32x16"]
    process = Place(run, (), place.code).start_command(words)
    if not lose:
        return ended(process)
    Place(run, ()).at_work(process, "checkpoint.pt")
    if process.poll() is not None:  # it ended before a checkpoint
        return ended(process)
    ranks = [p for p in psutil.Process(process.pid).children() if "semisam" in p.cmdline()]
    ranks[-1].kill()
    return ended(process)


def _without(options, others):
    """Return options without those that only a grid has."""
    at = options.index(others[0])
    return options[:at] + options[at + len(others) :]


def another_number(place):
    """Resume a training of two processes with one."""
    torchrun(place)
    return torchrun(place, processes=1, lose=False)


def killed_at_renames(place):
    """Kill each process at its first rename, then at its second, until the grid is whole."""
    hook = place.out.with_suffix(".hook")
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(_KILL_AT_RENAME)
    path = os.pathsep.join([str(hook), str(place.code)])
    for number in range(1, 100):
        given = {"PYTHONPATH": path, "KILL_AT_RENAME": str(number)}
        code, said = ended(place.start(**given))
        if code >= 0 and "killed by signal" not in said:
            return code, said
    return 1, "Error: not whole after 99 starts"


_KILL_AT_RENAME = """
import os, signal
replace, left = os.replace, [int(os.environ["KILL_AT_RENAME"])]
def replacing(*names, **options):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*names, **options)
os.replace = replacing
"""

TRIALS: dict[str, Callable[[Place], tuple[int, str]]] = {
    "Ctrl-C": lambda place: interrupt(place, signal.SIGINT),
    "Ctrl-C twice": lambda place: interrupt(place, signal.SIGINT, signal.SIGINT),
    "SIGTERM to bench": lambda place: interrupt(place, signal.SIGTERM, group=False),
    "output folder removed": remove_folder,
    "files of at most 100 kB": lambda place: ended(place.start(limit=("RLIMIT_FSIZE", 100_000))),
    "64 open files": lambda place: ended(place.start(limit=("RLIMIT_NOFILE", 64))),
    "14 open files, 8 jobs": lambda place: ended(
        place.start("--jobs", "8", limit=("RLIMIT_NOFILE", 14))
    ),
    "no HOME, no such TMPDIR, LC_ALL=C": lambda place: ended(
        place.start(HOME=None, TMPDIR="/no/such/folder", LC_ALL="C")
    ),
    "three bench in one folder": several_at_once,
    "Dask worker killed": lambda place: dask(place, kill_scheduler=False),
    "Dask scheduler killed": lambda place: dask(place, kill_scheduler=True),
    "torchrun rank killed": torchrun,
    "resumed with another number of processes": another_number,
    "killed at every rename": killed_at_renames,
}


def sentence(said):
    """Return the first line on the end of a command, or ``traceback`` if semisam printed one."""
    # torchrun ends with a traceback of its own.
    if said.count("Traceback (most") > said.count("errors.ChildFailedError:"):
        return "traceback"
    lines = [line.strip() for line in said.splitlines()]
    told = [line for line in lines if line.startswith(_SAID)]
    stopping = next((line for line in lines if line.startswith("Stopping")), "")
    return " ".join(filter(None, [stopping[:9], *told[:1]])) or "all runs done"


def names(out):
    """Return the names of a grid's files."""
    return {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}


def tried(what, root, more, peace, before):
    """Try one fault, finish the grid, and return a row."""
    trial, slug = TRIALS[what], re.sub(r"\W+", "-", what)
    code, said = trial(Place(root / slug, more))
    row = {"tried": what, "exit": code, "outcome": sentence(said)}
    if before is not None:
        code, said = trial(Place(root / f"before-{slug}", more, before))
        row |= {"exit before": code, "before": sentence(said)}
    if not (root / slug).exists() and what != "output folder removed":
        return row | {"different": 0, "other files": ""}  # the grid took no part
    subprocess.run(command(root / slug, *more), check=True, stdout=subprocess.DEVNULL)
    found, wanted = digest(root / slug), digest(peace)
    different = [name for name in wanted if found.get(name) != wanted[name]]
    left = sorted(names(root / slug) ^ names(peace))
    return row | {"different": len(different), "other files": " ".join(left)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--before", type=Path, help="another checkout of semisam")
    parser.add_argument("--trials", nargs="*", default=list(TRIALS), metavar="NAME")
    arguments = parser.parse_args()
    more = ("--iterations", str(arguments.iterations), "--checkpoint-every", "5")
    rows: list[dict[str, object]] = []
    trials, nowhere = [], subprocess.DEVNULL
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        seconds, wanted = 0.0, {}
        if arguments.kills:
            began = time.monotonic()
            subprocess.run(command(root / "peace", *more), check=True, stdout=nowhere)
            seconds = time.monotonic() - began
            wanted = digest(root / "peace")
            print(f"undisturbed: {seconds:.1f} s, {len(wanted)} things to compare", flush=True)
        for what in arguments.trials:
            small = (*more, *SMALL)
            if not (root / "small").exists():
                subprocess.run(command(root / "small", *small), check=True, stdout=nowhere)
            row = tried(what, root, small, root / "small", arguments.before)
            print(row, flush=True)
            trials.append(row)
        for row in disturbed(root, arguments.kills, arguments.seed, seconds, *more):
            print(row, flush=True)
            rows.append(row)
        # A grid that ended before its moment was killed before, too: it must be right as well.
        grids = [path for path in (root / "out", *sorted(root.glob("whole-*"))) if path.exists()]
        found = [digest(path) for path in grids]
        different = sorted({k for each in found for k in wanted if each.get(k) != wanted[k]})
        left = [name for path in grids for name in leftovers(path)]
        print(f"grids compared: {len(found)}; different: {different or 'nothing'}")
        print(f"half-written files left: {left or 'none'}")
    if rows:
        end = f"finished; {len(found)} grids, {len(wanted)} things each"
        rows.append({"done": end, "different": len(different)})
    wrong = [row for row in trials if row["different"] or row["other files"]]
    if arguments.out is not None:
        write(arguments.out, [*trials, *rows])
    raise SystemExit(1 if different or left or wrong else 0)


def write(path, rows):
    """Write rows with any of the columns."""
    with path.open("w", newline="") as file:
        columns = list(dict.fromkeys(name for row in rows for name in row))
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
