"""Processor time of `semisam runs list` over many runs.

    python benchmarks/store.py [--runs 10000] [--out benchmarks/results/store.csv]

The runs are synthetic: folders with the files that a finished run has (tensors and pictures a few
bytes long, `result.json` and `settings.json` as long as real ones), one in a hundred unfinished.
"""

from __future__ import annotations

import argparse
import functools
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rows import write_rows

from semisam.run.resolve import make_settings


@functools.cache
def resolved(**given):
    """Return the settings of a run, as long as real ones."""
    return make_settings(given)


def make(folder, count):
    """Write run folders."""
    metrics = ("dice", "jaccard", "asd_voxel", "hd95_voxel", "asd_mm", "hd95_mm", "assd_voxel")
    for number in range(count):
        method = ("mt", "ua-mt", "dtc", "dtml")[number % 4]
        sam = ("none", "synthsam")[number // 4 % 2]
        given = {"dataset": "la", "method": method, "sam": sam, "labels": 1 + number % 4}
        settings = resolved(**given).model_copy(update={"seed": number // 32})
        run = folder / f"{method}-n{settings.labels}-subset0-seed{settings.seed}-{number:012x}"
        run.mkdir(parents=True)
        dumped = settings.model_dump(mode="json")
        (run / "settings.json").write_text(json.dumps(dumped, indent=2, sort_keys=True))
        (run / "train.jsonl").write_text('{"step": 5999, "loss": 0.1234}\n' * 20)
        for name in (".lock", "model.pt", "model.json", "split.json", "cases.csv", "run.log"):
            (run / name).write_text("x" * 100)
        if number % 100 == 99:
            continue
        result = {
            "settings": dumped,
            "run": f"{number:012x}",
            "data": {
                "dataset": "la",
                "note": "",
                "hash": "0" * 64,
                "split_hash": "0" * 16,
                "labeled": settings.labels,
                "unlabeled": 80 - settings.labels,
                "test": 20,
                "labeled_cases": ["06SR5RBREL16DQ6M8LWS"] * settings.labels,
            },
            "metrics": {
                "empty_predictions": 0,
                **{f"{m}{end}": 0.71234567 for m in metrics for end in ("", "_sd_cases")},
            },
            "training": dict.fromkeys(("loss", "ce", "dice", "consistency", "lr"), 0.123456789),
            "cost": dict.fromkeys(("train_seconds", "wait_share", "peak_memory_gib"), 1.23456789),
            "versions": dict.fromkeys(("semisam", "torch", "numpy", "scipy", "python"), "1.2.3"),
        }
        (run / "result.json").write_text(json.dumps(result, indent=2, sort_keys=True))


def measure(*arguments):
    """Return processor and wall seconds of a command."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "semisam", *map(str, arguments)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return used, wall, output


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make(folder / "runs", arguments.runs)
        some = next((folder / "runs").iterdir())
        for what in (
            ("list", folder),
            ("list", folder, "--json"),
            ("show", some),
        ):
            measured = [measure("runs", *what) for _ in range(arguments.repeats)]
            used, wall, output = min(measured)
            row = {
                "command": f"semisam runs {what[0]}" + (" --json" if "--json" in what else ""),
                "runs": arguments.runs,
                "processor_seconds": round(used, 3),
                "wall_seconds": round(wall, 3),
                "lines": output.count("\n"),
            }
            print(row, flush=True)
            rows.append(row)
    if arguments.out is not None:
        write_rows(arguments.out, rows)


if __name__ == "__main__":
    main()
