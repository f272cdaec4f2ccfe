"""Dice and time per prompt of segmenters without weights, as substitutes for SAM.

    python benchmarks/classical_backends.py --data DIR --cases 16 \
        --out benchmarks/results/classical_backends_la_half.csv

``DIR`` holds ``train.list`` and ``<case>/mri_norm2.h5`` (left atrium scans, here at half the
published resolution). Only training scans are read. All settings were chosen on the first 16 of
the list, which are therefore skipped here. About 60 settings of ``Geodesic`` and its forerunners
were tried there, and one to three of every other candidate.

Clicks are simulated as a person makes them: in the largest piece of the larger error region, with a
higher probability inside. "5+5 points" are drawn at random in the label and near it, at once, as
``UncertaintyPoints`` draws them. "mask" is a deformed label, whose own Dice is in
``prompt_dice``. "box" is the label's box. Times are medians on one thread.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from pathlib import Path

import edt
import h5py
import numpy as np
import SimpleITK as sitk
import torch
from rows import write_rows
from scipy import ndimage
from skimage import segmentation

from semisam.backends.geodesic import Geodesic
from semisam.core.types import Prompt

CLICKS = (1, 2, 5, 10)
CROP = (64, 64, 48)
FAR = 30.0  # voxels from each positive click at which seeded candidates assume background


class _Coarse:
    """The common part of the candidates on a 2x coarser grid."""

    def encode(self, image):
        pooled = torch.nn.functional.avg_pool3d(
            image[None], 2, ceil_mode=True, count_include_pad=False
        )
        return image.shape[1:], ndimage.gaussian_filter(pooled[0, 0].numpy(), 0.7)

    def enlarge(self, odds, shape):
        odds = torch.from_numpy(np.ascontiguousarray(odds, np.float32))[None, None]
        full = torch.nn.functional.interpolate(odds, scale_factor=2, mode="trilinear")[0, 0]
        return full[tuple(slice(s) for s in shape)]

    def seeds(self, grid, prompt):
        """1 at positive clicks, 2 at negative ones and far from the positive ones."""
        positive = (prompt.points // 2)[prompt.labels == 1].numpy()
        away = np.ones(grid, bool)
        away[tuple(positive.T)] = False
        seeds = np.where(ndimage.distance_transform_edt(away) * 2 > FAR, 2, 0)
        for axis in range(3):
            np.moveaxis(seeds, axis, 0)[[0, -1]] = 2
        for point, label in zip((prompt.points // 2).tolist(), prompt.labels.tolist(), strict=True):
            seeds[tuple(point)] = 1 if label else 2
        return seeds


class RandomWalker(_Coarse):
    """scikit-image's random walker, background far from the clicks."""

    def segment(self, embedding, prompt):
        shape, grey = embedding
        seeds = self.seeds(grey.shape, prompt)
        found = segmentation.random_walker(
            grey, seeds, beta=1000, mode="cg_j", tol=1e-3, return_full_prob=True
        )
        return self.enlarge(np.asarray(found)[0] - 0.5, shape)


class Watershed(_Coarse):
    """Watershed of the gradient's magnitude from the same seeds."""

    def segment(self, embedding, prompt):
        shape, grey = embedding
        gradient = ndimage.gaussian_gradient_magnitude(grey, 1)
        found = segmentation.watershed(gradient, self.seeds(grey.shape, prompt))
        return self.enlarge(np.where(found == 1, 1.0, -1.0), shape)


class IntensityAndDistance(_Coarse):
    """A Gaussian in intensity and one in distance around each click, against a constant."""

    def segment(self, embedding, prompt):
        shape, grey = embedding
        grey = grey / max(grey.std(), 1e-6)
        odds = {0: [np.full(grey.shape, -2.0)], 1: [np.full(grey.shape, -99.0)]}
        index = np.indices(grey.shape)
        for point, label in zip((prompt.points // 2).tolist(), prompt.labels.tolist(), strict=True):
            square = sum((i - p) ** 2 for i, p in zip(index, point, strict=True))
            step = (grey - grey[tuple(point)]) / 0.4
            odds[label].append(-0.5 * (step**2 + square / 36) + 0.7 * (1 - label))
        ratio = np.logaddexp.reduce(odds[1]) - np.logaddexp.reduce(odds[0])
        return self.enlarge(ndimage.gaussian_filter(ratio.clip(-6, 6), 0.7), shape)


class Supervoxels:
    """SLIC supervoxels, each given to the click nearest in space and intensity."""

    def encode(self, image):
        grey = image[0].numpy()
        pieces = segmentation.slic(
            grey, n_segments=1500, compactness=0.1, channel_axis=None, start_label=0
        )
        flat, size = pieces.ravel(), np.maximum(np.bincount(pieces.ravel()), 1)
        place = np.stack([np.bincount(flat, i.ravel()) / size for i in np.indices(grey.shape)], 1)
        return pieces, place, np.bincount(flat, grey.ravel()) / size / max(grey.std(), 1e-6)

    def segment(self, embedding, prompt):
        pieces, place, mean = embedding
        at = prompt.points.numpy()
        space = np.linalg.norm(place[:, None] - at[None], axis=2) / 12
        apart = space + 2 * np.abs(mean[:, None] - mean[pieces[tuple(at.T)]][None])
        labels = prompt.labels.numpy()
        to_back = apart[:, labels == 0].min(1, initial=1.5)
        odds = to_back - apart[:, labels == 1].min(1, initial=99.0)
        return torch.from_numpy(odds[pieces].astype(np.float32))


class RegionGrowing:
    """SimpleITK's confidence-connected region; a voxel nearest to a negative click is out."""

    def encode(self, image):
        return sitk.CurvatureFlow(sitk.GetImageFromArray(image[0].numpy()), 0.0625, 3)

    def segment(self, embedding, prompt):
        clicks, labels = prompt.points.numpy(), prompt.labels.numpy()
        found = sitk.ConfidenceConnected(
            embedding,
            seedList=[tuple(int(i) for i in p[::-1]) for p in clicks[labels == 1]],
            numberOfIterations=2,
            multiplier=2.0,
            initialNeighborhoodRadius=2,
            replaceValue=1,
        )
        inside = sitk.GetArrayFromImage(found) > 0
        index = np.indices(inside.shape)
        apart = [sum((i - c) ** 2 for i, c in zip(index, p, strict=True)) for p in clicks]
        inside &= labels[np.argmin(apart, axis=0)] == 1
        return torch.from_numpy(np.where(inside, 1.0, -1.0).astype(np.float32))


# Every backend that is named, and whether it takes boxes and masks.
CANDIDATES = {
    "geodesic": (Geodesic, True),
    "geodesic, distance only": (lambda: Geodesic(intensity=0, smoothness=0), False),
    "geodesic, no smoothing": (lambda: Geodesic(smoothness=0), False),
    "geodesic, no intensity": (lambda: Geodesic(intensity=0), False),
    "random walker": (RandomWalker, False),
    "watershed": (Watershed, False),
    "intensity and distance": (IntensityAndDistance, False),
    "supervoxels": (Supervoxels, False),
    "region growing": (RegionGrowing, False),
}


def load(folder, cases, skip, split="train"):
    """Return (image, label) of a split's scans ``skip`` to ``skip + cases``."""
    volumes = []
    for case in (folder / f"{split}.list").read_text().split()[skip : skip + cases]:
        with h5py.File(folder / case / "mri_norm2.h5") as file:
            volumes.append((file["image"][:].astype(np.float32), file["label"][:] > 0))
    return volumes


def crop(image, label, rng):
    """Return a random crop as in training, padded with 0, with a good part of the target."""
    pads = [((c - s + 1) // 2, c - s - (c - s + 1) // 2) if s < c else (0, 0)
            for c, s in zip(CROP, image.shape, strict=True)]  # fmt: skip
    image, label = np.pad(image, pads), np.pad(label, pads)
    for _ in range(1000):
        low = [rng.integers(s - c + 1) for c, s in zip(CROP, image.shape, strict=True)]
        where = tuple(slice(a, a + c) for a, c in zip(low, CROP, strict=True))
        if label[where].sum() > 3000:
            return image[where].copy(), label[where].copy()
    raise ValueError("no crop holds 3000 voxels of the target")


def click(region, rng):
    """Return a voxel of the region's largest piece, the likelier the deeper inside it lies."""
    pieces, count = ndimage.label(region)
    if count > 1:
        sizes = np.bincount(pieces.ravel())
        sizes[0] = 0
        region = pieces == sizes.argmax()
    weight = edt.edt(np.ascontiguousarray(region), black_border=True).astype(float).ravel() ** 2
    at = rng.choice(weight.size, p=weight / weight.sum())
    return np.unravel_index(at, region.shape)


def draw(label, count, rng):
    """Return ``count`` positive voxels and as many negative ones near the label."""
    inside = np.argwhere(label)
    near = np.zeros_like(label)
    low, high = inside.min(0) - 4, inside.max(0) + 5
    near[tuple(slice(max(a, 0), b) for a, b in zip(low, high, strict=True))] = True
    outside = np.argwhere(near & ~label)
    points = np.concatenate(
        [x[rng.choice(len(x), count, replace=False)] for x in (inside, outside)]
    )
    return Prompt(points=torch.tensor(points), labels=torch.tensor([1] * count + [0] * count))


def deform(label, rng):
    """Return a proposal: the label's surface moved by smooth noise, with a soft edge."""
    signed = edt.edt(np.ascontiguousarray(label)) - edt.edt(np.ascontiguousarray(~label))
    noise = ndimage.gaussian_filter(rng.standard_normal(label.shape), 4)
    moved = (signed + 6 * noise / noise.std() - 1) / 1.5
    return (1 / (1 + np.exp(-moved))).astype(np.float32)


def dice(answer, label):
    return 2 * float((answer & label).sum()) / float(answer.sum() + label.sum())


class Record:
    """Collects Dice per prompt and the milliseconds of one candidate on one kind of volume."""

    def __init__(self, backend):
        self.backend, self.encode_ms, self.rows = backend, [], {}

    def encode(self, image):
        start = time.perf_counter()
        embedding = self.backend.encode(torch.from_numpy(image)[None])
        self.encode_ms.append(1e3 * (time.perf_counter() - start))
        return embedding

    def query(self, embedding, prompt, name, label, before=math.nan):
        start = time.perf_counter()
        logits = self.backend.segment(embedding, prompt)
        took = 1e3 * (time.perf_counter() - start)
        answer = logits.numpy() > 0
        if name:
            self.rows.setdefault(name, []).append((dice(answer, label), before, took))
        return answer


def interact(record, embedding, label, rng):
    """Ask with one click, then correct it click by click."""
    points, labels = [click(label, rng)], [1]
    for count in range(1, max(CLICKS) + 1):
        prompt = Prompt(points=torch.tensor(np.array(points)), labels=torch.tensor(labels))
        name = f"{count} click" + "s" * (count > 1) if count in CLICKS else None
        answer = record.query(embedding, prompt, name, label)
        missed, surplus = label & ~answer, answer & ~label
        sign = int(missed.sum() >= surplus.sum())
        if (error := missed if sign else surplus).any():
            points.append(click(error, rng))
            labels.append(sign)


def measure(make, volumes, more, seed):
    """Return the record of one candidate on ``volumes``."""
    record = Record(make())
    for number, (image, label) in enumerate(volumes):
        embedding = record.encode(image)
        interact(record, embedding, label, np.random.default_rng([seed, number, 0]))
        for count in (3, 5):
            prompt = draw(label, count, np.random.default_rng([seed, number, count]))
            record.query(embedding, prompt, f"{count}+{count} points", label)
        if more:
            mask = deform(label, np.random.default_rng([seed, number, 9]))
            prompt = Prompt(mask=torch.from_numpy(mask))
            record.query(embedding, prompt, "mask", label, dice(mask > 0.5, label))
            inside = np.argwhere(label)
            box = torch.tensor(np.stack([inside.min(0), inside.max(0) + 1]))
            record.query(embedding, Prompt(box=box), "box", label)
    return record


def table(name, kind, record):
    """Return and print a row for each prompt of a record."""
    rows = []
    for prompt, values in record.rows.items():
        scores, before, took = zip(*values, strict=True)
        rows.append({
            "backend": name,
            "volume": kind,
            "prompt": prompt,
            "cases": len(scores),
            "dice": round(statistics.mean(scores), 4),
            "dice_sd": round(statistics.pstdev(scores), 4),
            "prompt_dice": "" if math.isnan(before[0]) else round(np.mean(before), 4),
            "encode_ms": round(statistics.median(record.encode_ms), 1),
            "segment_ms": round(statistics.median(took), 1),
        })  # fmt: skip
        print(*rows[-1].values(), sep="\t", flush=True)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=16)
    parser.add_argument("--skip", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    whole = load(args.data, args.cases, args.skip)
    rng = np.random.default_rng(args.seed)
    kinds = {"crop 64x64x48": [crop(*volume, rng) for volume in whole], "whole": whole}
    rows = []
    for name, (make, more) in CANDIDATES.items():
        for kind, volumes in kinds.items():
            record = measure(make, volumes, more, args.seed)
            rows += table(name, kind, record)
    write_rows(args.out, rows)


if __name__ == "__main__":
    main()
