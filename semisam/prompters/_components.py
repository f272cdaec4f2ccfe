"""Pieces of a mask and their middles."""

from __future__ import annotations

import edt
import numpy as np
import torch
from scipy import ndimage
from torch import Tensor


def largest_component(mask: Tensor) -> Tensor:
    """Return the largest face-connected piece of a non-empty ``(*S)`` bool mask."""
    pieces, count = ndimage.label(mask.cpu().numpy())
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    sizes[0] = 0
    return torch.from_numpy(pieces == sizes.argmax()).to(mask.device)


def deepest_points(mask: Tensor, count: int) -> Tensor:
    """Return the voxel farthest from the mask's outside, then those farthest from it as well.

    Each point counts as outside for the next, so that several spread over the mask. The image's
    edge is outside too: a piece cut off by the patch has its middle inside the patch. Of voxels
    equally deep the first in array order is taken: no random number is drawn.

    Args:
        mask: ``(*S)`` bool.
        count: how many; fewer where there are not so many voxels.

    Returns:
        ``(n, d)`` int64 voxel indices with ``n <= count``, on the mask's device.
    """
    left = np.array(mask.cpu().numpy(), copy=True, order="C")
    points = []
    for _ in range(min(count, int(left.sum()))):
        depth = edt.edt(left, black_border=True)
        point = np.unravel_index(int(depth.argmax()), depth.shape)
        points.append(point)
        left[point] = False
    found = torch.tensor(np.array(points, np.int64).reshape(-1, mask.ndim))
    return found.to(mask.device)
