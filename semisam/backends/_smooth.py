"""Edge-aware smoothing of log odds on a grid ``(*s)`` of two or three axes."""

from __future__ import annotations

import torch
from torch import Tensor

_ITERATIONS = 30


def smooth(
    odds: Tensor, pins: Tensor, pinned: Tensor, weights: tuple[Tensor, ...], smoothness: float
) -> Tensor:
    """Minimise ``sum (x - odds)^2 + smoothness sum w (x - x')^2`` by conjugate gradients.

    This is a random walker with a prior (Grady, CVPR 2005), on log odds. Clicked voxels stay near
    ``pins``. A few iterations suffice, because the prior holds the long-range part of the solution.
    No value is read back from a GPU.

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
    hold = torch.where(pinned, 3.0, 1 / smoothness)
    target = torch.where(pinned, pins, odds)

    def spread(flows: list[Tensor], rear: float) -> Tensor:
        total = torch.zeros_like(odds)
        for axis, flow in enumerate(flows):
            size = flow.shape[axis]
            total.narrow(axis, 0, size).add_(flow)
            total.narrow(axis, 1, size).add_(flow, alpha=rear)
        return total

    def apply(x: Tensor) -> Tensor:
        flows = [weight * x.diff(dim=axis) for axis, weight in enumerate(weights)]
        return hold * x - spread(flows, -1.0)

    diagonal = hold + spread(list(weights), 1.0)
    x = target
    residual = hold * target - apply(x)
    direction = scaled = residual / diagonal
    power = (residual * scaled).sum()
    for _ in range(_ITERATIONS):
        # Once the equations are solved, steps have length 0.
        image = apply(direction)
        length = power / (direction * image).sum().clamp_min(1e-12)
        x = x + length * direction
        residual = residual - length * image
        scaled = residual / diagonal
        before, power = power, (residual * scaled).sum()
        direction = scaled + power / before.clamp_min(1e-12) * direction
    return x
