"""Speed as ratios, each measured in one run against the plain or published way.

    python benchmarks/speed.py [--out benchmarks/results/speed.csv]

- training steps of supervised, mt, ua-mt, dtc and dtml: see ``speed_steps.py``, whose table is
  written to ``speed_steps.csv`` in the same folder.
- ``metrics``: Dice, Jaccard, 95HD and ASD of a full-resolution case against MedPy.
- ``semisam --help``: whole process, in seconds.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from rows import write_rows
from speed_metrics import metrics_ratio
from speed_steps import PUBLISHED, measure


def help_seconds(repeats=7):
    """Return the median wall seconds of ``semisam --help``."""
    command = [sys.executable, "-m", "semisam", "--help"]
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows = []
    seconds = help_seconds()
    rows.append({"what": "semisam --help", "figure": seconds, "unit": "s", "goal": "< 0.4"})
    for name, value in metrics_ratio().items():
        unit = "ms" if name.endswith("_ms") else "x"
        goal = ">= 5" if name == "good" else ""
        rows.append({"what": f"metrics: {name}", "figure": value, "unit": unit, "goal": goal})
    for row in rows:
        print(f"{row['what']:<40} {row['figure']:10.4g} {row['unit']:<3} {row['goal']}")
    steps = []
    for name in PUBLISHED:
        steps.append(measure(name, repeats=8, warmup=3))
        print(" ".join(f"{key} {value}" for key, value in steps[-1].items()), flush=True)
    if arguments.out is not None:
        write_rows(arguments.out, rows)
        write_rows(arguments.out.with_name("speed_steps.csv"), steps)


if __name__ == "__main__":
    main()
