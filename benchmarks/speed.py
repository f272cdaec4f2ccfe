"""Speed as ratios, each measured in one run against the plain or published way.

    python benchmarks/speed.py [--out benchmarks/results/speed.csv]

- ``mt step``: one Mean Teacher training step at 4 x 64x64x48, ours (bf16 autocast,
  channels_last_3d, fused EMA) against the same step written as the published scripts write it
  (fp32, contiguous, a Python loop over the parameters).
- ``metrics``: Dice, Jaccard, 95HD and ASD of a full-resolution case against MedPy.
- ``semisam --help``: whole process, in seconds.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from speed_metrics import metrics_ratio
from torch.nn import functional as F

from semisam.frameworks.mean_teacher import MeanTeacher
from semisam.networks.vnet import VNet
from semisam.testing import random_batch
from semisam.trainer import Plan, Trainer

SHAPE = (64, 64, 48)


def _build(**heads):
    return VNet(1, heads)


class _PlainStep:
    """A Mean Teacher step as the published scripts write it, on our V-Net."""

    def __init__(self, batch):
        torch.manual_seed(0)
        self.model, self.ema_model = _build(logits=2), _build(logits=2)
        for param in self.ema_model.parameters():
            param.requires_grad_(False)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4
        )
        self.batch, self.step = batch, 0

    def __call__(self):
        volume, label = self.batch.image, self.batch.label
        unlabeled = volume[2:]
        noise = torch.clamp(torch.randn_like(unlabeled) * 0.1, -0.2, 0.2)
        outputs = self.model(volume)["logits"]
        with torch.no_grad():
            ema_output = self.ema_model(unlabeled + noise)["logits"]
        soft = F.softmax(outputs, dim=1)
        loss_ce = F.cross_entropy(outputs[:2], label)
        score, target = soft[:2, 1], label == 1
        intersect = torch.sum(score * target)
        total = torch.sum(score * score) + torch.sum(target * target)
        loss_dice = 1 - (2 * intersect + 1e-5) / (total + 1e-5)
        distance = torch.mean((soft[2:] - F.softmax(ema_output, dim=1)) ** 2)
        loss = 0.5 * (loss_ce + loss_dice) + 0.1 * distance
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        alpha = min(1 - 1 / (self.step + 1), 0.99)
        for ema, param in zip(self.ema_model.parameters(), self.model.parameters(), strict=True):
            ema.data.mul_(alpha).add_(param.data, alpha=1 - alpha)
        self.step += 1
        return loss.item()


class _OurStep:
    def __init__(self, batch, folder):
        torch.manual_seed(0)
        self.trainer = Trainer(MeanTeacher(_build, 2), None, Plan(), folder)
        self.trainer.framework.train()
        self.batch, self.step = batch, 0

    def __call__(self):
        figures = self.trainer.step(self.batch, self.step)
        self.step += 1
        return figures["loss"]


def step_ratio(repeats=8, warmup=3):
    """Time the two in turn, so that a drift of the machine's speed meets both."""
    batch = random_batch(shape=SHAPE)
    plain, ours = _PlainStep(batch), _OurStep(batch, Path())
    times = {"plain": [], "ours": []}
    for turn in range(warmup + repeats):
        for name, step in (("plain", plain), ("ours", ours)):
            began = time.perf_counter()
            step()
            if turn >= warmup:
                times[name].append(time.perf_counter() - began)
    ratios = [p / o for p, o in zip(times["plain"], times["ours"], strict=True)]
    medians = {name: statistics.median(values) for name, values in times.items()}
    return statistics.median(ratios), medians


def help_seconds(repeats=7):
    """Return the median wall seconds of ``semisam --help``."""
    command = [sys.executable, "-m", "semisam", "--help"]
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows = []
    seconds = help_seconds()
    rows.append({"what": "semisam --help", "figure": seconds, "unit": "s", "goal": "< 0.4"})
    for name, value in metrics_ratio().items():
        unit = "ms" if name.endswith("_ms") else "x"
        goal = ">= 5" if name == "good" else ""
        rows.append({"what": f"metrics: {name}", "figure": value, "unit": unit, "goal": goal})
    ratio, medians = step_ratio()
    for name, value in medians.items():
        rows.append({"what": f"mt step: {name}", "figure": value, "unit": "s", "goal": ""})
    rows.append({"what": "mt step: plain / ours", "figure": ratio, "unit": "x", "goal": ">= 2.5"})
    for row in rows:
        print(f"{row['what']:<40} {row['figure']:10.4g} {row['unit']:<3} {row['goal']}")
    if arguments.out is not None:
        with arguments.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
