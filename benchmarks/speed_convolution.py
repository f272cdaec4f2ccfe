"""SynthSAM in float32 with oneDNN's convolutions, against those that PyTorch chooses.

    python benchmarks/speed_convolution.py [--out benchmarks/results/speed_convolution.csv]

One image at a time, as the SemiSAM branch, ``click`` and the first masks of ``auto`` query it. See
`semisam.networks.convolution`. Each ratio is of processor time of one thread, and the two sides
take turns. ``difference`` is the largest one of the logits, relative to the largest logit. The last
row is a whole step of ``fixmatch`` with ``--sam synthsam`` on 2 + 2 patches of phantoms.
"""

from __future__ import annotations

import argparse
import statistics
import time
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import torch
from rows import write_rows

from semisam.backends.synthsam import SynthSAM
from semisam.core.types import Prompt
from semisam.networks.convolution import GuardedConv3d
from semisam.networks.precision import computes_bf16
from semisam.run.pace import pace_of
from semisam.run.request import settings

SIZES = {"a patch": (48, 48, 32), "a patch of la_half": (64, 64, 48), "a scan": (116, 76, 44)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if computes_bf16(torch.device("cpu")):
        raise SystemExit("This machine computes in bfloat16, where PyTorch always uses oneDNN.")
    rows = []
    for name, size in SIZES.items():
        rows += [
            row(f"{part}, {name}", size, *sides(arguments.repeats, call))
            for part, call in parts(size).items()
        ]
    step = {side: [] for side in SIDES}
    for _ in range(2):
        for side, patched in SIDES.items():
            with patched():
                step[side].append(step_seconds())
    rows.append(row("a step of fixmatch + synthsam", (48, 48, 32), *map(min, step.values())))
    if arguments.out is not None:
        write_rows(arguments.out, rows)


def parts(size):
    """Return the calls that are timed, by name; each returns its output."""
    model, image = SynthSAM(), torch.randn(1, *size, generator=torch.Generator().manual_seed(0))
    embedding = model.encode(image)
    prompt = Prompt(mask=(image[0] > 0).float())
    return {
        "encode": lambda: model.encode(image).features.levels[0],
        "segment": lambda: model.segment(embedding, prompt),
    }


def sides(repeats, call):
    """Return the seconds with PyTorch's choice and with oneDNN, and how far the outputs differ."""
    times, outputs = {side: [] for side in SIDES}, {}
    for turn in range(repeats + 1):
        for side, patched in SIDES.items():
            with patched():
                began = time.process_time()
                outputs[side] = call()
                if turn:  # the first one warms up
                    times[side].append(time.process_time() - began)
    one, other = (output.float() for output in outputs.values())
    apart = float((one - other).abs().max() / one.abs().max())
    return *map(statistics.median, times.values()), apart


def step_seconds():
    return pace_of(
        settings(
            method="fixmatch",
            labels=2,
            sam="synthsam",
            sam_adapt=0,
            iterations=100,
            patch=(48, 48, 32),
            device="cpu",
        )
    ).seconds


def row(what, size, pytorch, onednn, difference=None):
    found = {
        "what": what,
        "size": "x".join(map(str, size)),
        "pytorch_seconds": round(pytorch, 4),
        "onednn_seconds": round(onednn, 4),
        "ratio": round(pytorch / onednn, 2),
        "difference": "" if difference is None else f"{difference:.1g}",
    }
    print(found, flush=True)
    return found


SIDES = {
    "pytorch": lambda: mock.patch.object(GuardedConv3d, "_may_be_slow", lambda *_: False),
    "onednn": nullcontext,
}


if __name__ == "__main__":
    main()
