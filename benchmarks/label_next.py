"""Ways to choose the scans to label next, against random choice, on scans with a truth.

    python benchmarks/label_next.py --data TRAIN --seeds 0,1,2 --out label_next.csv

TRAIN is a published Left Atrium folder whose ``test.list`` holds scans for scoring. For each seed
two scans are labeled and a network is trained. Each way chooses further scans only by that
network, as a user could, and a network is trained with them. A row is one training.

With ``--first 2,4`` the first scans are chosen instead, before any label, by the embedded weights
that the network starts from, as ``semisam data first`` does. A seed is then only that of the
training.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
import torch
from rows import write_rows

from semisam.automatic.coverage import cover, described
from semisam.automatic.first import first_to_label
from semisam.core.losses import entropy
from semisam.inference.evaluation import predict_probabilities
from semisam.run.build import open_dataset
from semisam.run.execute import execute
from semisam.run.model import load_model
from semisam.run.request import settings

START = 2
WAYS = ("random", "doubt", "cover")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--added", default="2,4")
    parser.add_argument("--first", metavar="COUNTS", help="choose the first scans instead")
    parser.add_argument("--method", default="supervised")
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--patch", default="64x64x48")
    parser.add_argument("--work", type=Path, default=Path("runs/label-next"))
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    pool = (options.data / "train.list").read_text().split()
    rows = []
    if options.first:
        dataset = open_dataset(settings(data=str(options.data), method=options.method, labels=1))
        for count in map(int, options.first.split(",")):
            chosen = first_to_label(dataset, pool, count)
            for seed in map(int, options.seeds.split(",")):
                _, dice = train(options, chosen, seed)
                rows.append(row(options, seed, "first", chosen, dice))
                write_rows(options.out, rows)
                print(rows[-1], flush=True)
        return
    for seed in map(int, options.seeds.split(",")):
        order = list(np.random.default_rng(seed).permutation(pool))
        start, rest = order[:START], order[START:]
        run, dice = train(options, start, seed)
        rows.append(row(options, seed, "start", start, dice))
        vectors, doubts = look(run, options, pool)
        for count in map(int, options.added.split(",")):
            for way in WAYS:
                chosen = choose(way, count, start, rest, pool, vectors, doubts)
                _, dice = train(options, [*start, *chosen], seed)
                rows.append(row(options, seed, way, [*start, *chosen], dice))
                write_rows(options.out, rows)
                print(rows[-1], flush=True)


def choose(way, count, start, rest, pool, vectors, doubts):
    """Return the scans that a way labels next."""
    if way == "random":
        return rest[:count]
    if way == "doubt":
        return sorted(rest, key=lambda case: -doubts[case])[:count]
    known = [pool.index(case) for case in start]
    return [pool[at] for at in cover(vectors, known, count)]


def train(options, labeled, seed):
    """Train with some scans labeled; return the run and its Dice on the test cases."""
    name = f"seed{seed}-" + "-".join(sorted(case[:4] for case in labeled))
    folder = options.work / "data" / name
    folder.mkdir(parents=True, exist_ok=True)
    pool = (options.data / "train.list").read_text().split()
    test = (options.data / "test.list").read_text().split()
    others = [case for case in pool if case not in labeled]
    for case in (*pool, *test):
        if not (folder / case).exists():
            (folder / case).symlink_to((options.data / case).resolve())
    (folder / "train.list").write_text("\n".join([*labeled, *others]) + "\n")
    (folder / "test.list").write_text("\n".join(test) + "\n")
    return trained(options, folder, len(labeled), seed)


def trained(options, folder, labels, seed, plugins=None):
    """Train on the first scans of a folder; return the run and its Dice on the test cases."""
    patch = tuple(map(int, options.patch.split("x")))
    wanted = settings(
        data=str(folder.resolve()),
        method=options.method,
        labels=labels,
        seed=seed,
        iterations=options.iterations,
        patch=patch,
        stride=tuple(side // 2 for side in patch),
        device="cpu",
        components="all",
        options=plugins or {},
    )
    run = options.work / "runs" / folder.name
    execute(wanted, run)
    with (run / "cases.csv").open() as file:
        return run, float(np.mean([float(line["dice"]) for line in csv.DictReader(file)]))


@torch.no_grad()
def look(run, options, pool):
    """Return a vector for each scan of the pool, and the doubt in its mask."""
    model = load_model(run, "cpu")
    dataset = open_dataset(settings(data=str(options.data), method=options.method, labels=1))
    vectors, doubts = [], {}
    for case in pool:
        with described(model.network) as found:
            probs = predict_probabilities(
                model.network,
                dataset.image(case),
                model.patch,
                model.stride,
                device=torch.device("cpu"),
                precision=model.precision,
            )
        vectors.append(found.vector())
        inside = probs.argmax(0) > 0
        unsure = entropy(probs[None])[0, 0]
        doubts[case] = float(unsure[inside].mean()) if bool(inside.any()) else 1.0
    return np.stack(vectors), doubts


def row(options, seed, way, labeled, dice):
    return {
        "seed": seed,
        "way": way,
        "added": len(labeled) - START,
        "method": options.method,
        "iterations": options.iterations,
        "dice": round(100 * dice, 2),
        "labeled": " ".join(labeled),
    }


if __name__ == "__main__":
    main()
