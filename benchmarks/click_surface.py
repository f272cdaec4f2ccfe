"""Where SynthSAM draws the surface of an organ, against where the label has it.

    semisam adapt --data DIR --labels 2 --out adapted.safetensors
    python benchmarks/click_surface.py --data DIR --adapted adapted.safetensors \
        --out benchmarks/results/click_surface.csv

Each click is at the deepest point of the larger error. After it, the mask's volume is compared to
the label's, and its Dice to that of the same mask made one voxel smaller or larger. The scans are
training scans of ``DIR`` after the first two (see ``classical_backends.py``), with the embedded
weights and with those that are adapted to the first two, and synthetic volumes of SynthSAM's
validation, which are of the kind that it was trained on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import edt
import numpy as np
import torch
from classical_backends import load
from rows import write_rows

from semisam.backends.synthsam import SynthSAM
from semisam.core.masks import dice
from semisam.core.types import Prompt
from semisam.pretraining.generator import draw_volume
from semisam.pretraining.pretrain import VALIDATION

CLICKS = (1, 5, 10)
LABELED = 2


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--adapted", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=12)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    drawn = [draw_volume(0, VALIDATION + index, (64, 64, 48)) for index in range(args.cases)]
    synthetic = [(v.image.numpy(), v.target.numpy() > 0) for v in drawn]
    scans = load(args.data, args.cases, LABELED)
    embedded, adapted = (
        SynthSAM(weights=weights, flips=True) for weights in (None, str(args.adapted))
    )
    kinds = {
        ("whole train", "embedded"): (embedded, scans),
        ("whole train", "adapted"): (adapted, scans),
        ("synthetic 64x64x48", "embedded"): (embedded, synthetic),
    }
    rows = []
    for (volume, weights), (model, cases) in kinds.items():
        found = [dialogue(model, torch.from_numpy(image)[None], label) for image, label in cases]
        for at, clicks in enumerate(CLICKS):
            figures = {key: np.mean([scan[at][key] for scan in found]) for key in found[0][at]}
            rounded = {key: round(float(value), 3) for key, value in figures.items()}
            rows.append({"volume": volume, "weights": weights, "clicks": clicks, **rounded})
            print(rows[-1], flush=True)
    write_rows(args.out, rows)


def dialogue(model, image, label):
    """Return the figures of one scan, a row per number of clicks."""
    embedding = model.encode(image)
    mask, points, labels, rows = np.zeros_like(label), [], [], []
    for done in range(1, max(CLICKS) + 1):
        errors = [depth(mask & ~label), depth(label & ~mask)]
        kind = int(errors[1].max() >= errors[0].max())
        points.append(np.unravel_index(errors[kind].argmax(), label.shape))
        labels.append(kind)
        prompt = Prompt(points=torch.tensor(np.array(points)), labels=torch.tensor(labels))
        mask = model.segment(embedding, prompt).numpy() > 0
        if done in CLICKS:
            rows.append(figures(mask, label))
    return rows


def figures(mask, label):
    """Return how a mask differs from a label, as shares of the label, and Dice."""
    size = label.sum()
    return {
        "dice": dice(mask, label),
        "volume_ratio": mask.sum() / size,
        "missed": (label & ~mask).sum() / size,
        "extra": (mask & ~label).sum() / size,
        "dice_smaller": dice(depth(mask) > 1, label),
        "dice_larger": dice(depth(~mask, border=False) <= 1, label),
    }


def depth(mask, border=True):
    """Return each voxel's distance to the outside of a mask; ``border``: the image's edge is it."""
    return edt.edt(np.ascontiguousarray(mask), black_border=border)


if __name__ == "__main__":
    main()
