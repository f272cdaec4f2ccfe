"""A grid that is killed at random moments and restarted, against the same grid undisturbed.

    python benchmarks/faults.py --kills 20 [--out benchmarks/results/faults.csv]

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
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch

from semisam.bench import tables

GRID = (
    *("--method", "mt", "--sam", "none,geodesic", "--labels", "2", "--seeds", "0,1"),
    *("--set", "phantom.cases=4", "--set", "phantom.test_cases=2", "--set", "phantom.size=32"),
    *(
        "--patch",
        "16x16x16",
        "--stride",
        "16x16x16",
        "--network",
        "vnet",
        "--set",
        "vnet.filters=2",
    ),
)
WHOM = ("all", "grid", "run")
MEASURED = ("seconds", "memory")
_PATIENCE = 300.0
_LATEST = 12.0


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
    table, _ = tables.load(out)
    for kind, written in tables.FORMATS.items():
        made = written(table)
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
        subprocess.run(
            command(out, *more), check=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )


def leftovers(out):
    """Return temporary files that a kill has left and no later start removed."""
    return sorted(str(path.relative_to(out)) for path in out.rglob("*.tmp"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    more = ("--iterations", str(arguments.iterations), "--checkpoint-every", "5")
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        began = time.monotonic()
        subprocess.run(command(root / "peace", *more), check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - began
        wanted = digest(root / "peace")
        print(f"undisturbed: {seconds:.1f} s, {len(wanted)} things to compare", flush=True)
        for row in disturbed(root, arguments.kills, arguments.seed, seconds, *more):
            print(row, flush=True)
            rows.append(row)
        found = [digest(root / "out")]
        # A grid that ended before its moment was killed before, too: it must be right as well.
        found += [digest(path) for path in sorted(root.glob("whole-*"))]
        different = sorted({k for each in found for k in wanted if each.get(k) != wanted[k]})
        left = leftovers(root / "out")
        print(f"grids compared: {len(found)}; different: {different or 'nothing'}")
        print(f"half-written files left: {left or 'none'}")
    if arguments.out is not None:
        with arguments.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, [*rows[0], "different"], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
            end = f"finished; {len(found)} grids, {len(wanted)} things each"
            writer.writerow({"done": end, "different": len(different)})
    raise SystemExit(1 if different or left else 0)


if __name__ == "__main__":
    main()
