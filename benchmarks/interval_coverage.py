"""Coverage of the 95 % interval of a gain, by the number of test cases.

    python benchmarks/interval_coverage.py --out benchmarks/results/interval_coverage.csv

The differences of the cases are drawn from a normal distribution with mean 0.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from rows import write_rows

from semisam.bench.statistics import bootstrap_interval


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default="3,4,5,6,8,10,15,20,40,60", metavar="N,...")
    parser.add_argument("--repetitions", type=int, default=1000)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rng, rows = np.random.default_rng(0), []
    for count in map(int, args.cases.split(",")):
        held = 0
        for _ in range(args.repetitions):
            low, high = bootstrap_interval(rng.normal(size=count))
            held += low <= 0 <= high
        rows.append({"cases": count, "held": round(100 * held / args.repetitions, 1)})
        print(rows[-1])
    write_rows(args.out, rows)


if __name__ == "__main__":
    main()
