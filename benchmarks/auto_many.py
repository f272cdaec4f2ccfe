"""Time, memory, disk and Dice of `semisam auto` on many scans with two masks.

    python benchmarks/auto_many.py --cases 200 --budget 10m --work runs/many
    python benchmarks/auto_many.py --cases 26 --classes 3 --size 56 --budget 12m --work runs/organs

The scans are phantoms. `WORK/scans` and `WORK/masks` hold them and the masks, and `WORK/truth` the
masks that `auto` did not see, by which `semisam score` measures the first masks, which are made
again in `WORK/first`, and the last ones.
"""

from __future__ import annotations

import argparse
import os
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
    parser.add_argument("--classes", type=int, default=2, help="with the background")
    parser.add_argument("--size", type=int, default=72)
    parser.add_argument("--budget", default="10m")
    parser.add_argument("--work", type=Path, required=True)
    arguments = parser.parse_args()
    scans, masks = arguments.work / "scans", arguments.work / "masks"
    write(arguments.work, arguments.cases, arguments.size, arguments.classes)
    began = time.perf_counter()
    semisam("auto", scans, "-o", masks, "--budget", arguments.budget, "--device", "cpu")
    minutes = (time.perf_counter() - began) / 60
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    disk = sum(file.stat().st_size for file in masks.rglob("*") if file.is_file()) / 2**20
    cores = len(os.sched_getaffinity(0))
    print(f"{minutes:.0f} minutes on {cores} cores, peak {peak:.1f} GiB, {disk:.0f} MiB on disk")
    (first,) = (masks / "runs").glob("*-first")
    unlabeled = [scans / file.name for file in sorted((arguments.work / "truth").iterdir())]
    out = arguments.work / "first"
    semisam("predict", first, *unlabeled, "-o", out, "--device", "cpu", "--overwrite")
    for stage in ("first", "masks"):
        print(f"{stage}:", flush=True)
        semisam("score", arguments.work / stage, arguments.work / "truth")


def semisam(*words):
    subprocess.run([sys.executable, "-m", "semisam", *map(str, words)], check=True)


def write(work, cases, size, classes):
    """Write the phantoms; the first ones have their mask next to them."""
    for name in ("scans", "truth"):
        (work / name).mkdir(parents=True, exist_ok=True)
    names = ("atrium", "chamber", "aorta", "ventricle")[: classes - 1]
    (work / "scans" / "classes.list").write_text("\n".join(names) + "\n")
    for number in range(cases):
        image, label = make_case(0, number, size=size)
        name, mask = f"p{number:03d}", np.where(label < classes, label, 0).astype(np.uint8)
        write_nifti(work / "scans" / f"{name}.nii.gz", image, SPACING)
        known = number < LABELED
        place = work / "scans" / f"{name}_label" if known else work / "truth" / name
        write_nifti(place.with_name(place.name + ".nii.gz"), mask, SPACING)


if __name__ == "__main__":
    main()
