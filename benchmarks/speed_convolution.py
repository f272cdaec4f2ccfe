"""Forward and backward of the V-Net with semisam's convolutions against PyTorch's, bf16, a CPU.

    python benchmarks/speed_convolution.py --out benchmarks/results/speed_convolution.csv

The same network, image and random numbers; processor time on one thread, medians over
``--repeats``. ``weights_equal`` says whether every gradient but those of biases is the
same bit for bit.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from rows import write_rows

from semisam.networks.convolution import speed_up
from semisam.networks.vnet import VNet
from semisam.training.allocator import keep_memory

SIZES = (((64, 64, 48), 4), ((112, 112, 80), 2))


def measure(fast, shape, batch, repeats):
    """Return the median seconds and the gradients of the last pass."""
    torch.manual_seed(0)
    net = VNet(1, {"logits": 2})
    if fast:
        speed_up(net)
    net.to(memory_format=torch.channels_last_3d)
    image = torch.randn(batch, 1, *shape).contiguous(memory_format=torch.channels_last_3d)
    seconds = []
    for _ in range(repeats + 1):
        torch.manual_seed(1)
        net.zero_grad()
        began = time.process_time()
        with torch.autocast("cpu", torch.bfloat16):
            loss = net(image)["logits"].square().mean()
        loss.backward()
        seconds.append(time.process_time() - began)
    weights = {n: p.grad for n, p in net.named_parameters() if not n.endswith("bias")}
    return statistics.median(seconds[1:]), weights


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    keep_memory()
    torch.set_num_threads(1)
    rows = []
    for shape, batch in SIZES:
        plain, theirs = measure(False, shape, batch, args.repeats)
        fast, ours = measure(True, shape, batch, args.repeats)
        row = {
            "patch": "x".join(map(str, shape)),
            "batch": batch,
            "pytorch_seconds": f"{plain:.2f}",
            "ours_seconds": f"{fast:.2f}",
            "ratio": f"{plain / fast:.2f}",
            "weights_equal": all(torch.equal(ours[name], theirs[name]) for name in ours),
        }
        print(*row.values(), flush=True)
        rows.append(row)
    write_rows(args.out, rows)


if __name__ == "__main__":
    main()
