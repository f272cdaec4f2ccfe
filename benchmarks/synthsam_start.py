"""SynthSAM's weights as the start of a supervised segmenter from few labels, without flips.

    python benchmarks/synthsam_start.py --data DIR --labels 1,2,4 --seeds 0,1,2 \
        --weights old=OLD.safetensors,new=NEW.safetensors \
        --out benchmarks/results/synthsam_start.csv

``DIR`` is laid out as for ``zero_shot.py``. The first N scans of ``train.list`` are the labeled
ones, its last 16 are scored; the test scans are not read. The network is SynthSAM's, both halves,
under the prompt of a user who has given none. Two crops of 64x64x48 a step; zoom per axis, gamma,
noise and blur; Dice loss and cross-entropy; AdamW, averaged weights. ``random`` as a file is a
random start.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from classical_backends import load
from rows import write_rows
from scipy import ndimage
from torch.nn import functional

from semisam.backends._synthsam.prompts import CHANNELS
from semisam.backends._synthsam.session import prediction_loss
from semisam.core.masks import dice
from semisam.networks._synthsam import SynthSAMNet, from_subvoxels, to_subvoxels
from semisam.networks._synthsam_weights import load_weights
from semisam.networks.convolution import guard_convolutions

CROP = (64, 64, 48)
SCORED = 16
STEPS = {1: 400, 2: 400, 4: 600}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", required=True, metavar="NAME=FILE,...")
    parser.add_argument("--labels", default="1,2,4")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--scored", type=int, default=SCORED, help="scans scored, at most 16")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    first = 80 - SCORED
    held = load(args.data, args.scored, first, "train")
    rows = []
    for labels in map(int, args.labels.split(",")):
        labeled = load(args.data, labels, 0, "train")
        for seed in map(int, args.seeds.split(",")):
            for name, file in (pair.split("=") for pair in args.weights.split(",")):
                began = time.process_time()
                net = train(labeled, file, STEPS[labels], seed)
                scores = 100 * np.array([score(net, *case) for case in held])
                rows.append(
                    {
                        "weights": name,
                        "labels": labels,
                        "seed": seed,
                        "steps": STEPS[labels],
                        "dice": round(float(scores.mean()), 2),
                        "dice_min": round(float(scores.min()), 2),
                        "scans": len(scores),
                        "core_seconds": round(time.process_time() - began),
                    }
                )
                print(rows[-1], flush=True)
                write_rows(args.out, rows)


def train(labeled, file, steps, seed):
    """Return the averaged network after ``steps`` steps on (image, label) pairs."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    net, average = SynthSAMNet(), SynthSAMNet()
    if file != "random":
        net.load_state_dict(load_weights(Path(file)))
    average.load_state_dict(net.state_dict())
    guard_convolutions(net)
    rate = 1e-3 if file == "random" else 3e-4
    optimizer = torch.optim.AdamW(net.parameters(), rate, (0.9, 0.99), weight_decay=0.02)
    for step in range(steps):
        fall = min(1, (steps - step) / (0.4 * steps))
        optimizer.param_groups[0]["lr"] = rate * min(1, (step + 1) / 30) * fall
        pairs = [crop(*labeled[rng.integers(len(labeled))], rng) for _ in range(2)]
        images = torch.from_numpy(np.stack([image for image, _ in pairs]))[:, None]
        labels = torch.from_numpy(np.stack([label for _, label in pairs]))[:, None]
        loss = prediction_loss(forward(net, images), to_subvoxels(labels.float()))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            for mean, value in zip(average.parameters(), net.parameters(), strict=True):
                mean.lerp_(value, 1 - min(0.98, (1 + step) / (10 + step)))
    return average.eval()


def forward(net, images):
    """Return the logits ``(B, 8, *s)`` of images ``(B, 1, *S)`` without a prompt."""
    with torch.autocast("cpu", torch.bfloat16):
        features = net.encode(images)
        prompt = images.new_zeros(len(images), CHANNELS, *features.levels[0].shape[2:])
        return net.decode(features, prompt, [[[], []]] * len(images))


@torch.no_grad()
def score(net, image, label):
    """Return the Dice of a whole scan."""
    pads = [(0, n % 2) for n in image.shape]
    volume = torch.from_numpy(np.pad(standard(image), pads, mode="edge"))[None, None]
    fine = from_subvoxels(forward(net, volume))[0, 0].numpy()
    return dice(fine[tuple(slice(n) for n in label.shape)] > 0, label)


def crop(image, label, rng):
    """Return a crop, zoomed and of changed appearance, with at least 0.3 % foreground."""
    zoom = np.exp(rng.uniform(np.log(0.8), np.log(1.25), 3))
    size = [round(c / z) for c, z in zip(CROP, zoom, strict=True)]
    pads = [(0, max(0, c - n)) for c, n in zip(size, image.shape, strict=True)]
    image, label = np.pad(image, pads, mode="edge"), np.pad(label, pads)
    for _ in range(50):
        low = [rng.integers(n - c + 1) for c, n in zip(size, image.shape, strict=True)]
        where = tuple(slice(a, a + c) for a, c in zip(low, size, strict=True))
        if label[where].mean() > 0.003:
            break
    both = torch.from_numpy(np.stack([image[where], label[where].astype(np.float32)]))
    part, inside = functional.interpolate(both[None], size=CROP, mode="trilinear")[0].numpy()
    low, high = part.min(), part.max()
    part = ((part - low) / max(high - low, 1e-6)) ** np.exp(rng.uniform(np.log(0.7), np.log(1.4)))
    part = ndimage.gaussian_filter(part, rng.uniform(0, 1) if rng.random() < 0.5 else 0)
    part = standard(part) + rng.uniform(0, 0.3) * rng.standard_normal(CROP)
    return standard(part), inside > 0.5


def standard(image):
    """Return an image of zero mean and unit deviation."""
    return ((image - image.mean()) / max(float(image.std()), 1e-6)).astype(np.float32)


if __name__ == "__main__":
    main()
