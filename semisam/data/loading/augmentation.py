"""Changes of training patches: the published orientations, and a modern recipe without them.

The eight orientations of the plane are drawn uniformly.

The published code mirrors every patch (``np.flip`` after ``rot90``), so no training patch has the
orientation of the test images. Here the identity is one of eight.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional

_ZOOM = float(np.log(1.25))
_TURN = float(np.radians(15))
_BEND = 0.02  # standard deviation of a displacement, in the longest extent of the patch
_KNOTS = 5  # of the displacements along each axis
_LINEAR = {2: "bilinear", 3: "trilinear"}
_GAMMA = (float(np.log(0.7)), float(np.log(1.4)))
_NOISE = 0.3

ORIENTATIONS = 8
"""Number of orientations: 0 to 3 are quarter turns (0 the identity), 4 to 7 are mirrored too."""


def draw_orientation(rng: np.random.Generator) -> int:
    """Draw one of the eight orientations uniformly, the identity included."""
    return int(rng.integers(ORIENTATIONS))


def orient(array: NDArray[Any], orientation: int, axes: tuple[int, int] = (0, 1)) -> NDArray[Any]:
    """Return a view of an array, rotated and mirrored in the plane of two axes.

    Args:
        array: any shape; an image ``(C, *S)`` takes ``axes=(1, 2)``.
        orientation: 0 to 7, see `ORIENTATIONS`.
        axes: the two axes of the plane.

    Raises:
        ValueError: the orientation is not in 0 to 7.
    """
    if not 0 <= orientation < ORIENTATIONS:
        raise ValueError(f"orientation must be 0 to {ORIENTATIONS - 1}, got {orientation}.")
    turned = np.rot90(array, orientation % 4, axes)
    return np.flip(turned, axes[0]) if orientation >= 4 else turned


def shape_before(shape: tuple[int, ...], orientation: int) -> tuple[int, ...]:
    """Return the spatial shape to crop so that `orient` turns it into ``shape``."""
    return (shape[1], shape[0], *shape[2:]) if orientation % 2 else shape


def draw_places(size: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw where the voxels of a zoomed, slightly turned and bent patch come from.

    The zoom of each axis is 0.8 to 1.25, the turn in each plane up to 15 degrees, and smooth
    displacements have a standard deviation of 2 % of the patch. No axis is mirrored.

    Args:
        size: of the patch, in voxels.
        rng: the random numbers.

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
    knots = _BEND * max(size) * rng.standard_normal((1, axes, *[_KNOTS] * axes), np.float32)
    bend = functional.interpolate(
        torch.from_numpy(knots), size, mode=_LINEAR[axes], align_corners=True
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


def change_looks(image: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a patch ``(C, *S)`` of another contrast, sharpness and noise.

    Each channel keeps its range of values under a gamma from 0.7 to 1.4. Half of the patches are
    blurred by up to one voxel. Noise has up to 0.3 of the channel's standard deviation.
    """
    made = np.empty_like(image)
    for channel, out in zip(image, made, strict=True):
        low, high = float(channel.min()), float(channel.max())
        wide = max(high - low, 1e-6)
        gamma = np.exp(rng.uniform(*_GAMMA))
        changed = low + wide * ((channel - low) / wide) ** gamma
        if rng.random() < 0.5:
            changed = ndimage.gaussian_filter(changed, rng.uniform(0, 1), truncate=3.0)
        strength = rng.uniform(0, _NOISE) * float(channel.std())
        out[...] = changed + strength * rng.standard_normal(channel.shape, np.float32)
    return made
