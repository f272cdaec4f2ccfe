"""Patches that are zoomed, turned a little and bent: where their voxels come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from semisam.core.axes import LINEAR

_ZOOM = float(np.log(1.25))
_TURN = float(np.radians(15))
_BEND = 0.02  # standard deviation of a displacement, in the longest extent of the patch
_KNOTS = 5  # of the displacements along each axis


def draw_places(
    size: tuple[int, ...], rng: np.random.Generator, spacing: Sequence[float] | None = None
) -> NDArray[np.float32]:
    """Draw where the voxels of a zoomed, slightly turned and bent patch come from.

    The zoom of each axis is 0.8 to 1.25, the turn in each plane up to 15 degrees, and smooth
    displacements have a standard deviation of 2 % of the patch. No axis is mirrored. Turns and
    displacements are in mm, so that thick slices are not turned out of the scan.

    Args:
        size: of the patch, in voxels.
        rng: the random numbers.
        spacing: mm between voxels along each axis; ``None``: equal along all.

    Returns:
        ``(d, *size)`` voxels from the centre of the patch.
    """
    axes = len(size)
    centred = [np.arange(n, dtype=np.float32) - (n - 1) / 2 for n in size]
    grid = np.stack(np.meshgrid(*centred, indexing="ij"))
    matrix = np.diag(np.exp(rng.uniform(-_ZOOM, _ZOOM, axes)))
    for first in range(axes):
        for second in range(first + 1, axes):
            angle = rng.uniform(-_TURN, _TURN)
            turn = np.eye(axes)
            turn[[first, second], [first, second]] = np.cos(angle)
            turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
            matrix = turn @ matrix
    mm = np.ones(axes) if spacing is None else np.asarray(spacing, np.float64)
    ratio = mm / mm[:, None]
    matrix *= ratio
    # The longest extent in voxels of each axis.
    longest = np.max(np.asarray(size) * ratio, 1)
    knots = rng.standard_normal((1, axes, *[_KNOTS] * axes), np.float32)
    knots *= np.reshape(_BEND * longest, (-1, *[1] * axes)).astype(np.float32)
    bend = functional.interpolate(
        torch.from_numpy(knots), size, mode=LINEAR[axes], align_corners=True
    )
    turned = np.tensordot(matrix.astype(np.float32), grid, 1)
    return np.asarray(turned + bend[0].numpy(), np.float32)


def sample(
    volume: NDArray[Any], places: NDArray[np.float32], *, label: bool, around: int = 0
) -> NDArray[Any]:
    """Return the values of ``(C, *S)`` at ``(d, *P)`` voxel places, as ``(C, *P)``.

    Args:
        volume: an image, or a label whose classes must stay what they are.
        places: may be outside of the volume.
        label: take the nearest voxel instead of a linear mean.
        around: value outside of the volume.
    """
    flat = places.reshape(len(places), -1)
    # Only the box that holds the places is read.
    low = np.floor(flat.min(1)).astype(int)
    high = np.ceil(flat.max(1)).astype(int) + 1
    first = [min(max(a, 0), n - 1) for a, n in zip(low, volume.shape[1:], strict=True)]
    window = tuple(
        slice(a, min(max(b, a + 1), n))
        for a, b, n in zip(first, high, volume.shape[1:], strict=True)
    )
    box = np.ascontiguousarray(volume[(slice(None), *window)], np.float32) - around
    # Torch counts axes from the last, and from the outer faces of the first and the last voxel.
    grid = np.stack(
        [
            (2 * (p - a) + 1) / n - 1
            for p, a, n in zip(places[::-1], first[::-1], box.shape[:0:-1], strict=True)
        ],
        -1,
    )
    found = functional.grid_sample(
        torch.from_numpy(box)[None],
        torch.from_numpy(np.ascontiguousarray(grid, np.float32))[None],
        mode="nearest" if label else "bilinear",
        padding_mode="zeros",
        align_corners=False,
    )
    return np.asarray(found[0].numpy() + around).astype(volume.dtype, copy=False)
