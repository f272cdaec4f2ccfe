"""Signals of trust against the true Dice of unlabeled scans, whose truth is read only here.

    python benchmarks/trust.py --labels 1,2 --iterations 60,200 --subsets 0,1 --out trust.csv
    python benchmarks/trust.py --data LA_HALF --patch 64x64x48 --labels 2,4 --iterations 600 \
        --out trust_la_half.csv

    python benchmarks/trust.py --masks MASKS --truth TRUTH --out trust_auto.csv

Each run is as ``semisam auto`` makes it: `copied-mask` with an adapted `synthsam`, then `fixmatch`
guided by it. A row is a class of an unlabeled scan. The signals are described in
`semisam.automatic.trust`. ``--read`` only prints the summary of rows that were written: the rank
correlation of each signal with the true Dice, and a map from all signals to Dice, fitted on some
runs and judged on the others (those of another seed, or without several seeds each run by itself).
``--masks`` takes the signals of a folder that ``semisam auto`` wrote, and ``--truth`` a folder with
the true masks; with one run there is no other, so only the built-in map is judged. ``--shift`` of
the log odds takes the place of the built-in one for patients. The last lines, one a run and class,
are what the page of ``auto`` shows, against the truth.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
from pathlib import Path

import numpy as np
import torch
from rows import write_rows
from scipy.optimize import minimize
from scipy.stats import spearmanr

from semisam.automatic import trust
from semisam.automatic.judge import make_judge
from semisam.automatic.trust import (
    ERRORS,
    SIGNALS,
    WEIGHTS,
    predicted_dice,
    ranked_dice,
    reasons_for_distrust,
)
from semisam.core.masks import dice
from semisam.inference.comparison import score
from semisam.inference.predictor import on_input, prepared_scan, segment
from semisam.inference.volumes import Volume
from semisam.run.build import cases_of, open_dataset, split_of
from semisam.run.execute import execute
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
    parser.add_argument("--masks", type=Path)
    parser.add_argument("--truth", type=Path)
    parser.add_argument("--shift", type=float, default=trust.PATIENTS)
    options = parser.parse_args()
    if options.masks is not None:
        write_rows(options.out, of_auto(options.masks, options.truth))
    elif not options.read:
        rows = []
        numbers = (map(int, getattr(options, name).split(",")) for name in AXES)
        for chosen in itertools.product(*numbers):
            rows += measure(options, **dict(zip(AXES, chosen, strict=True)))
            write_rows(options.out, rows)
    trust.OFFSET = trust.GENERATED + options.shift
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
            run = {"labels": late.labels, "subset": late.subset, "iterations": late.iterations}
            seed = late.dataset_options.get("seed", "")
            about = {**run, "seed": seed, "case": case, "class": k, "dice": dice(mask, truth == k)}
            rows.append(about | signals.values())
    return rows


def of_auto(masks, truth):
    """Return the signals and the true Dice of the masks that ``semisam auto`` wrote."""
    entries = json.loads((masks / "masks.json").read_text())["masks"]
    dice = {(row["case"], row["class"]): row["dice"] for row in score(masks, truth)}
    about = {name: "" for name in ("labels", "subset", "iterations", "seed")}
    return [
        {**about, "case": case, "class": k, "dice": dice[case, k], **signals}
        for case, entry in entries.items()
        for k, signals in enumerate(entry["agreement"], start=1)
        if (case, k) in dice
    ]


def summary(rows):
    """Print rank correlations and errors of each signal and of two maps."""
    dice = _column(rows, "dice")
    seeds = {row["seed"] for row in rows}
    held = [row["seed"] if len(seeds) > 1 else _run(row)[:-1] for row in rows]
    runs = len(set(map(_run, rows)))
    print(f"{len(rows)} masks, {runs} runs and classes, mean Dice {dice.mean():.3f}")
    print("Spearman's correlation with Dice in all, in a run and class; mean error of a map")
    several = len(set(map(str, held))) > 1
    for name in SIGNALS:
        values = _column(rows, name)
        found = held_out(values[:, None], dice, held) if several else values
        _line(name, rows, values, found)
    if several:
        _fitted(rows, dice, held)
    built_in = [predicted_dice({n: float(row[n]) for n in SIGNALS}) for row in rows]
    predicted = np.array([i.dice for i in built_in])
    _line("built in", rows, predicted, predicted)
    ranked = np.zeros(len(rows))
    runs = [_run(row) for row in rows]
    pages = []
    for run in dict.fromkeys(runs):
        own = [at for at, other in enumerate(runs) if other == run]
        signals = [{name: float(rows[at][name]) for name in SIGNALS} for at in own]
        intervals = ranked_dice(signals)
        ranked[own] = [interval.dice for interval in intervals]
        pages.append((run, dice[own], intervals, signals))
    _line("ranked", rows, ranked, ranked)
    more, error = _best_shift(predicted, dice)
    shift = trust.OFFSET - trust.GENERATED + more
    print(f"the least mean error of the built-in map, {error:.3f}, has the shift {shift:+.2f}")
    for page in pages:
        _page(*page)


def _best_shift(predicted, dice):
    """Return the shift of the log odds with the least mean error, and this error."""
    odds = np.log(predicted / (1 - predicted))
    shifts = np.arange(-100, 101) / 50
    errors = [np.abs(1 / (1 + np.exp(-odds - shift)) - dice).mean() for shift in shifts]
    best = int(np.argmin(errors))
    return shifts[best], errors[best]


def _page(run, true, intervals, signals):
    """Print what the page of ``semisam auto`` shows for one run and class, against the truth."""
    predicted = np.array([interval.dice for interval in intervals])
    inside = [i.low <= d <= i.high for i, d in zip(intervals, true, strict=True)]
    error = np.abs(predicted - true).mean()
    size, alike = Volume("", "", 1, 1.0, "ml"), [[signal] for signal in signals]
    fixed, usual = (
        np.array([bool(reasons_for_distrust([size], [[size]], s, others)[0]) for s in alike])
        for others in ((), alike)
    )
    print(
        f"{run}: {len(true)} masks, Dice {true.mean():.3f}, predicted {predicted.mean():.3f}, mean "
        f"error {error:.3f}, in the interval {100 * np.mean(inside):.0f} %; "
        f"with a reason {usual.sum()} (by the fixed limits {fixed.sum()}), Dice "
        f"{_mean(true[usual])}, others {_mean(true[~usual])}, of the 8 lowest "
        f"{usual[true.argsort()[:8]].sum()}"
    )


def _mean(values):
    return f"{values.mean():.3f}" if len(values) else "-"


def _fitted(rows, dice, held):
    found = held_out(_signals(rows, WEIGHTS), dice, held)
    _line("all", rows, found, found)
    weights, offset = fit(_signals(rows, WEIGHTS), dice)
    shown = ", ".join(f"{n} {w:.2f}" for n, w in zip(WEIGHTS, weights, strict=True))
    print(f"fitted on all rows: {shown}, offset {offset:.2f}; errors where held out, by band:")
    low = 0.0
    for end, _, _ in ERRORS:
        errors = (dice - found)[(found > low) & (found <= end)]
        ends = np.quantile(errors, (0.05, 0.95)) if len(errors) else (0, 0)
        print(f"  up to {end}: {len(errors)} masks, {ends[0]:+.2f} to {ends[1]:+.2f}")
        low = end


def fit(signals, dice):
    """Return weights of at least 0 and the offset of a map from signals to the log odds of Dice."""

    def loss(values):
        odds = signals @ values[:-1] + values[-1]
        error = 1 / (1 + np.exp(-odds)) - dice
        entropy = (np.logaddexp(0, odds) - dice * odds).mean()
        gradient = np.append(signals.T @ error / len(dice) + 2e-3 * values[:-1], error.mean())
        return entropy + 1e-3 * (values[:-1] ** 2).sum(), gradient

    count = signals.shape[1]
    start, bounds = np.append(np.ones(count), -1.0), [(0, None)] * count + [(None, None)]
    found = minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B").x
    return found[:-1], found[-1]


def held_out(signals, dice, groups):
    """Return the Dice that a map predicts for each group, fitted on the other groups."""
    groups = np.array([str(group) for group in groups])
    found = np.zeros(len(dice))
    for group in np.unique(groups):
        own = groups == group
        weights, offset = fit(signals[~own], dice[~own])
        found[own] = 1 / (1 + np.exp(-(signals[own] @ weights + offset)))
    return found


def _line(name, rows, values, predicted):
    dice, runs = _column(rows, "dice"), [_run(row) for row in rows]
    each = []
    for run in dict.fromkeys(runs):
        own = [at for at, other in enumerate(runs) if other == run]
        each.append(_rank(values[own], dice[own]))
    error = np.abs(predicted - dice).mean()
    print(f"  {name:8} {_rank(values, dice):5.2f} {np.mean(each):5.2f} {error:6.3f}")


def _rank(values, dice):
    if len(set(values)) == 1 or len(set(dice)) == 1:
        return 0.0  # no order
    return float(spearmanr(values, dice).statistic)


def _run(row):
    return tuple(row[name] for name in ("seed", "labels", "subset", "iterations", "class"))


def _column(rows, name):
    return np.array([float(row[name]) for row in rows])


def _signals(rows, names):
    return np.stack([_column(rows, name) for name in names], 1)


if __name__ == "__main__":
    main()
