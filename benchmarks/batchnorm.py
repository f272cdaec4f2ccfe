"""Scores of trained runs with BatchNorm's running averages and with recomputed statistics.

    python benchmarks/batchnorm.py RUN... --out benchmarks/results/batchnorm.csv

The runs were trained with ``--norm-batches 0``. Each is scored on the first ``--cases`` of its test
cases, with windows half a patch apart, as saved and after `renew_statistics` from some batches.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from rows import write_rows

from semisam.data.loading.sampling import BatchSource
from semisam.inference.evaluation import evaluate, summarise
from semisam.networks.batchnorm import renew_statistics
from semisam.networks.convolution import guard_convolutions
from semisam.networks.precision import autocast, to_channels_last
from semisam.run.execute import open_run
from semisam.run.model import load_run

COUNTS = (0, 4, 16, 64)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--cases", type=int, default=8)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device("cpu")
    rows = []
    for folder in args.runs:
        settings, method, _ = load_run(folder)
        guard_convolutions(method)
        bare = settings.model_copy(update={"sam": "none", "sam_control": None})
        run = open_run(bare, lambda *told: None)
        store, patch = run.store, settings.patch
        source = BatchSource(
            *(store, store.labeled, store.unlabeled, run.plan, patch),
            seed=settings.seed,
            augment=settings.augment,
            foreground=settings.foreground,
        )
        first = settings.iterations
        for count in COUNTS:
            images = (to_channels_last(source.batch(first + n).image) for n in range(count))
            if count:
                with autocast(device, settings.precision):
                    renew_statistics(method, images, method)
            found = evaluate(
                *(method, store, store.test[: args.cases], patch, tuple(n // 2 for n in patch)),
                device=device,
                precision=settings.precision,
            )
            scores = summarise(found)
            row = {
                "run": folder.name,
                "norm_batches": count,
                "cases": len(store.test[: args.cases]),
                "dice": f"{100 * scores['dice']:.2f}",
                "empty": scores["empty_predictions"],
            }
            print(*row.values(), flush=True)
            rows.append(row)
            write_rows(args.out, rows)


if __name__ == "__main__":
    main()
