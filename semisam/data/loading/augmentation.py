"""Changes of training patches: the published orientations, and a modern recipe without them.

The eight orientations of the plane are drawn uniformly.

The published code mirrors every patch (``np.flip`` after ``rot90``), so no training patch has the
orientation of the test images. Here the identity is one of eight; ``--augment mirrored`` draws the
published four.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

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
