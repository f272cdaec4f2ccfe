"""Connected components of a mask and their deepest voxels."""

from __future__ import annotations

import edt
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor


def largest_component(mask: Tensor) -> Tensor:
    """Return the largest face-connected component of a non-empty ``(*S)`` bool mask."""
    whole = mask.cpu().numpy()
    box = _bounding_box(whole)
    pieces, _ = ndimage.label(whole[box])
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    largest = np.zeros(whole.shape, bool)
    largest[box] = pieces == sizes.argmax()
    return torch.from_numpy(largest).to(mask.device)


def deepest_points(mask: Tensor, count: int) -> Tensor:
    """Return the deepest voxels of a mask, spread over it.

    The depth is the distance to the nearest voxel outside. Each point counts as outside for the
    next, so several points spread. The image's edge is outside too, so the centre of a component
    cut by the patch is inside the patch. Of equally deep voxels the first in array order is taken:
    no random number is drawn.

    Args:
        mask: ``(*S)`` bool.
        count: number of points; fewer if the mask has fewer voxels.

    Returns:
        ``(n, d)`` int64 voxel indices with ``n <= count``, on the mask's device.
    """
    whole = mask.cpu().numpy()
    if not whole.any():
        return torch.empty((0, mask.ndim), dtype=torch.int64, device=mask.device)
    box = _bounding_box(whole)
    corner = [part.start for part in box]
    # Beyond the box all is outside, as beyond the border: depths equal those of the whole mask.
    left = np.array(whole[box], copy=True, order="C")
    points = []
    for _ in range(min(count, int(left.sum()))):
        depth = edt.edt(left, black_border=True)
        point = np.unravel_index(int(depth.argmax()), depth.shape)
        points.append(np.add(point, corner))
        left[point] = False
    found = torch.tensor(np.array(points, np.int64).reshape(-1, mask.ndim))
    return found.to(mask.device)


def _bounding_box(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """Return the smallest box around a non-empty mask."""
    box = []
    for axis in range(mask.ndim):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        inside = np.flatnonzero(mask.any(others))
        box.append(slice(int(inside[0]), int(inside[-1]) + 1))
    return tuple(box)
