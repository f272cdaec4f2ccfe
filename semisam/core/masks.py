"""Boxes and depths of masks that are arrays."""

from __future__ import annotations

import edt
import numpy as np
from numpy.typing import NDArray


def bounding_box(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """Return the smallest half-open box that holds a non-empty mask."""
    # Reducing the first axis reads memory in order and leaves little data for the other axes.
    flat: NDArray[np.bool_] = np.any(mask, axis=0)
    profiles: list[NDArray[np.bool_]] = [np.any(mask.reshape(mask.shape[0], -1), axis=1)]
    for axis in range(flat.ndim):
        profiles.append(np.any(flat, axis=tuple(a for a in range(flat.ndim) if a != axis)))
    hits = [np.flatnonzero(profile) for profile in profiles]
    return tuple(slice(int(hit[0]), int(hit[-1]) + 1) for hit in hits)


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
