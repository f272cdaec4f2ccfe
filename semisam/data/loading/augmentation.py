"""The eight orientations of the plane, each as likely as any other.

The published code mirrors every patch (``np.flip`` after ``rot90``), so that the orientation of
the test images is seen in training only by way of the rotations of the mirror image, that is
never. Here the identity is one of eight.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

ORIENTATIONS = 8
"""0 to 3: that many quarter turns; 4 to 7: the same, then mirrored. 0 is the identity."""


def draw_orientation(rng: np.random.Generator) -> int:
    """Draw one of the eight orientations uniformly, the identity included."""
    return int(rng.integers(ORIENTATIONS))


def orient(array: NDArray[Any], orientation: int, axes: tuple[int, int] = (0, 1)) -> NDArray[Any]:
    """Turn and mirror an array in the plane of two axes; returns a view.

    Args:
        array: any shape; an image ``(C, *S)`` takes ``axes=(1, 2)``.
        orientation: 0 to 7, see `ORIENTATIONS`.
        axes: the two axes of the plane.

    Raises:
        ValueError: the orientation is not in 0 to 7.
    """
    if not 0 <= orientation < ORIENTATIONS:
        raise ValueError(f"orientation must be 0 to {ORIENTATIONS - 1}, got {orientation}")
    turned = np.rot90(array, orientation % 4, axes)
    return np.flip(turned, axes[0]) if orientation >= 4 else turned


def shape_before(shape: tuple[int, ...], orientation: int) -> tuple[int, ...]:
    """Return the spatial shape to crop so that `orient` turns it into ``shape``."""
    return (shape[1], shape[0], *shape[2:]) if orientation % 2 else shape
