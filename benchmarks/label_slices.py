"""Worth of a few labeled slices of further scans, and ways to choose them, on scans with a truth.

    python benchmarks/label_slices.py --data TRAIN --seeds 0,1,2 --out label_slices.csv

TRAIN is a published Left Atrium folder whose ``test.list`` holds scans for scoring. For each seed a
network is trained on two labeled scans. Then two further scans get some labeled slices, across the
last axis, or a whole label. A row is one training.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from label_next import trained
from rows import write_rows

from semisam.automatic.coverage import doubt_by_slice, doubtful_slices
from semisam.data.datasets.la import LeftAtrium
from semisam.data.images.files import Geometry, write_nifti
from semisam.inference.evaluation import predict_probabilities
from semisam.run.model import load_model

START = FURTHER = 2
WAYS = ("random", "even", "doubt")
UNKNOWN = 9
PLACE = Geometry((1.25,) * 3)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--slices", type=int, default=3)
    parser.add_argument("--method", default="supervised")
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--patch", default="64x64x48")
    parser.add_argument("--work", type=Path, default=Path("runs/label-slices"))
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    data = LeftAtrium(options.data)
    rows = []
    for seed in map(int, options.seeds.split(",")):
        order = list(np.random.default_rng(seed).permutation(data.split().train))
        start, further = order[:START], order[START : START + FURTHER]
        known = {case: data.label(case) for case in start}
        run, dice = train(options, data, known, f"seed{seed}-start", seed)
        rows.append(row(options, seed, "start", 0, dice))
        doubts = {case: doubt_in(run, data, case) for case in further}
        for way in (*WAYS, "whole"):
            added = {
                case: labeled(data, case, way, doubts[case], options, seed) for case in further
            }
            _, dice = train(options, data, known | added, f"seed{seed}-{way}", seed)
            count = 0 if way == "whole" else options.slices
            rows.append(row(options, seed, way, count, dice))
            write_rows(options.out, rows)
            print(rows[-1], flush=True)


def labeled(data, case, way, doubt, options, seed):
    """Return the label of a case, unknown but for the slices that a way chooses."""
    label = data.label(case)
    if way == "whole":
        return label
    (inside,) = np.nonzero(doubt)
    if way == "random":
        chosen = np.random.default_rng((seed, 1)).choice(inside, options.slices, replace=False)
    elif way == "even":
        chosen = [part[len(part) // 2] for part in np.array_split(inside, options.slices)]
    else:
        chosen = doubtful_slices(doubt, options.slices)
    part = np.full_like(label, UNKNOWN)
    part[..., chosen] = label[..., chosen]
    return part


def train(options, data, labels, name, seed):
    """Train on some labels; return the run and its Dice on the test cases."""
    folder = options.work / "data" / name
    folder.mkdir(parents=True, exist_ok=True)
    test = data.split().test
    for case in (*labels, *test):
        if not (folder / f"{case}.nii.gz").exists():
            write_nifti(folder / f"{case}.nii.gz", data.image(case).array[0], PLACE)
            label = labels[case] if case in labels else data.label(case)
            write_nifti(folder / f"{case}_label.nii.gz", label, PLACE)
    (folder / "train.list").write_text("\n".join(labels) + "\n")
    (folder / "test.list").write_text("\n".join(test) + "\n")
    return trained(options, folder, len(labels), seed, {"folder.ignore": UNKNOWN})


@torch.no_grad()
def doubt_in(run, data, case):
    """Return the sum of the entropy in each slice that the mask of a run has."""
    model = load_model(run, "cpu")
    image = data.image(case)
    probs = predict_probabilities(
        model.network, image, model.patch, model.stride, device=torch.device("cpu"),
        precision=model.precision,
    )  # fmt: skip
    return doubt_by_slice(probs)


def row(options, seed, way, slices, dice):
    return {
        "seed": seed,
        "way": way,
        "slices": slices,
        "method": options.method,
        "iterations": options.iterations,
        "dice": round(100 * dice, 2),
    }


if __name__ == "__main__":
    main()
