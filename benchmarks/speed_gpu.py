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
import time
from pathlib import Path

import speed_steps
import torch
from rows import write_rows
from speed_sam_med3d import published_size, rounded

from semisam.backends.synthsam import SynthSAM
from semisam.core.types import Batch, Prompt
from semisam.frameworks.semisam import SemiSAM
from semisam.plugins import registry

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from plain_sam_med3d import plain_encode

SHAPE = (112, 112, 80)
METHODS = ("supervised", "mt", "ua-mt", "dtc")


def timed(sides, repeats, warmup=5):
    """Return each side's median seconds and its peak memory in GiB; sides take turns."""
    times, peaks = {name: [] for name in sides}, {}
    for turn in range(warmup + repeats):
        for name, call in sides.items():
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
            began = time.perf_counter()
            call()
            torch.cuda.synchronize()
            if turn >= warmup:
                times[name].append(time.perf_counter() - began)
            peaks[name] = torch.cuda.max_memory_allocated() / 2**30
    return {name: statistics.median(t) for name, t in times.items()}, peaks


def published_step(name):
    """Return the published step of a method on the GPU."""
    step = speed_steps.PUBLISHED[name](name)
    step.framework.to("cuda")
    step.batch = Batch(step.batch.image.cuda(), step.batch.label.cuda())
    return step


def with_sam(framework):
    """Return a method with the branch of the default protocol's prompts around it."""
    prompter = registry.load("prompter", "center-points")()
    return SemiSAM(framework, SynthSAM(), prompter, measure_every=0)


def rows_of(what, sides, repeats, plain=None, share=lambda side, seconds: ""):
    """Yield a row for each side; ``plain`` is the one that ratios are against."""
    times, peaks = timed(sides, repeats)
    for side, value in times.items():
        yield {
            "what": what,
            "side": side,
            "milliseconds": round(1e3 * value, 2),
            "ratio": round(times[plain] / value, 2) if plain else "",
            "peak_gib": round(peaks[side], 2),
            "share": share(side, value),
        }


def step_rows(methods, repeats):
    """Measure a training step of each method."""
    speed_steps.SHAPE = SHAPE
    for name in methods:
        branch, asked = speed_steps._Ours(name, "bf16", "cuda", with_sam), []

        def step(branch=branch, asked=asked):
            branch()
            asked.append(branch.figures["sam_seconds"])

        def share(side, seconds, asked=asked):
            part = statistics.median(asked[-repeats:]) / seconds
            return round(part, 2) if side == "branch" else ""

        ours = speed_steps._Ours(name, "bf16", "cuda")
        sides = {"published": published_step(name), "ours": ours, "branch": step}
        yield from rows_of(f"step of {name}", sides, repeats, "published", share)


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
    yield from rows_of("sam-med3d, encoding", sides, repeats, "published")


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
    yield from rows_of("synthsam", sides, repeats)


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
