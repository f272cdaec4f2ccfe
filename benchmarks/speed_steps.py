"""A training step of each method against the same step written as the published scripts write it.

    python benchmarks/speed_steps.py [--out benchmarks/results/speed_steps.csv]

Both sides: 4 volumes of 64x64x48 (2 labeled), the published V-Net, SGD, the same weights, batch and
random numbers. ``mt-2d`` has 24 slices of 256x256 (12 labeled) and the published 2-D U-Net, as
SSL4MIS trains on ACDC. ``published``: fp32, contiguous, a loop over the parameters for the teacher,
UA-MT's eight passes two at a time, DTC's signed distance by scipy and scikit-image, DTML's four
signed distances (computed, as there, though they enter no objective) and its two backward calls.
``ours``: `Trainer.step` as it trains. Each side runs in a process of its own, since ours changes
how its process gets memory; the two take turns, so that a drift of the machine's speed meets both.
``--clock process`` counts the processor's time, for a machine that other work shares.

``difference_fp32`` is how far our losses are from the published step's, both in fp32: the largest
relative difference over the first steps, weights moving. ``difference_bf16`` is the same for the
precision that is timed.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from rows import write_rows
from scipy.ndimage import distance_transform_edt
from skimage.segmentation import find_boundaries
from torch.nn import functional as F

from semisam.core.seeding import derive_seed
from semisam.core.types import Batch
from semisam.networks.unet2d import UNet2d
from semisam.networks.vnet import VNet
from semisam.plugins import registry
from semisam.testing import random_batch
from semisam.training.allocator import keep_memory
from semisam.training.trainer import Trainer, TrainingPlan

SHAPE, LABELED = (64, 64, 48), 2
FLAT, FLAT_SHAPE, FLAT_LABELED = "-2d", (256, 256), 12
STEPS = 6000  # of the imagined run, whose beginning is measured
CLOCKS = {"wall": time.perf_counter, "process": time.process_time}
GOALS = {"supervised": 2.5, "mt": 2.5, "ua-mt": 4.0, "dtc": 3.0, "dtml": 3.0}


def _build(**heads):
    return UNet2d(1, heads) if len(SHAPE) == 2 else VNet(1, heads)


def _blobs():
    """Return a batch whose labels are compact, as organs are: a noise label has no distances."""
    batch = random_batch(labeled=LABELED, unlabeled=LABELED, shape=SHAPE)
    label = torch.zeros_like(batch.label)
    for first, box in enumerate((np.s_[20:44, 16:50, 12:30], np.s_[5:30, 30:60, 20:48])):
        label[(slice(first, None, 2), *box[: len(SHAPE)])] = 1
    return Batch(batch.image, label)


class _Published:
    """The part that the published scripts share: data, optimizers, weights of the losses."""

    networks = 1

    def __init__(self, framework_name):
        torch.manual_seed(0)
        # Built by our class, so that the initial weights are the same; trained by this one.
        self.framework = registry.load("framework", framework_name)(_build, 2)
        self.batch, self.step = _blobs(), 0
        trained = [p for p in self.framework.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(trained, lr=0.01, momentum=0.9, weight_decay=1e-4)
        self.framework.train()

    def __call__(self):
        torch.manual_seed(derive_seed(0, "step", self.step))
        self.optimizer.zero_grad()
        losses = self.backward()
        self.optimizer.step()
        self.after()
        self.step += 1
        return losses

    def after(self):
        pass

    def consistency_weight(self):
        return 0.1 * math.exp(-5 * (1 - self.step / STEPS))


def _dice(score, target):
    target = target.float()
    intersect = torch.sum(score * target)
    total = torch.sum(score * score) + torch.sum(target * target)
    return 1 - (2 * intersect + 1e-5) / (total + 1e-5)


def _supervise(outputs, soft, label):
    return F.cross_entropy(outputs, label), _dice(soft[:, 1], label == 1)


class _Supervised(_Published):
    def backward(self):
        volume, label = self.batch.image[:LABELED], self.batch.label
        outputs = self.framework.net(volume)["logits"]
        ce, dice = _supervise(outputs, F.softmax(outputs, dim=1), label)
        loss = 0.5 * (ce + dice)
        loss.backward()
        return loss.item()


class _MeanTeacher(_Published):
    def noisy(self, volume):
        return volume + torch.clamp(torch.randn_like(volume) * 0.1, -0.2, 0.2)

    def distance(self, soft):
        unlabeled = self.batch.image[LABELED:]
        with torch.no_grad():
            ema = F.softmax(self.framework.teacher(self.noisy(unlabeled))["logits"], dim=1)
        return torch.mean((soft - ema) ** 2)

    def backward(self):
        outputs = self.framework.student(self.batch.image)["logits"]
        soft = F.softmax(outputs, dim=1)
        ce, dice = _supervise(outputs[:LABELED], soft[:LABELED], self.batch.label)
        loss = 0.5 * (ce + dice) + self.consistency_weight() * self.distance(soft[LABELED:])
        loss.backward()
        return loss.item()

    def after(self):
        alpha = min(1 - 1 / (self.step + 1), 0.99)
        pairs = zip(
            self.framework.teacher.parameters(), self.framework.student.parameters(), strict=True
        )
        for ema, param in pairs:
            ema.data.mul_(alpha).add_(param.data, alpha=1 - alpha)


class _UncertaintyAwareMeanTeacher(_MeanTeacher):
    def distance(self, soft):
        unlabeled, teacher = self.batch.image[2:], self.framework.teacher
        with torch.no_grad():
            ema = F.softmax(teacher(self.noisy(unlabeled))["logits"], dim=1)
        repeated = unlabeled.repeat(2, 1, 1, 1, 1)
        preds = torch.zeros(8 * 2, 2, *SHAPE, device=repeated.device)
        for i in range(4):
            with torch.no_grad():
                preds[4 * i : 4 * (i + 1)] = teacher(self.noisy(repeated))["logits"]
        preds = F.softmax(preds, dim=1).reshape(8, 2, 2, *SHAPE).mean(0)
        uncertainty = -torch.sum(preds * torch.log(preds + 1e-6), dim=1, keepdim=True)
        ramp = math.exp(-5 * (1 - self.step / STEPS) ** 2)
        mask = (uncertainty < (0.75 + 0.25 * ramp) * math.log(2)).float()
        return torch.sum(mask * (soft - ema) ** 2) / (2 * torch.sum(mask) + 1e-16)


def _compute_sdf(label):
    """DTC's signed distance map, as its script computes it."""
    maps = np.zeros(label.shape)
    for b, mask in enumerate(label.astype(np.uint8)):
        if not mask.any():
            continue
        positive, negative = mask.astype(bool), ~mask.astype(bool)
        posdis, negdis = distance_transform_edt(positive), distance_transform_edt(negative)
        boundary = find_boundaries(mask, mode="inner").astype(np.uint8)
        sdf = (negdis - np.min(negdis)) / (np.max(negdis) - np.min(negdis)) - (
            posdis - np.min(posdis)
        ) / (np.max(posdis) - np.min(posdis))
        sdf[boundary == 1] = 0
        maps[b] = sdf
    return maps


class _DualTaskConsistency(_Published):
    def backward(self):
        label = self.batch.label
        heads = self.framework.net(self.batch.image)
        distance, soft = torch.tanh(heads["sdf"]), F.softmax(heads["logits"], dim=1)[:, 1:]
        truth = torch.from_numpy(_compute_sdf(label.cpu().numpy())).float().to(label.device)
        dice = _dice(soft[:2, 0], label == 1)
        sdf = F.mse_loss(distance[:2, 0], truth)
        consistency = torch.mean((torch.sigmoid(-1500 * distance) - soft) ** 2)
        loss = dice + 0.3 * sdf + 10 * self.consistency_weight() * consistency
        loss.backward()
        return loss.item()


class _DualTaskMutualLearning(_Published):
    def __init__(self, name):
        super().__init__(name)
        self.optimizer = torch.optim.SGD(
            self.framework.segmenter.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4
        )
        self.other = torch.optim.SGD(
            self.framework.regressor.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4
        )

    def backward(self):
        label, weight = self.batch.label, 10 * self.consistency_weight()
        outputs = self.framework.segmenter(self.batch.image)["logits"]
        soft = F.softmax(outputs, dim=1)
        distance = torch.tanh(self.framework.regressor(self.batch.image)["sdf"])
        inside = torch.sigmoid(-1500 * distance)
        # The labels of all four rows, as there; the benchmark's unlabeled rows repeat the labeled.
        truth = torch.from_numpy(_compute_sdf(label.repeat(2, 1, 1, 1).cpu().numpy())).float()
        torch.norm(distance[:, 0].detach() - truth.to(label.device), 1)
        ce, dice = _supervise(outputs[:2], soft[:2], label)
        shared = weight * torch.mean((inside - soft[:, 1:]) ** 2)
        segmentation = 0.5 * (ce + dice) + shared
        regression = _dice(inside[:2, 0], label == 1) + shared
        self.other.zero_grad()
        segmentation.backward(retain_graph=True)
        regression.backward()
        self.other.step()
        return (segmentation + regression).item()


PUBLISHED = {
    "supervised": _Supervised,
    "mt": _MeanTeacher,
    "ua-mt": _UncertaintyAwareMeanTeacher,
    "dtc": _DualTaskConsistency,
    "dtml": _DualTaskMutualLearning,
    "mt-2d": _MeanTeacher,
}


class _Ours:
    def __init__(self, name, precision, device="cpu", wrap=lambda framework: framework):
        torch.manual_seed(0)
        framework = wrap(registry.load("framework", name)(_build, 2))
        batch = _blobs()
        few = not framework.uses_unlabeled
        self.batch = Batch(batch.image[:LABELED], batch.label) if few else batch
        plan = TrainingPlan(iterations=STEPS, precision=precision, device=device)
        self.trainer = Trainer(framework, None, plan, Path(tempfile.mkdtemp()))
        self.trainer.framework.train()
        self.step, self.figures = 0, {}

    def __call__(self):
        self.figures = self.trainer.step(self.batch, self.step)
        self.step += 1
        return self.figures["loss"]


def serve(name, side, clock):
    """Make a step for every line read and answer with its seconds and its loss."""
    global SHAPE, LABELED
    if name.endswith(FLAT):
        SHAPE, LABELED = FLAT_SHAPE, FLAT_LABELED
    method = name.removesuffix(FLAT)
    if side == "published":
        step = PUBLISHED[name](method)
    else:
        keep_memory()
        step = _Ours(method, side)
    for _ in sys.stdin:
        began = CLOCKS[clock]()
        loss = step()
        seconds = CLOCKS[clock]() - began
        print(json.dumps({"seconds": seconds, "loss": loss, "peak_gib": _peak()}), flush=True)


def _peak():
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


class _Side:
    def __init__(self, name, side, clock):
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", name, side, clock],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.answers = []

    def step(self):
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        self.answers.append(json.loads(self.process.stdout.readline()))

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def measure(name, repeats, warmup, clock="wall"):
    """Return a row of the table."""
    sides = {side: _Side(name, side, clock) for side in ("published", "bf16", "fp32")}
    for turn in range(warmup + repeats):
        for label, side in sides.items():
            if label != "fp32" or turn < warmup:
                side.step()
    for side in sides.values():
        side.end()
    seconds = {
        label: [a["seconds"] for a in side.answers[warmup:]] for label, side in sides.items()
    }
    losses = {label: [a["loss"] for a in side.answers[:warmup]] for label, side in sides.items()}
    pairs = zip(seconds["published"], seconds["bf16"], strict=True)
    return {
        "method": name,
        "published_seconds": round(statistics.median(seconds["published"]), 3),
        "ours_seconds": round(statistics.median(seconds["bf16"]), 3),
        "ratio": round(statistics.median(p / o for p, o in pairs), 2),
        "goal": GOALS.get(name, ""),
        "published_peak_gib": round(sides["published"].answers[-1]["peak_gib"], 2),
        "ours_peak_gib": round(sides["bf16"].answers[-1]["peak_gib"], 2),
        "difference_fp32": _difference(losses["published"], losses["fp32"]),
        "difference_bf16": _difference(losses["published"], losses["bf16"]),
        "threads": torch.get_num_threads(),
        "clock": clock,
    }


def _difference(one, other):
    worst = max(abs(a - b) / abs(a) for a, b in zip(one, other, strict=True))
    return float(f"{worst:.1e}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", default=",".join(PUBLISHED))
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(*arguments.serve)
        return
    rows = []
    for name in arguments.methods.split(","):
        rows.append(measure(name, arguments.repeats, arguments.warmup, arguments.clock))
        print(" ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    if arguments.out is not None:
        write_rows(arguments.out, rows)


if __name__ == "__main__":
    main()
