"""Two classes that touch, queried one by one or as their union, on the proposals of a run.

    semisam adapt --data DIR --labels 2 --steps 150 --out EACH
    semisam adapt --data DIR --labels 2 --steps 150 --set folder.labels=1=1,2=1 \
        --set folder.classes=organ --out WHOLE
    python benchmarks/class_union.py --run RUN --each EACH --whole WHOLE --out OUT

``RUN`` is a finished run of two classes, whose test cases are scored: let them be training cases
that were held out. Its maps are the proposals, and the prompts are their three deepest points.
``each`` is the model adapted to the classes, ``whole`` the one adapted to their union. A row has
the Dice of both classes and of their union: of the maps, of the predictions, and of the means of
both, which would be the targets of unlabeled scans. Where only the union was asked for, the
classes are those of the maps.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from rows import means, write_rows

from semisam.backends.synthsam import SynthSAM
from semisam.core.masks import dice
from semisam.core.types import View
from semisam.inference.sliding_window import sliding_window
from semisam.prompters.center_points import CenterPoints
from semisam.run.build import open_dataset, split_of
from semisam.run.model import load_run

RNG = torch.Generator()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("run", "each", "whole", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    settings, framework, _ = load_run(args.run)
    dataset = open_dataset(settings)
    each, whole = (SynthSAM(weights=str(path)) for path in (args.each, args.whole))
    scores = {}
    for case in split_of(settings, dataset).test:
        image, label = torch.from_numpy(dataset.image(case).array), dataset.label(case)
        proposal = sliding_window(framework, image, settings.patch, settings.stride)
        for name, maps in answers(image, proposal, each, whole).items():
            scores.setdefault(name, []).append(dice_of(maps, label))
    rows = [{"of": name, "scans": len(found), **means(found)} for name, found in scores.items()]
    write_rows(args.out, rows)
    for row in rows:
        print(row)


@torch.no_grad()
def answers(image, proposal, each, whole):
    """Return the maps ``(3, *S)`` of two classes and their union, by name."""
    one, two = proposal[1:]
    union = one + two
    by_one, by_two, by_each = asked(each, image, (one, two, union))
    (by_whole,) = asked(whole, image, (union,))
    classes = torch.stack([by_one, by_two])
    mean = (union + by_whole) / 2
    return {
        "the maps": with_union(proposal[1:]),
        "predictions for each class": torch.cat([classes, by_each[None]]),
        "prediction for the union, adapted to it": torch.stack([one, two, by_whole]),
        "means by class": with_union((proposal[1:] + classes) / 2),
        "mean of the union, divided as in the maps": with_union(
            proposal[1:] * mean / union.clamp(min=1e-6)
        ),
    }


def asked(model, image, proposals):
    """Return the probabilities of the model's predictions for proposals ``(*S)`` of one image."""
    embedding, points = model.encode(image), CenterPoints(points=3, max_uncertainty=1.0)
    found = []
    for proposal in proposals:
        prompt = points(View(proposal, torch.zeros_like(proposal), None), RNG)
        nothing = torch.zeros_like(proposal)
        found.append(nothing if prompt is None else model.segment(embedding, prompt).sigmoid())
    return found


def with_union(classes):
    """Return the maps of two classes and of their union."""
    return torch.cat([classes, classes.sum(0, keepdim=True)])


def dice_of(maps, label):
    """Return the Dice of two classes, the likeliest one in each voxel, and of their union."""
    one, two, union = maps.numpy()
    neither = 1 - one - two
    found = {"first": one > np.maximum(two, neither), "second": two > np.maximum(one, neither)}
    found["union"] = union > 0.5
    truth = {"first": label == 1, "second": label == 2, "union": label > 0}
    return {name: dice(found[name], truth[name]) for name in found}


if __name__ == "__main__":
    main()
