"""SynthSAM's use of earlier clicks on synthetic volumes, paired, for two kinds of clicks.

    python benchmarks/zero_shot_dialogue.py --out benchmarks/results/zero_shot_dialogue.csv

The volumes are those of SynthSAM's validation from number ``--skip``. ``memory`` is the model's
input in addition to the newest click: the earlier clicks, or also its last prediction as the mask
prompt. ``views`` is 4 if the predictions on three mirror images are averaged in. All rows of a
volume and a kind of clicks start from the same first click. ``gain`` is the mean over volumes of
the difference to the first row, and ``gain_se`` is its standard error.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from rows import write_rows

from semisam.backends.synthsam import SynthSAM
from semisam.bench.clicks import interact
from semisam.core.masks import dice
from semisam.pretraining.generator import draw_volume
from semisam.pretraining.pretrain import VALIDATION

COUNTS = (1, 2, 5, 10)
VARIANTS = (("clicks", False), ("both", False), ("clicks", True), ("both", True))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=48)
    parser.add_argument("--skip", type=int, default=400)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    scores = defaultdict(list)
    for number in range(args.skip, args.skip + args.cases):
        volume = draw_volume(0, VALIDATION + number, (64, 64, 48))
        truth = volume.target.numpy().astype(bool)
        for clicks in ("published", "random"):
            for memory, flips in VARIANTS:
                backend = SynthSAM(flips=flips)
                backend.memory = memory
                rng = np.random.default_rng(number)
                found = interact(backend, volume.image[None], truth, COUNTS, rng, clicks)
                scores[clicks, memory, flips].append([dice(a > 0.5, truth) for _, a, *_ in found])
        print(number, flush=True)
    write_rows(args.out, [row for kind in ("published", "random") for row in table(kind, scores)])


def table(clicks, scores):
    """Return a row per variant and number of clicks, with its gain over the first variant."""
    base = 100 * np.array(scores[(clicks, *VARIANTS[0])])
    for memory, flips in VARIANTS:
        percent = 100 * np.array(scores[clicks, memory, flips])
        for column, count in enumerate(COUNTS):
            gain = (percent - base)[:, column]
            yield {
                "clicks": clicks,
                "memory": memory,
                "views": 4 if flips else 1,
                "points": count,
                "dice": round(float(percent[:, column].mean()), 2),
                "gain": round(float(gain.mean()), 2),
                "gain_se": round(float(gain.std(ddof=1) / len(gain) ** 0.5), 2),
                "volumes": len(gain),
            }


if __name__ == "__main__":
    main()
