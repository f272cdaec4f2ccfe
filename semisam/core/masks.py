"""Boxes and depths of masks that are arrays, and the overlap of two."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import edt
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Mask = TypeVar("Mask", NDArray[np.bool_], "Tensor")


def bounding_box(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """Return the smallest half-open box that holds a non-empty mask."""
    # Reducing the first axis reads memory in order and leaves little data for the other axes.
    flat: NDArray[np.bool_] = np.any(mask, axis=0)
    profiles: list[NDArray[np.bool_]] = [np.any(mask.reshape(mask.shape[0], -1), axis=1)]
    for axis in range(flat.ndim):
        profiles.append(np.any(flat, axis=tuple(a for a in range(flat.ndim) if a != axis)))
    hits = [np.flatnonzero(profile) for profile in profiles]
    return tuple(slice(int(hit[0]), int(hit[-1]) + 1) for hit in hits)


def dice(one: Mask, other: Mask, empty: float = 1.0) -> float:
    """Return the Dice overlap of two masks of any shape, which may be tensors.

    Args:
        one: a mask.
        other: a mask of the same shape.
        empty: the result if both are empty.
    """
    total = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / total if total else empty


def deepness(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return each inner voxel's distance to the border, which includes the array's edge.

    Args:
        mask: ``(*S)``, which may be empty.

    Returns:
        ``(*S)``, in voxels; 0 outside the mask.
    """
    deep = np.zeros(mask.shape, np.float32)
    if mask.any():
        # The distance is 0 outside the mask's box, and each face of the box is a border.
        box = bounding_box(mask)
        deep[box] = edt.edt(np.ascontiguousarray(mask[box]), black_border=True)
    return deep
