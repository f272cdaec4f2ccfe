"""Signals of trust against the true Dice of unlabeled scans, whose truth is read only here.

    python benchmarks/trust.py --labels 1,2 --iterations 60,200 --subsets 0,1 --out trust.csv
    python benchmarks/trust.py --data LA_HALF --patch 64x64x48 --labels 2,4 --iterations 600 \
        --out trust_la_half.csv

Each run is as ``semisam auto`` makes it: `copied-mask` with an adapted `synthsam`, then `fixmatch`
guided by it. A row is a class of an unlabeled scan. The signals are described in
`semisam.inference.trust`. ``--read FILE`` only prints the summary of rows that were written.
"""

from __future__ import annotations

import argparse
import csv
import itertools
from pathlib import Path

import torch
from rows import write_rows
from scipy.stats import spearmanr

from semisam.inference.predictor import on_input, prepared_scan, segment
from semisam.inference.trust import SIGNALS
from semisam.run.build import cases_of, open_dataset, split_of
from semisam.run.execute import execute
from semisam.run.judge import make_judge
from semisam.run.model import load_model
from semisam.run.request import settings


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--labels", default="1,2")
    parser.add_argument("--iterations", default="60,200")
    parser.add_argument("--subsets", default="0")
    parser.add_argument("--seeds", default="0", help="of the phantoms, without --data")
    parser.add_argument("--classes", type=int, default=2, help="of the phantoms")
    parser.add_argument("--patch", default="48x48x32")
    parser.add_argument("--adapt", type=int, default=60)
    parser.add_argument("--cases", type=int, default=20, help="unlabeled scans that are judged")
    parser.add_argument("--work", type=Path, default=Path("runs/trust"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--read", action="store_true")
    options = parser.parse_args()
    if not options.read:
        rows = []
        numbers = (map(int, getattr(options, name).split(",")) for name in AXES)
        for chosen in itertools.product(*numbers):
            rows += measure(options, **dict(zip(AXES, chosen, strict=True)))
            write_rows(options.out, rows)
    with options.out.open() as file:
        summary(list(csv.DictReader(file)))


AXES = ("seeds", "subsets", "labels", "iterations")


def measure(options, seeds, subsets, labels, iterations):
    """Return the rows of one run."""
    patch = tuple(map(int, options.patch.split("x")))
    common = {
        "labels": labels,
        "subset": subsets,
        "sam": "synthsam",
        "patch": patch,
        "stride": tuple(side // 2 for side in patch),
        "test": "none",
        "iterations": iterations,
    }
    if options.data is None:
        named = {"phantom.seed": seeds, "phantom.classes": options.classes}
        named |= {"phantom.cases": options.cases + labels, "phantom.test_cases": 0}
    else:
        common["data"], named = str(options.data), {}
    name = f"n{labels}-subset{subsets}-seed{seeds}-classes{options.classes}"
    first = options.work / f"{name}-first"
    early = settings(method="copied-mask", sam_adapt=options.adapt, options=named, **common)
    early = early.model_copy(update={"iterations": 60})  # of no effect, so that one run serves all
    execute(early, first)
    weights = {"synthsam.weights": str((first / "adapted.safetensors").resolve())}
    late = settings(method="fixmatch", sam_adapt=0, options={**named, **weights}, **common)
    final = options.work / f"{name}-i{iterations}"
    execute(late, final)
    return judged(options, late, load_model(final, late.device), load_model(first, late.device))


def judged(options, late, model, first):
    """Return the signals and the true Dice of each unlabeled scan and class."""
    dataset = open_dataset(late)
    labeled, unlabeled = cases_of(late, dataset, split_of(late, dataset))
    judge = make_judge(late, model, first, dataset, labeled)
    rows = []
    for case in unlabeled[: options.cases]:
        image = dataset.image(case)
        scan = prepared_scan(image.array, image.geometry, model.card)
        found = segment(model, scan, late.device)
        probs = torch.from_numpy(on_input(found, model.card).copy())
        truth = dataset.label(case)
        for k, signals in enumerate(judge(torch.from_numpy(scan.image.array), probs), start=1):
            mask = found.labelmap == k
            both = int(mask.sum()) + int((truth == k).sum())
            dice = 2 * int((mask & (truth == k)).sum()) / both if both else 1.0
            run = {"labels": late.labels, "subset": late.subset, "iterations": late.iterations}
            seed = late.dataset_options.get("seed", "")
            about = {**run, "seed": seed, "case": case, "class": k, "dice": dice}
            rows.append(about | signals.values())
    return rows


def summary(rows):
    """Print the rank correlation of each signal with the true Dice, within runs and over all."""
    runs = {}
    for row in rows:
        key = tuple(row[name] for name in ("seed", "labels", "subset", "iterations", "class"))
        runs.setdefault(key, []).append(row)
    print(f"{len(rows)} masks of {len(runs)} runs and classes; Spearman's correlation with Dice:")
    for name in SIGNALS:
        each = [_rank(own, name) for own in runs.values()]
        print(f"  {name:8} {sum(each) / len(each):5.2f} in a run, {_rank(rows, name):5.2f} in all")


def _rank(rows, name):
    columns = [[float(row[key]) for row in rows] for key in (name, "dice")]
    found = spearmanr(*columns).statistic
    return 0.0 if found != found else float(found)  # a signal that is the same everywhere


if __name__ == "__main__":
    main()
