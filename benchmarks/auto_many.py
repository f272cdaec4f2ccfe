"""Time, memory and disk of `semisam auto` on many scans with two masks.

    python benchmarks/auto_many.py --cases 200 --budget 10m --work runs/many

The scans are phantoms. `WORK/scans` and `WORK/masks` hold them and the masks, and `WORK/truth` the
masks that `auto` did not see, for `semisam score`.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from semisam.data.datasets.phantom import make_case
from semisam.data.images.files import Geometry, write_nifti

LABELED, SPACING = 2, Geometry((1.25,) * 3)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--size", type=int, default=72)
    parser.add_argument("--budget", default="10m")
    parser.add_argument("--work", type=Path, required=True)
    arguments = parser.parse_args()
    scans, masks = arguments.work / "scans", arguments.work / "masks"
    write(arguments.work, arguments.cases, arguments.size)
    began = time.perf_counter()
    command = [sys.executable, "-m", "semisam", "auto", str(scans), "-o", str(masks)]
    subprocess.run([*command, "--budget", arguments.budget, "--device", "cpu"], check=True)
    minutes = (time.perf_counter() - began) / 60
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    disk = sum(file.stat().st_size for file in masks.rglob("*") if file.is_file()) / 2**20
    print(f"{minutes:.0f} minutes, peak {peak:.1f} GiB, {disk:.0f} MiB on disk")


def write(work, cases, size):
    """Write the phantoms; the first ones have their mask next to them."""
    for name in ("scans", "truth"):
        (work / name).mkdir(parents=True, exist_ok=True)
    for number in range(cases):
        image, label = make_case(0, number, size=size)
        name, mask = f"p{number:03d}", np.where(label == 1, label, 0).astype(np.uint8)
        write_nifti(work / "scans" / f"{name}.nii.gz", image, SPACING)
        known = number < LABELED
        place = work / "scans" / f"{name}_label" if known else work / "truth" / name
        write_nifti(place.with_name(place.name + ".nii.gz"), mask, SPACING)


if __name__ == "__main__":
    main()
