"""Dice of promptable backends on unseen scans, with simulated prompts.

    python benchmarks/zero_shot.py --data DIR --split test --sam synthsam,geodesic \
        --out benchmarks/results/zero_shot_la_half.csv
    python benchmarks/zero_shot.py --cases 64 --sam synthsam,geodesic \
        --out benchmarks/results/zero_shot_synthetic.csv

Without ``--data`` the volumes are the synthetic ones of SynthSAM's validation. ``DIR`` holds
``train.list``, ``test.list`` and ``<case>/mri_norm2.h5``, of which whole volumes are used.

Prompts are those of ``classical_backends.py``. The first click is in the label, with a higher
probability deeper inside. Each further click is in the largest piece of the larger error region.
The others are 3 + 3 and 5 + 5 random points in and near the label at once, a deformed label, and
the label's box. Every backend gets the same first click. Times are medians on ``--threads``
threads.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from classical_backends import load, measure, table
from rows import write_rows

from semisam.cli.options import assignments
from semisam.plugins import registry
from semisam.pretraining.generator import draw_volume
from semisam.pretraining.pretrain import VALIDATION


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--split", choices=("train", "test"), default="test")
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--sam", default="synthsam,geodesic", metavar="NAME,...")
    parser.add_argument("--set", action="append", default=[], metavar="BACKEND.OPTION=VALUE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    given = assignments(args.set)
    if args.data is None:
        kind = "synthetic 64x64x48"
        indices = range(VALIDATION + args.skip, VALIDATION + args.skip + args.cases)
        drawn = [draw_volume(0, index, (64, 64, 48)) for index in indices]
        volumes = [(v.image.numpy(), v.target.numpy()) for v in drawn]
    else:
        kind = f"whole {args.split}"
        volumes = load(args.data, args.cases, args.skip, args.split)
    rows = []
    for name in args.sam.split(","):
        own = registry.options_of("backend", name, given)
        options = registry.check_options("backend", name, own)
        make = registry.load("backend", name)
        shown = " ".join([name, *(f"{k}={v}" for k, v in options.items())])
        record = measure(
            lambda make=make, options=options: make(**options), volumes, True, args.seed
        )
        rows += table(shown, kind, record)
    write_rows(args.out, rows)


if __name__ == "__main__":
    main()
