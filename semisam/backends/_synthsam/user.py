"""Simulated clicks, boxes, and proposals like those of poor networks."""

from __future__ import annotations

import math

import edt
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from semisam.core.masks import deepness

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]
Indices = NDArray[np.int64]


def click(region: Bools, rng: np.random.Generator, power: float = 2.0) -> Indices | None:
    """Return a voxel ``(d,)`` of the fine grid in the region's largest piece.

    Args:
        region: ``(2^d, *s)``, the subvoxels of each coarse voxel first.
        rng: the random numbers.
        power: a voxel's probability is proportional to this power of its depth inside the piece;
            infinite for the deepest voxel.

    Returns:
        The voxel, or None if the region is empty.
    """
    counts = region.sum(0)
    coarse = counts >= len(region) / 2
    if not coarse.any():
        coarse = counts > 0
        if not coarse.any():
            return None
    pieces, count = ndimage.label(coarse)
    if count > 1:
        sizes = np.bincount(pieces.ravel())
        sizes[0] = 0
        coarse = pieces == sizes.argmax()
    return fine(region, one(_chances(coarse, power), rng), rng)


def anywhere(region: Bools, rng: np.random.Generator) -> Indices | None:
    """Draw a voxel ``(d,)`` of the fine grid evenly from the region ``(2^d, *s)``."""
    inside = np.flatnonzero(region)
    if not len(inside):
        return None
    corner, *place = np.unravel_index(inside[rng.integers(len(inside))], region.shape)
    return np.asarray(2 * np.array(place) + _corner(corner, len(place)), np.int64)


def several(region: Bools, count: int, rng: np.random.Generator, power: float) -> Indices:
    """Draw up to ``count`` voxels ``(n, d)`` of the region ``(2^d, *s)``."""
    coarse = region.sum(0) >= len(region) / 2
    if count == 0 or not coarse.any():
        return np.empty((0, coarse.ndim), np.int64)
    weight = _chances(coarse, power)
    drawn = [fine(region, one(weight, rng), rng) for _ in range(count)]
    return np.unique(np.stack(drawn), axis=0)


def _chances(region: Bools, power: float) -> Floats:
    deep = deepness(region)
    if math.isinf(power):
        return np.asarray(deep == deep.max(), np.float32)
    return np.where(deep > 0, deep**power, 0).astype(np.float32)


def one(weight: Floats, rng: np.random.Generator) -> Indices:
    """Draw the place ``(d,)`` of a voxel with a probability proportional to ``weight``."""
    total = np.cumsum(weight.ravel(), dtype=np.float64)
    at = np.searchsorted(total, rng.uniform(0, total[-1]), side="right")
    return np.array(np.unravel_index(min(at, total.size - 1), weight.shape), np.int64)


def fine(region: Bools, place: Indices, rng: np.random.Generator) -> Indices:
    """Draw one of a coarse voxel's subvoxels in the region."""
    inside = np.flatnonzero(region[(slice(None), *place)])
    corner = _corner(inside[rng.integers(len(inside))], len(place))
    return np.asarray(2 * place + corner, np.int64)


def _corner(number: int, axes: int) -> Indices:
    """Return the offset ``(d,)`` of a subvoxel in its coarse voxel."""
    return np.array(np.unravel_index(number, (2,) * axes), np.int64)


def proposal(target: Bools, rng: np.random.Generator) -> Floats:
    """Draw a probability map like that of a poorly trained network for a target ``(*s)``.

    Smooth noise moves the target's surface, a shift moves all of it, and parts elsewhere are added.
    The sharpness of the surface is random.
    """
    axes = target.ndim
    extent = max(float(target.sum()) ** (1 / axes), 2.0)
    signed = edt.edt(np.ascontiguousarray(target)) - edt.edt(np.ascontiguousarray(~target))
    shift = rng.normal(0, 0.12 * extent, axes) if rng.random() < 0.5 else np.zeros(axes)
    noise = _smooth_noise(target.shape, rng.uniform(2, 6), rng)
    strength = rng.uniform(0.03, 0.4) * extent
    moved = np.roll(signed, tuple(round(s) for s in shift), tuple(range(axes))) + strength * noise
    moved = moved + rng.normal(0, 0.08) * extent
    if rng.random() < 0.4:
        extra = _smooth_noise(target.shape, rng.uniform(2, 5), rng) - rng.uniform(1.2, 2.5)
        moved = np.maximum(moved, extra * extent / 2)
    sharpness = rng.uniform(0.3, 3)
    odds = np.clip(sharpness * moved, -20, 20)
    return np.asarray(1 / (1 + np.exp(-odds)), np.float32)


def bounding_box(target: Bools, slack: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the box ``(2, d)`` of a fine mask, each side moved by up to ``slack`` voxels."""
    inside = np.argwhere(target)
    low = inside.min(0) + rng.integers(-slack, slack + 1, target.ndim)
    high = inside.max(0) + 1 + rng.integers(-slack, slack + 1, target.ndim)
    low = np.clip(low, 0, np.array(target.shape) - 1)
    return np.stack([low, np.clip(high, low + 1, target.shape)]).astype(np.int64)


def _smooth_noise(shape: tuple[int, ...], sigma: float, rng: np.random.Generator) -> Floats:
    noise = ndimage.gaussian_filter(rng.standard_normal(shape, np.float32), sigma)
    return np.asarray(noise / max(float(noise.std()), 1e-6), np.float32)
