"""Conversion of a prompt to voxels of a coarse grid ``(*s)``, ``stride`` image voxels per side."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from semisam.core.errors import InputError
from semisam.core.types import Prompt

Bools = NDArray[np.bool_]
Indices = NDArray[np.int64]


def check_prompt(prompt: Prompt, shape: tuple[int, ...]) -> None:
    """Check that a prompt fits an image of spatial shape ``(*S)``.

    Raises:
        InputError: the points, the box or the mask do not fit.
    """
    points, labels, box, mask = prompt.points, prompt.labels, prompt.box, prompt.mask
    d = len(shape)
    if points is not None:
        if labels is None or points.shape != (len(labels), d):
            got = tuple(points.shape), None if labels is None else tuple(labels.shape)
            raise InputError(
                f"points must be (N, {d}) with labels (N,), got {got[0]} and {got[1]}. Give each "
                "point one label and one index per axis."
            )
        size = torch.tensor(shape, device=points.device)
        if bool(((points < 0) | (points >= size)).any()):
            raise InputError(
                f"points must be in the image of shape {shape}, got {points.tolist()}. Give voxel "
                "indices in array order."
            )
    if box is not None and (box.shape != (2, d) or bool((box[0] >= box[1]).any())):
        raise InputError(
            f"a box must be (2, {d}) with the first corner below the second, got {box.tolist()}. "
            "The second corner is one past the last voxel."
        )
    if mask is not None and tuple(mask.shape) != shape:
        raise InputError(
            f"a mask must have the image's shape {shape}, got {tuple(mask.shape)}. Resample it."
        )


def clicks(prompt: Prompt, ndim: int) -> tuple[Indices, Indices]:
    """Return the positive and the negative points, ``(N, d)`` each; either may be empty."""
    if prompt.points is None or prompt.labels is None:
        none = np.empty((0, ndim), np.int64)
        return none, none
    points, positive = prompt.points.cpu().numpy(), prompt.labels.cpu().numpy() == 1
    return points[positive], points[~positive]


def mark(points: Indices, grid: tuple[int, ...]) -> Bools:
    """Return the ``(*s)`` mask of the voxels at ``points``, which are indices on the grid."""
    marked = np.zeros(grid, bool)
    marked[tuple(points.T)] = True
    return marked


def box_mask(box: torch.Tensor | None, grid: tuple[int, ...], stride: int) -> Bools:
    """Return the voxels that a half-open box touches; all voxels without a box."""
    if box is None:
        return np.ones(grid, bool)
    low, high = box.cpu().numpy()
    return _block(low // stride, -(-high // stride), grid)


def box_core(box: torch.Tensor | None, grid: tuple[int, ...], stride: int) -> Bools:
    """Return the middle third of a box along each axis; no voxel without a box."""
    if box is None:
        return np.zeros(grid, bool)
    low, high = (c.astype(float) / stride for c in box.cpu().numpy())
    first = np.floor(low + (high - low) / 3).astype(int).clip(0, np.array(grid) - 1)
    last = np.ceil(high - (high - low) / 3).astype(int)
    return _block(first, np.maximum(last, first + 1), grid)


def coarse_mask(mask: torch.Tensor, stride: int) -> Bools:
    """Return the coarse voxels over which a probability map ``(*S)`` averages above 0.5."""
    fine = mask.detach().float().cpu()[None, None]
    if stride > 1:
        pool = functional.avg_pool3d if mask.ndim == 3 else functional.avg_pool2d
        fine = pool(fine, stride, ceil_mode=True, count_include_pad=False)
    above: Bools = fine[0, 0].numpy() > 0.5
    return above


def _block(low: Indices, high: Indices, grid: tuple[int, ...]) -> Bools:
    block = np.zeros(grid, bool)
    block[tuple(slice(max(int(a), 0), int(b)) for a, b in zip(low, high, strict=True))] = True
    return block
