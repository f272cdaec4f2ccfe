"""The memory of `semisam data check` with few and with hundreds of cases.

    python benchmarks/memory_check.py [--out benchmarks/results/memory_check.csv]

Cases are different noise, 96x96x64 in int16, with a label. `peak` is the largest resident size of
the command's process.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from rows import write_rows

_CHILD = """
import resource, sys
from semisam.cli.main import main
try:
    main(sys.argv[1:], prog_name="semisam")
finally:
    print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""


def write(folder, start, stop):
    rng = np.random.default_rng(start)
    folder.mkdir(exist_ok=True)
    for n in range(start, stop):
        image = rng.integers(0, 1000, (64, 96, 96)).astype(np.int16)
        label = np.zeros(image.shape, np.uint8)
        label[20:40, 30:60, 30:60] = 1
        sitk.WriteImage(sitk.GetImageFromArray(image), str(folder / f"case{n:04d}.nii"))
        sitk.WriteImage(sitk.GetImageFromArray(label), str(folder / f"case{n:04d}_label.nii"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, nargs="+", default=[25, 100, 400])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "scans"
        done = 0
        for cases in sorted(arguments.cases):
            write(folder, done, cases)
            done = cases
            began = time.perf_counter()
            result = subprocess.run(
                [sys.executable, "-c", _CHILD, "data", "check", str(folder)],
                capture_output=True,
                text=True,
            )
            if result.returncode:
                raise SystemExit(result.stdout + result.stderr)
            peak = int(result.stderr.rpartition("peak ")[2])
            if sys.platform == "darwin":
                peak //= 1024
            rows.append(
                {
                    "cases": cases,
                    "peak_mib": round(peak / 1024, 1),
                    "wall_seconds": round(time.perf_counter() - began, 1),
                }
            )
            print(rows[-1], flush=True)
    if arguments.out is not None:
        write_rows(arguments.out, rows)


if __name__ == "__main__":
    main()
