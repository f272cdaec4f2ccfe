"""SynthSAM as it is and adapted to labeled scans: by clicks, and on the proposals of runs.

    semisam adapt --data DIR --labels 2 --out ADAPTED
    python benchmarks/adapted_answers.py --data DIR --weights ADAPTED [--run RUN ...] \
        --out benchmarks/results/adapted_answers.csv

``DIR`` is laid out as for ``zero_shot.py``. The last 16 scans of ``train.list`` are scored; the
test scans are not read. ``RUN`` is a finished run: its maps are the proposals, and the prompts are
their three deepest points, or the map as a mask. ``true_points`` are the three deepest of the
truth, and ``mean`` is of the proposal and the prediction from its points.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from classical_backends import load
from rows import means, write_rows

from semisam.backends.synthsam import SynthSAM
from semisam.core.masks import dice
from semisam.core.types import Prompt, View
from semisam.frameworks.queries import merge_prompts
from semisam.inference.sliding_window import sliding_window
from semisam.prompters.center_points import CenterPoints
from semisam.run.model import load_run

SCORED, CLICKS = 16, (1, 2, 5)
RNG = torch.Generator()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--run", type=Path, nargs="+", default=[])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    held = load(args.data, SCORED, 80 - SCORED, "train")
    models = {"as it is": SynthSAM(), "adapted": SynthSAM(weights=str(args.weights))}
    rows = []
    for name, model in models.items():
        found = [clicked(model, image, label) for image, label in held]
        rows.append({"model": name, "run": "", **means(found)})
        print(rows[-1], flush=True)
    for run in args.run:
        maps = proposals(run, held)
        for name, model in models.items():
            pairs = zip(held, maps, strict=True)
            found = [proposed(model, *scan, proposal) for scan, proposal in pairs]
            rows.append({"model": name, "run": run.name.rpartition("-")[0], **means(found)})
            print(rows[-1], flush=True)
    write_rows(args.out, rows)


def proposals(run, held):
    """Return the run's probability map of each scan."""
    settings, framework, _ = load_run(run)
    images = [torch.from_numpy(image)[None] for image, _ in held]
    return [sliding_window(framework, i, settings.patch, settings.stride)[1] for i in images]


def clicked(model, image, label):
    """Return the Dice after each number of clicks at the deepest point of the error."""
    embedding, truth = model.encode(torch.from_numpy(image)[None]), torch.from_numpy(label).float()
    click, scores = CenterPoints(points=1, max_uncertainty=1.0), {}
    prompt, found = None, None
    for count in range(1, max(CLICKS) + 1):
        new = click(View(truth, torch.zeros_like(truth), found), RNG)
        if new is not None:
            prompt = merge_prompts(prompt, new)
            asked = Prompt(prompt.points, prompt.labels, mask=found)
            found = model.segment(embedding, asked).sigmoid()
        if count in CLICKS:
            scores[f"clicks_{count}"] = dice(found.numpy() > 0.5, label > 0)
    return scores


def proposed(model, image, label, proposal):
    """Return the Dice of a proposal, of predictions from it, and of its mean with one of them."""
    embedding = model.encode(torch.from_numpy(image)[None])
    points = CenterPoints(points=3, max_uncertainty=1.0)
    clear = torch.zeros_like(proposal)
    truth = torch.from_numpy(label > 0).float()
    asked = {
        "points": points(View(proposal, clear, None), RNG),
        "mask": Prompt(mask=proposal),
        "true_points": points(View(truth, clear, None), RNG),
    }
    maps = {name: model.segment(embedding, what).sigmoid() for name, what in asked.items()}
    maps |= {"proposal": proposal, "mean": (proposal + maps["points"]) / 2}
    return {name: dice(found.numpy() > 0.5, label > 0) for name, found in maps.items()}


if __name__ == "__main__":
    main()
