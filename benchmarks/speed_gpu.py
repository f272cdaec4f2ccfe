"""On one GPU: training steps and SAM's answers against the plain, published way.

    python benchmarks/speed_gpu.py [--out benchmarks/results/speed_gpu.csv]

- ``step``: 4 volumes of 112x112x80 (2 labeled), the published V-Net with 16 filters, SGD; the
  published step of ``speed_steps.py`` in fp32 as PyTorch computes it by default (its convolutions
  in TF32) against `Trainer.step` as it trains, in bf16. ``branch`` adds SemiSAM with synthsam and
  the default prompts, asked in every step; ``share`` is its part of the step.
- ``sam-med3d``: the image encoder of the published size as published, whose windows of 512 tokens
  are padded to 2,744, against the folded one, in fp32 and bf16.
- ``synthsam``: one image of 112x112x80, its encoding and an answer to one click.

Both sides of a row run in this process and take turns; figures are medians, and every timing waits
for the GPU.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import speed_steps
import torch
from rows import write_rows
from speed_sam_med3d import published_size, rounded

from semisam import plugins
from semisam.backends.synthsam import SynthSAM
from semisam.branch import SemiSAM
from semisam.trainer import Plan, Trainer
from semisam.types import Batch, Prompt

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "backends"))
from plain_sam_med3d import plain_encode

SHAPE = (112, 112, 80)
METHODS = ("supervised", "mt", "ua-mt", "dtc")


def timed(sides, repeats, warmup=5):
    """Return each side's median seconds, its last result and its peak memory in GiB."""
    times, results, peaks = {name: [] for name in sides}, {}, {}
    for turn in range(warmup + repeats):
        for name, call in sides.items():
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
            began = time.perf_counter()
            results[name] = call()
            torch.cuda.synchronize()
            if turn >= warmup:
                times[name].append(time.perf_counter() - began)
            peaks[name] = torch.cuda.max_memory_allocated() / 2**30
    return {name: statistics.median(t) for name, t in times.items()}, results, peaks


def published_step(name):
    """Return the published step of a method on the GPU."""
    step = speed_steps.PUBLISHED[name](name)
    step.framework.to("cuda")
    step.batch = Batch(step.batch.image.cuda(), step.batch.label.cuda())
    return step


class Ours:
    """The step as the trainer makes it."""

    def __init__(self, name, sam=False, precision="bf16"):
        torch.manual_seed(0)
        method = plugins.load("framework", name)
        framework = method(speed_steps._build, 2)
        if sam:
            prompter = plugins.load("prompter", "center-points")()
            framework = SemiSAM(framework, SynthSAM(), prompter, measure_every=0)
        batch = speed_steps._blobs()
        few = not framework.uses_unlabeled
        self.batch = Batch(batch.image[:2], batch.label) if few else batch
        plan = Plan(iterations=speed_steps.STEPS, precision=precision, device="cuda")
        self.trainer = Trainer(framework, None, plan, Path(tempfile.mkdtemp()))
        self.trainer.framework.train()
        self.step, self.sam_seconds = 0, []

    def __call__(self):
        figures = self.trainer.step(self.batch, self.step)
        self.sam_seconds.append(figures.get("sam_seconds", 0.0))
        self.step += 1
        return figures["loss"]


def step_rows(methods, repeats):
    """Measure a training step of each method."""
    speed_steps.SHAPE = SHAPE
    for name in methods:
        branch = Ours(name, sam=True)
        sides = {"published": published_step(name), "ours": Ours(name), "branch": branch}
        seconds, _, peaks = timed(sides, repeats)
        share = statistics.median(branch.sam_seconds[-repeats:]) / seconds["branch"]
        for side, value in seconds.items():
            yield {
                "what": f"step of {name}",
                "side": side,
                "milliseconds": round(1e3 * value, 2),
                "ratio": round(seconds["published"] / value, 2),
                "peak_gib": round(peaks[side], 2),
                "share": round(share, 2) if side == "branch" else "",
            }


@torch.inference_mode()
def sam_med3d_rows(repeats):
    """Measure SAM-Med3D's image encoder."""
    net = published_size().cuda()
    half, image = rounded(net), torch.randn(1, 1, 128, 128, 128, device="cuda")
    sides = {
        "published": lambda: plain_encode(net.image_encoder, image),
        "fp32": lambda: net.encode(image),
        "bf16": lambda: half.encode(image),
    }
    seconds, _, peaks = timed(sides, repeats)
    for side, value in seconds.items():
        yield {
            "what": "sam-med3d, encoding",
            "side": side,
            "milliseconds": round(1e3 * value, 2),
            "ratio": round(seconds["published"] / value, 2),
            "peak_gib": round(peaks[side], 2),
            "share": "",
        }


def synthsam_rows(repeats):
    """Measure synthsam's two parts."""
    backend = SynthSAM()
    image = torch.randn(1, *SHAPE, device="cuda")
    embedding = backend.encode(image)
    click = Prompt(points=torch.tensor([[50, 50, 40]]), labels=torch.tensor([1]))
    sides = {
        "encoding": lambda: backend.encode(image),
        "answer": lambda: backend.segment(embedding, click),
    }
    seconds, _, peaks = timed(sides, repeats)
    for side, value in seconds.items():
        yield {
            "what": "synthsam",
            "side": side,
            "milliseconds": round(1e3 * value, 2),
            "ratio": "",
            "peak_gib": round(peaks[side], 2),
            "share": "",
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("a GPU is required, got none: speed_steps.py is for a CPU")
    rows, name = [], torch.cuda.get_device_name()
    for part in (
        step_rows(arguments.methods.split(","), arguments.repeats),
        sam_med3d_rows(arguments.repeats),
        synthsam_rows(arguments.repeats),
    ):
        for row in part:
            rows.append({"gpu": name, **row, "torch": torch.__version__})
            print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    if arguments.out is not None:
        write_rows(arguments.out, rows)


if __name__ == "__main__":
    main()
