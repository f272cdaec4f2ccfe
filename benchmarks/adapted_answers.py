"""SynthSAM as it is and adapted to labeled scans: by clicks, and on the proposals of a run.

    python benchmarks/adapted_answers.py --data DIR --labels 2 [--run RUN] \
        --out benchmarks/results/adapted_answers.csv

``DIR`` is laid out as for ``zero_shot.py``. The first N scans of ``train.list`` are the labeled
ones, its last 16 are scored; the test scans are not read. ``RUN`` is a finished run that was
trained without these 16: its maps are the proposals, and the prompts are their three deepest
points, or the map as a mask. ``true_points`` are the three deepest of the truth, and ``mean`` is of
the proposal and the prediction from its points.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from classical_backends import load
from rows import write_rows

from semisam.backends.synthsam import SynthSAM
from semisam.core.types import Prompt, View
from semisam.frameworks.semisam import merge_prompts
from semisam.inference.sliding_window import sliding_window
from semisam.pretraining.pretrain import dice_score
from semisam.prompters.center_points import CenterPoints
from semisam.run.model import load_run

SCORED, CLICKS = 16, (1, 2, 5)
RNG = torch.Generator()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--labels", type=int, default=2)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    held = load(args.data, SCORED, 80 - SCORED, "train")
    labeled = load(args.data, args.labels, 0, "train")
    cases = [(torch.from_numpy(i)[None], torch.from_numpy(k).long()) for i, k in labeled]
    weights = args.out.with_suffix(".safetensors")
    device = torch.device("cpu")
    SynthSAM().adapt(cases, weights, steps=args.steps, seed=0, device=device)
    models = {"as it is": SynthSAM(), "adapted": SynthSAM(weights=str(weights))}
    weights.unlink()
    maps = [None] * SCORED if args.run is None else proposals(args.run, held)
    rows = []
    for name, model in models.items():
        found: dict[str, list[float]] = {}
        for (image, label), proposal in zip(held, maps, strict=True):
            scores = clicked(model, image, label)
            scores |= {} if proposal is None else proposed(model, image, label, proposal)
            for key, value in scores.items():
                found.setdefault(key, []).append(100 * value)
        means = {key: round(float(np.mean(values)), 2) for key, values in found.items()}
        rows.append({"model": name, "labels": args.labels, "steps": args.steps, **means})
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
            scores[f"clicks_{count}"] = dice_score(found.numpy() > 0.5, label > 0)
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
    return {name: dice_score(found.numpy() > 0.5, label > 0) for name, found in maps.items()}


if __name__ == "__main__":
    main()
