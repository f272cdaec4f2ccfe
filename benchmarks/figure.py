"""The figure of the README: a phantom of `make demo` with its masks, and Dice against labels.

    make demo
    python benchmarks/figure.py --runs runs/demo --out docs/figure.png

The phantom is the test case whose Dice without SemiSAM is the median, at one label. The slice is
the one with the largest organ.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import semisam
from semisam.data.datasets.phantom import Phantom
from semisam.run.model import load_run

SHOWN = {
    ("copied-mask", "synthsam"): ("copied mask + SynthSAM", "#7d7d88", ":"),
    ("supervised", "none"): ("supervised", "#0072b2", "--"),
    ("fixmatch", "none"): ("fixmatch", "#009e73", "--"),
    ("fixmatch", "synthsam"): ("fixmatch + SemiSAM", "#d55e00", "-"),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument(
        "--table", type=Path, default=Path("benchmarks/results/la_half_default.csv")
    )
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    figure = Figure(figsize=(9.6, 2.7), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.55, 1))
    draw_masks(left, options.runs / "runs")
    draw_labels(right.subplots(), pd.read_csv(options.table))
    figure.savefig(options.out, dpi=110)


def draw_masks(figure, runs):
    """Draw scan, truth, and the masks without and with SemiSAM."""
    (bare,), (guided,) = (list(runs.glob(f"{name}-n1-*")) for name in ("fixmatch", "fixmatch+*"))
    with (bare / "cases.csv").open() as file:
        scores = sorted((float(row["dice"]), row["case"]) for row in csv.DictReader(file))
    case = scores[len(scores) // 2][1]
    settings = load_run(bare)[0]
    data = Phantom(None, **settings.dataset_options)
    image, truth = data.image(case).array[0], data.label(case) > 0
    masks = {"scan": None, "truth": truth}
    for name, run in (("without", bare), ("with SemiSAM", guided)):
        mask = semisam.load(run, "cpu").predict(image).labelmap > 0
        dice = 200 * (mask & truth).sum() / (mask.sum() + truth.sum())
        masks[f"{name}: Dice {dice:.0f}"] = mask
    at = int(truth.sum((0, 1)).argmax())
    for axis, (name, mask) in zip(figure.subplots(1, 4), masks.items(), strict=True):
        axis.imshow(image[..., at].T, cmap="gray")
        if mask is not None:
            axis.contour(mask[..., at].T.astype(float), [0.5], colors="#f0a020", linewidths=1.6)
        axis.set_title(name, fontsize=9)
        axis.set_axis_off()
    figure.suptitle("a generated scan (make demo, 1 label)", fontsize=9, color="#5f5f6b")


def draw_labels(axis, table):
    """Draw Dice against the labeled cases."""
    for (method, sam), (name, color, dashes) in SHOWN.items():
        rows = table[(table["method"] == method) & (table["sam"] == sam)].sort_values("labeled")
        axis.plot(rows["labeled"], rows["dice"], dashes, color=color, label=name, marker="o", ms=4)
    axis.set_xscale("log", base=2)
    ticks = np.array([1, 2, 4, 8])
    axis.set_xticks(ticks, [str(n) for n in ticks])
    axis.set_xlabel("labeled scans", fontsize=9)
    axis.set_title("Dice [%] on 20 left atria", fontsize=9)
    axis.tick_params(labelsize=8)
    axis.grid(color="#e2e2e8")
    axis.legend(fontsize=7, frameon=False, loc=(0.38, 0.1))


if __name__ == "__main__":
    main()
