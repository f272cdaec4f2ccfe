"""Strides of the test window, and Gaussian weights in it, on the test cases of finished runs.

    python benchmarks/test_window.py RUN... --out benchmarks/results/test_window.csv

``semisam evaluate RUN --stride ...`` has the same scores for equal weights. The Gaussian has a
deviation of an eighth of the patch.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from rows import write_rows

from semisam.data.loading.store import VolumeStore
from semisam.inference import evaluation
from semisam.inference.sliding_window import sliding_window, window_starts
from semisam.inference.stride import published_stride
from semisam.run.scoring import open_scored

SHARES = (2, 3, 4)
LARGE = (256, 256, 128)
"""Voxels of a scan whose windows are counted."""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    rows = []
    for run in options.runs:
        scored = open_scored(run, "cpu")
        store = VolumeStore(scored.dataset, labeled=[], unlabeled=[], test=scored.test)
        strides = {f"1/{n}": tuple(side // n for side in scored.patch) for n in SHARES}
        strides["published"] = published_stride(scored.patch)
        for weights, window in (("equal", sliding_window), ("gaussian", by_gaussian)):
            for name, stride in strides.items():
                evaluation.sliding_window = window
                found = evaluation.summarise(
                    evaluation.evaluate(
                        scored.model,
                        store,
                        scored.test,
                        scored.patch,
                        stride,
                        device=torch.device("cpu"),
                        precision=scored.precision,
                        one_component=scored.one_component,
                    )
                )
                each = zip(LARGE, scored.patch, stride, strict=True)
                rows.append(
                    {
                        "patch": "x".join(map(str, scored.patch)),
                        "stride": name,
                        "weights": weights,
                        "windows_256x256x128": math.prod(len(window_starts(*a)) for a in each),
                        "dice": round(100 * found["dice"], 2),
                        "dice_sd_cases": round(100 * found["dice_sd_cases"], 2),
                        "hd95_voxel": round(found["hd95_voxel"], 2),
                    }
                )
                write_rows(options.out, rows)
                print(rows[-1], flush=True)


def by_gaussian(predict, image, patch, stride, **options):
    """Average the windows with weights that fall from their centre, in two passes."""
    weight = torch.ones(())
    for side in patch:
        away = (torch.arange(side) - (side - 1) / 2) / side
        weight = weight[..., None] * torch.exp(-0.5 * (away / 0.125) ** 2).clamp(min=1e-3)
    above = sliding_window(lambda x: predict(x) * weight, image, patch, stride, **options)
    below = sliding_window(lambda x: weight.expand(len(x), 1, *patch), image, patch, stride)
    return above / below


if __name__ == "__main__":
    main()
