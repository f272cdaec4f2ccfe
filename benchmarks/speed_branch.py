"""A step of Mean Teacher + SemiSAM with SAM-Med3D at 128^3 against the plain published way.

    python benchmarks/speed_branch.py [--clock process] [--out benchmarks/results/speed_branch.csv]

SAM-Med3D has its published size (ViT-B) and random weights: the time does not depend on them. One
labeled and one unlabeled volume of 128^3, the published V-Net, SGD; the same weights, batch, random
numbers and clicks on both sides, and every step asks (no limit on the clicks' uncertainty).

``published``: fp32, contiguous, a loop over the parameters for the teacher, the image encoder as
published, whose windows of 512 tokens are padded to 2,744. The eight Monte Carlo passes that the
published script makes and does not use are timed apart: ``ratio`` leaves them out,
``ratio_as_published`` counts them. The checkpoint that a later script loads in every step counts in
neither. ``ours``: `Trainer.step` as it trains. Each side runs in a process of its own;
the two take turns.

``difference_fp32`` is how far our loss is from the published step's, both in fp32: the relative
difference of the first step. ``--clock process`` counts the processor's time, for a machine that
other work shares, and is meant for one thread.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from rows import write_rows
from speed_sam_med3d import plain_encode, published_size
from torch.nn import functional as F

from semisam.backends.sam_med3d import SamMed3D
from semisam.core.losses import entropy
from semisam.core.seeding import derive_seed
from semisam.core.types import Batch, View
from semisam.frameworks.mean_teacher import MeanTeacher
from semisam.frameworks.semisam import SemiSAM
from semisam.networks.vnet import VNet
from semisam.prompters.uncertainty_points import UncertaintyPoints
from semisam.testing import random_batch
from semisam.training.allocator import keep_memory
from semisam.training.trainer import Trainer, TrainingPlan

STEPS = 6000  # of the imagined run, whose beginning is measured


def _mean_teacher(filters):
    torch.manual_seed(0)
    return MeanTeacher(lambda **heads: VNet(1, heads, filters=filters), 2)


def _prompter():
    return UncertaintyPoints(max_uncertainty=1.0)


def _batch(side):
    batch = random_batch(shape=(side, side, side), labeled=1, unlabeled=1)
    label = torch.zeros_like(batch.label)
    label[0, side // 4 : side // 2, side // 4 : -side // 4, side // 5 : side // 2] = 1
    return Batch(batch.image, label)


class Published:
    """The step as the published script means it, written plainly."""

    def __init__(self, checkpoint, filters, side):
        self.method = _mean_teacher(filters)
        self.backend = SamMed3D(
            checkpoint=checkpoint, normalise=False, resample=False, precision="fp32"
        )
        net = self.backend._net
        net.encode = lambda image: plain_encode(net.image_encoder, image)
        self.batch, self.step = _batch(side), 0
        self.optimizer = torch.optim.SGD(
            self.method.student.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4
        )
        self.method.train()

    def __call__(self):
        image, label = self.batch.image, self.batch.label[0]
        torch.manual_seed(derive_seed(0, "step", self.step))
        fraction = self.step / STEPS
        soft = F.softmax(outputs := self.method.student(image)["logits"], dim=1)
        with torch.no_grad():
            noise = torch.clamp(torch.randn_like(image[1:]) * 0.1, -0.2, 0.2)
            ema = F.softmax(self.method.teacher(image[1:] + noise)["logits"], dim=1)
        inside = (label == 1).float()
        overlap, total = (soft[0, 1] * inside).sum(), soft[0, 1].square().sum() + inside.sum()
        dice = 1 - (2 * overlap + 1e-5) / (total + 1e-5)
        consistency = torch.mean((soft[1:] - ema) ** 2)
        guided = torch.mean((soft[1, 1] - self.query(image[1], soft[1].detach())) ** 2)
        loss = 0.5 * (F.cross_entropy(outputs[:1], label[None]) + dice)
        loss = loss + 0.1 * math.exp(-5 * (1 - fraction)) * consistency
        loss = loss + 0.1 * math.exp(-5 * fraction) * guided
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        alpha = min(1 - 1 / (self.step + 1), 0.99)
        pairs = zip(self.method.teacher.parameters(), self.method.student.parameters(), strict=True)
        for ema_param, param in pairs:
            ema_param.data.mul_(alpha).add_(param.data, alpha=1 - alpha)
        self.step += 1
        return loss.item()

    @torch.no_grad()
    def unused(self):
        """Make the Monte Carlo passes whose mean nothing uses, two volumes at a time."""
        image = self.batch.image.repeat(2, 1, 1, 1, 1)
        for _ in range(4):
            self.method.teacher(image + torch.clamp(torch.randn_like(image) * 0.1, -0.2, 0.2))

    def query(self, image, soft):
        rng = torch.Generator().manual_seed(derive_seed(0, "prompts", self.step, 1))
        prompt = _prompter()(View(soft[1], entropy(soft[None])[0, 0], None), rng)
        answer = self.backend.segment(self.backend.encode(image), prompt)
        return (answer.sigmoid() > 0.5).float()


class Ours:
    """The step as the trainer makes it; the measure on labeled rows, every tenth step, is off."""

    def __init__(self, checkpoint, filters, side, precision):
        own = "auto" if precision == "bf16" else "fp32"
        backend = SamMed3D(checkpoint=checkpoint, normalise=False, resample=False, precision=own)
        branch = SemiSAM(_mean_teacher(filters), backend, _prompter(), measure_every=0)
        plan = TrainingPlan(iterations=STEPS, precision=precision)
        self.trainer = Trainer(branch, None, plan, Path(tempfile.mkdtemp()))
        self.trainer.framework.train()
        self.batch, self.step = _batch(side), 0

    def __call__(self):
        figures = self.trainer.step(self.batch, self.step)
        assert figures["sam_calls"] == 1, figures
        self.step += 1
        return figures["loss"]


def serve(which, checkpoint, arguments):
    """Make a step for every line read; answer with its seconds, its loss and the peak memory.

    The line ``warm`` requests only the step.
    """
    clock = time.process_time if arguments.clock == "process" else time.perf_counter
    if which == "published":
        step = Published(checkpoint, arguments.filters, arguments.side)
    else:
        keep_memory()
        step = Ours(checkpoint, arguments.filters, arguments.side, which)
    for line in sys.stdin:
        began = clock()
        loss = step()
        seconds = clock() - began
        unused = 0.0
        if which == "published" and line.strip() != "warm":
            step.unused()
            unused = clock() - began - seconds
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        figures = {"seconds": seconds, "unused": unused, "loss": loss, "peak_gib": peak}
        print(json.dumps(figures), flush=True)


def steps_of(sides, count, checkpoint, arguments):
    """Return every side's answers to ``count`` turns; sides take turns."""
    options = ["--side", arguments.side, "--filters", arguments.filters, "--clock", arguments.clock]
    processes = {
        side: subprocess.Popen(
            [*(sys.executable, __file__, "--serve", side, checkpoint), *map(str, options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for side in sides
    }
    answers = {side: [] for side in sides}
    for turn in range(count):
        for side, process in processes.items():
            process.stdin.write("warm\n" if turn < arguments.warmup else "go\n")
            process.stdin.flush()
            answers[side].append(json.loads(process.stdout.readline()))
            print(side, answers[side][-1], flush=True)
    for process in processes.values():
        process.stdin.close()
        process.wait()
    return answers


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=128, help="voxels per axis of a volume")
    parser.add_argument("--filters", type=int, default=16, help="of the V-Net")
    # A process asks the system for memory in its first three steps, and ours is slower there.
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clock", choices=("wall", "process"), default="wall")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--serve", nargs=2, metavar=("SIDE", "CHECKPOINT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(*arguments.serve, arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = f"{folder}/random.pth"
        torch.save({"model_state_dict": published_size().state_dict()}, checkpoint)
        warmup, total = arguments.warmup, arguments.warmup + arguments.repeats
        # fp32 has its own turn: a third process would not fit into memory with the other two.
        exact = steps_of(["fp32"], 1, checkpoint, arguments)["fp32"]
        found = steps_of(["published", "bf16"], total, checkpoint, arguments)
    seconds = {side: [a["seconds"] for a in answers[warmup:]] for side, answers in found.items()}
    unused = [a["unused"] for a in found["published"][warmup:]]
    sides = list(zip(seconds["published"], unused, seconds["bf16"], strict=True))
    first = found["published"][0]["loss"]
    difference = abs(first - exact[0]["loss"]) / abs(first)
    row = {
        "what": f"mt + SemiSAM (sam-med3d), 1+1 rows of {arguments.side}^3",
        "threads": torch.get_num_threads(),
        "clock": arguments.clock,
        "published_seconds": round(statistics.median(seconds["published"]), 2),
        "ours_seconds": round(statistics.median(seconds["bf16"]), 2),
        "unused_seconds": round(statistics.median(unused), 2),
        "ratio": round(statistics.median(p / o for p, _, o in sides), 2),
        "ratio_as_published": round(statistics.median((p + u) / o for p, u, o in sides), 2),
        "goal": 5.0,
        "published_peak_gib": round(found["published"][-1]["peak_gib"], 2),
        "ours_peak_gib": round(found["bf16"][-1]["peak_gib"], 2),
        "difference_fp32": float(f"{difference:.1e}"),
    }
    print(" ".join(f"{key} {value}" for key, value in row.items()))
    if arguments.out is not None:
        write_rows(arguments.out, [row])


if __name__ == "__main__":
    main()
