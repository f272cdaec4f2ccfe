"""Speed of SAM-Med3D against the published way, in one run, at the published size.

    python benchmarks/speed_sam_med3d.py [--threads 1,2] [--clock wall] \
        [--out benchmarks/results/speed_sam_med3d.csv]

ViT-B on a cube of 128 voxels per axis, random weights: the time does not depend on them.

- ``encode``: the image encoder as published, which pads windows of 512 tokens to 2,744 (written
  out in ``tests/plain_sam_med3d.py``), against the one that folds the padding into one
  token, in fp32 and bf16. ``difference`` is the largest of the two embeddings, ``size`` the
  largest number in the plain one.
- ``answer``: 8 prompts on one image, one after the other against all together.

Sides take turns, so that a drift of the machine's speed meets both; figures are medians.
``--clock process`` counts the processor's time, for a machine that other work shares, and is
meant for one thread.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from pathlib import Path

import torch
from rows import write_rows

from semisam.backends._sam_med3d.decoder import MaskDecoder
from semisam.backends._sam_med3d.encoder import ImageEncoder
from semisam.backends._sam_med3d.network import SamMed3DNet
from semisam.backends._sam_med3d.prompts import PromptEncoder

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from plain_sam_med3d import plain_encode

PROMPTS = 8


def published_size():
    """Return the network with the published sizes and random weights."""
    torch.manual_seed(0)
    windows = tuple(8 if i % 3 == 2 else 14 for i in range(12))
    net = SamMed3DNet(
        ImageEncoder(width=768, heads=12, hidden=3072, out=384, patch=16, grid=8, windows=windows),
        PromptEncoder(width=384, hidden=16, grid=8, size=128),
        MaskDecoder(width=384, inner=192, hidden=2048, quality_hidden=256),
    )
    for name, parameter in net.named_parameters():
        if "rel_pos" in name or "pos_embed" in name:
            parameter.data.normal_(0, 0.1)
    net.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix.normal_()
    return net.eval().requires_grad_(False)


def rounded(net):
    """Return a copy whose encoder computes in bf16."""
    other = copy.deepcopy(net)
    for module in other.image_encoder.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv3d):
            module.to(torch.bfloat16)
    return other


def compare(sides, repeats, clock):
    """Return each side's median seconds and its last result; sides take turns."""
    times, results = {name: [] for name in sides}, {}
    for turn in range(repeats + 1):
        for name, call in sides.items():
            began = clock()
            results[name] = call()
            if turn:  # the first warms up
                times[name].append(clock() - began)
    return {name: statistics.median(values) for name, values in times.items()}, results


def rows_of(threads, clock_name, repeats):
    """Measure on so many threads."""
    torch.set_num_threads(threads)
    clock = time.process_time if clock_name == "process" else time.perf_counter
    net = published_size()
    half = rounded(net)
    image = torch.randn(1, 1, 128, 128, 128)
    sides = {
        "plain fp32": lambda: plain_encode(net.image_encoder, image),
        "folded fp32": lambda: net.encode(image),
        "folded bf16": lambda: half.encode(image),
    }
    seconds, found = compare(sides, repeats, clock)
    common = {"threads": threads, "clock": clock_name}
    plain = found["plain fp32"]
    for name, value in seconds.items():
        yield {
            **common,
            "what": "encode",
            "side": name,
            "seconds": f"{value:.3f}",
            "ratio": f"{seconds['plain fp32'] / value:.2f}",
            "difference": f"{float((found[name] - plain).abs().max()):.2g}",
            "size": f"{float(plain.abs().max()):.3g}",
        }
    embedding = found["folded fp32"]
    points, labels = torch.randint(0, 128, (PROMPTS, 5, 3)), torch.randint(0, 2, (PROMPTS, 5))
    mask = torch.zeros(PROMPTS, 1, 32, 32, 32)
    sides = {
        "one by one": lambda: torch.cat(
            [
                net.decode(embedding, points[i : i + 1], labels[i : i + 1], mask[i : i + 1])
                for i in range(PROMPTS)
            ]
        ),
        "together": lambda: net.decode(embedding, points, labels, mask),
    }
    seconds, found = compare(sides, 3 * repeats, clock)
    one = found["one by one"]
    for name, value in seconds.items():
        yield {
            **common,
            "what": f"answer {PROMPTS} prompts",
            "side": name,
            "seconds": f"{value:.3f}",
            "ratio": f"{seconds['one by one'] / value:.2f}",
            "difference": f"{float((found[name] - one).abs().max()):.2g}",
            "size": f"{float(one.abs().max()):.3g}",
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--clock", choices=("wall", "process"), default="wall")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows = []
    with torch.inference_mode():
        for threads in map(int, arguments.threads.split(",")):
            for row in rows_of(threads, arguments.clock, arguments.repeats):
                print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
                rows.append(row)
    if arguments.out is not None:
        write_rows(arguments.out, rows)


if __name__ == "__main__":
    main()
