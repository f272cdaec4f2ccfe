"""Variants of the SemiSAM branch on training scans held out of the training.

The last 16 training cases of the Left Atrium benchmark replace the test scans, which no choice may
use. There is one run per variant and number of labels, each in its own process. Finished runs are
not run again.

    python benchmarks/branch_trials.py --data ../shared/data/la_half --out runs/trials \
        --csv benchmarks/results/branch_trials.csv
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path

from rows import write_rows

HELD_OUT = 16
PAPER = ["--protocol", "paper"]
DEFAULT = ["--protocol", "classic"]

VARIANTS: dict[str, list[str]] = {
    "bare": ["--sam", "none"],
    "paper": PAPER,
    "default": DEFAULT,
    "default, shuffled predictions": [*DEFAULT, "--sam-control", "shuffled"],
    "default, the truth as the answer": [*DEFAULT, "--sam-control", "truth"],
    "default, prompts from the truth": [*DEFAULT, "--sam-control", "oracle"],
    "default, fading (rate 5)": [*DEFAULT, "--set", "semisam.ramp_rate=5"],
    "default, fading (rate 1)": [*DEFAULT, "--set", "semisam.ramp_rate=1"],
    "default, squared error": [*DEFAULT, "--set", "semisam.loss=mse"],
    "default, squared error, weight 5": [
        *(*DEFAULT, "--set", "semisam.loss=mse", "--set", "semisam.weight=5"),
    ],
    "default, weight 0.1": [*DEFAULT, "--set", "semisam.weight=0.1"],
    "default, weight 1": [*DEFAULT, "--set", "semisam.weight=1"],
    "default, soft target": [*DEFAULT, "--set", "semisam.target=soft"],
    "default, gated": [*DEFAULT, "--set", "semisam.gated=true"],
    "default, sure voxels only": [*DEFAULT, "--set", "center-points.max_uncertainty=0.5"],
    "default, one click": [*DEFAULT, "--set", "center-points.points=1"],
    "default, six clicks": [*DEFAULT, "--set", "center-points.points=6"],
    "default, three rounds": [*DEFAULT, "--set", "center-points.rounds=3"],
    "default, uncertainty-points": [*DEFAULT, "--prompter", "uncertainty-points"],
    "default, mask+points": [*DEFAULT, "--prompter", "mask+points"],
    "default, queried every 2nd iteration": [*DEFAULT, "--sam-every", "2"],
    "default, queried every 4th iteration": [*DEFAULT, "--sam-every", "4"],
    "paper, queried every 4th iteration": [*PAPER, "--sam-every", "4"],
    "paper, not queried below lambda_s = 0.01": [*PAPER, "--sam-floor", "0.01"],
    "bare, learning rate falls at 5/12 and 10/12": ["--sam", "none", "--lr-step", "125"],
    "default, learning rate falls at 5/12 and 10/12": [*DEFAULT, "--lr-step", "125"],
    "bare, learning rate falls at 2/3": ["--sam", "none", "--lr-step", "200"],
    "default, learning rate falls at 2/3": [*DEFAULT, "--lr-step", "200"],
}


def held_out_folder(data: Path, folder: Path) -> Path:
    """Make a folder in the same layout whose test cases are the last training cases."""
    cases = (data / "train.list").read_text().split()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.list").write_text("\n".join(cases[:-HELD_OUT]) + "\n")
    (folder / "test.list").write_text("\n".join(cases[-HELD_OUT:]) + "\n")
    for case in cases:
        if not (folder / case).exists():
            (folder / case).symlink_to((data / case).resolve(), target_is_directory=True)
    return folder


def run(variant: str, labels: int, subset: int, data: Path, args: argparse.Namespace) -> Path:
    """Run one variant, or take its result."""
    name = "".join(c if c.isalnum() else "-" for c in variant)
    folder = args.out / f"{args.method}-{name}-n{labels}-subset{subset}"
    options = VARIANTS[variant]
    sam = [] if "--sam" in options else ["--sam", "synthsam"]
    if not (folder / "result.json").exists():
        command = [
            *(sys.executable, "-m", "semisam", "train", "--data", str(data)),
            *("--method", args.method, "--labels", str(labels), "--subset", str(subset)),
            *("--iterations", str(args.iterations), "--patch", "64x64x48"),
            *("--set", f"vnet.filters={args.filters}", "--out", str(folder), *sam, *options),
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder / "result.json"


def row_of(variant: str, path: Path) -> dict[str, object]:
    """Return the table's row of a run."""
    result = json.loads(path.read_text())
    settings, training, cost = result["settings"], result["training"], result["cost"]
    figures = ("sam_dice", "proposal_dice", "sam_agreement")
    return {
        "variant": variant,
        "method": settings["method"],
        "labels": settings["labels"],
        "subset": settings["subset"],
        "seed": settings["seed"],
        "iterations": settings["iterations"],
        "filters": settings["network_options"]["filters"],
        "dice": f"{100 * result['metrics']['dice']:.2f}",
        "hd95_voxel": f"{result['metrics']['hd95_voxel']:.2f}",
        **{name: f"{training[name]:.3f}" if name in training else "" for name in figures},
        "sam_seconds_share": f"{cost.get('sam_seconds_share', 0.0):.3f}",
        "sam_calls": f"{cost.get('sam_calls', 0.0):.0f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--method", default="mt")
    parser.add_argument("--labels", type=int, nargs="+", default=[2])
    parser.add_argument("--subsets", type=int, nargs="+", default=[0])
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--filters", type=int, default=8)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    args = parser.parse_args()
    data = held_out_folder(args.data, args.out / "data")
    rows = []
    if args.csv.exists():
        with args.csv.open(newline="") as file:
            rows = list(csv.DictReader(file))
    key = ("variant", "method", "labels", "subset", "iterations", "filters")
    for subset in args.subsets:
        for labels in args.labels:
            for variant in args.variants:
                row = row_of(variant, run(variant, labels, subset, data, args))
                known = {tuple(str(r[k]) for k in key): r for r in rows}
                known[tuple(str(row[k]) for k in key)] = row
                rows = list(known.values())
                print(*row.values(), flush=True)
                write_rows(args.csv, rows)


if __name__ == "__main__":
    main()
