"""The points that stand for an area in one slice, a lasso or a flat box, in ``semisam serve``.

    python benchmarks/click_areas.py --data DIR --out benchmarks/results/click_areas.csv

``DIR`` is la_half. Of the last 16 training scans, the slice with the largest area of the organ gets
its outline as a lasso, or its box. The prompt is points well within: their number, and how far they
are from the border at least, as a part of the greatest distance. A row is the Dice of the mask of
the whole organ, in percent, over scans. ``point`` is one click at the organ's deepest voxel.
"""

from __future__ import annotations

import argparse
import itertools
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from classical_backends import load
from rows import write_rows

from semisam.core.masks import deepness
from semisam.interactive import serve
from semisam.interactive.click import ClickableScan

SPACING = (1.25,) * 3


def areas(truth):
    """Return the organ's area in its largest slice, and the box of that area."""
    place = int(truth.sum((0, 1)).argmax())
    lasso, box = np.zeros_like(truth), np.zeros_like(truth)
    lasso[..., place] = truth[..., place]
    low, high = (end(np.argwhere(lasso), 0) for end in (np.min, np.max))
    box[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))] = True
    return {"lasso": lasso, "flat box": box}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = defaultdict(list)
    for image, truth in load(args.data, 16, 64):
        scan = ClickableScan(image, spacing=SPACING, device="cpu")

        def dice(points, scan=scan, truth=truth):
            mask = scan.segment(points).labelmap > 0
            return 100 * 2 * float((mask & truth).sum()) / float(mask.sum() + truth.sum())

        deepest = np.unravel_index(deepness(truth).argmax(), truth.shape)
        found["point", 1, ""].append(dice([tuple(int(at) for at in deepest)]))
        drawn = areas(truth)
        for name, count, inner in itertools.product(drawn, (1, 5, 16), (0.5, 0.7)):
            serve._ENCLOSED, serve._INNER = count, inner
            found[name, count, inner].append(dice(serve._within(drawn[name])))
    rows = [
        {"prompt": name, "points": count, "inner": inner, "scans": len(scores)}
        | {"dice": round(float(np.mean(scores)), 1), "sd": round(float(np.std(scores, ddof=1)), 1)}
        | {"lowest": round(min(scores), 1)}
        for (name, count, inner), scores in found.items()
    ]
    write_rows(args.out, rows)
    for row in rows:
        print(*row.values())


if __name__ == "__main__":
    main()
