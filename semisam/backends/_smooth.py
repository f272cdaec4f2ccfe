"""Edge-aware smoothing of log odds on a grid ``(*s)`` of two or three axes."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semisam.backends._seeds import Bools

Floats = NDArray[np.float32]

_ITERATIONS = 30


def smooth(
    odds: Floats,
    pins: Floats,
    pinned: Bools,
    weights: tuple[Floats, ...],
    smoothness: float,
) -> Floats:
    """Minimise ``sum (x - odds)^2 + smoothness sum w (x - x')^2`` by conjugate gradients.

    This is a random walker with a prior (Grady, CVPR 2005), on log odds. Clicked voxels stay near
    ``pins``. A few iterations suffice, because the prior holds the long-range part of the solution.

    Args:
        odds: ``(*s)`` the prior ``odds``.
        pins: ``(*s)`` the log odds of clicked voxels.
        pinned: ``(*s)`` bool, the clicked voxels.
        weights: per axis, the coupling of face neighbours, one shorter along that axis.
        smoothness: weight of the coupling; 0 returns the odds unchanged.

    Returns:
        ``(*s)`` log odds.
    """
    if smoothness == 0:
        return odds
    hold = np.where(pinned, 3 * smoothness, 1).astype(np.float32) / np.float32(smoothness)
    target = np.where(pinned, pins, odds).astype(np.float32)
    diagonal = hold + _neighbours(weights, odds.shape)

    def apply(x: Floats) -> Floats:
        y = hold * x
        for axis, weight in enumerate(weights):
            flow = weight * np.diff(x, axis=axis)
            front, rear = _halves(axis, x.ndim)
            y[front] -= flow
            y[rear] += flow
        return y

    x = target.copy()
    residual = hold * target - apply(x)
    scaled = residual / diagonal
    direction = scaled.copy()
    power = float(np.vdot(residual, scaled))
    for _ in range(_ITERATIONS):
        if power < 1e-8:
            break
        image = apply(direction)
        length = np.float32(power / float(np.vdot(direction, image)))
        x += length * direction
        residual -= length * image
        scaled = residual / diagonal
        before, power = power, float(np.vdot(residual, scaled))
        direction = scaled + np.float32(power / before) * direction
    return np.asarray(x, np.float32)


def smooth_tensors(
    odds: Tensor, pins: Tensor, pinned: Tensor, weights: tuple[Tensor, ...], smoothness: float
) -> Tensor:
    """Smooth as `smooth` does, with positive ``smoothness`` and no transfer from the GPU."""
    hold = torch.where(pinned, 3.0, 1 / smoothness)
    target = torch.where(pinned, pins, odds)
    shifts = [(w, axis, odds.shape[axis] - 1) for axis, w in enumerate(weights)]

    def spread(flows: list[Tensor], rear: float) -> Tensor:
        total = torch.zeros_like(odds)
        for (_, axis, size), flow in zip(shifts, flows, strict=True):
            total.narrow(axis, 0, size).add_(flow)
            total.narrow(axis, 1, size).add_(flow, alpha=rear)
        return total

    def apply(x: Tensor) -> Tensor:
        flows = [weight * x.diff(dim=axis) for weight, axis, _ in shifts]
        return hold * x - spread(flows, -1.0)

    diagonal = hold + spread(list(weights), 1.0)
    x = target
    residual = hold * target - apply(x)
    direction = scaled = residual / diagonal
    power = (residual * scaled).sum()
    for _ in range(_ITERATIONS):
        # No number is transferred to test for the end: once solved, steps have length 0.
        image = apply(direction)
        length = power / (direction * image).sum().clamp_min(1e-12)
        x = x + length * direction
        residual = residual - length * image
        scaled = residual / diagonal
        before, power = power, (residual * scaled).sum()
        direction = scaled + power / before.clamp_min(1e-12) * direction
    return x


def _halves(axis: int, ndim: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return the indices of all but the last and all but the first along ``axis``."""
    whole = [slice(None)] * ndim
    front, rear = whole.copy(), whole.copy()
    front[axis], rear[axis] = slice(None, -1), slice(1, None)
    return tuple(front), tuple(rear)


def _neighbours(weights: tuple[Floats, ...], grid: tuple[int, ...]) -> Floats:
    total = np.zeros(grid, np.float32)
    for axis, weight in enumerate(weights):
        front, rear = _halves(axis, len(grid))
        total[front] += weight
        total[rear] += weight
    return total
