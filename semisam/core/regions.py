"""Boxes, components and deepest voxels of masks that are tensors."""

from __future__ import annotations

import edt
import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from semisam.core.masks import bounding_box


def box_of_mask(mask: Tensor) -> Tensor:
    """Return the half-open box ``(2, d)`` int64 of a non-empty ``(*S)`` bool mask."""
    corners = []
    for axis in range(mask.ndim):
        others = [a for a in range(mask.ndim) if a != axis]
        hit = (mask.any(dim=others) if others else mask).nonzero().squeeze(1)
        corners.append(torch.stack([hit[0], hit[-1] + 1]))
    return torch.stack(corners, dim=1)


def largest_face_component(mask: Tensor) -> Tensor:
    """Return the largest face-connected component of a non-empty ``(*S)`` bool mask."""
    whole = mask.cpu().numpy()
    box = bounding_box(whole)
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
    box = bounding_box(whole)
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
