"""Signed distance maps of label crops, as DTC defines them.

References:
    Luo, Chen, Song, Wang. "Semi-supervised medical image segmentation through dual-task
    consistency." AAAI 2021. https://arxiv.org/abs/2009.04448
"""

from __future__ import annotations

import edt
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semisam.core.types import IGNORE


def signed_distance(
    mask: NDArray[np.bool_], known: NDArray[np.bool_] | None = None
) -> NDArray[np.float32]:
    """Return DTC's normalised signed distance of one mask: negative inside, in [-1, 1].

    ``d_out / max d_out - d_in / max d_in``, with maxima within the crop. It is 0 on the inner
    boundary, the foreground voxels with a background face neighbour. It is 0 everywhere in a crop
    without foreground.

    Differs from the published code: a crop that is all foreground is -1 everywhere (published: 0/0,
    a NaN that ends the training).

    Args:
        mask: ``(*S)``.
        known: ``(*S)``, the annotated voxels. Distances are between these, and 0 elsewhere.
            ``None``: all voxels.
    """
    if known is not None:
        mask = mask & known
    background = ~mask if known is None else known & ~mask
    if not mask.any():
        return np.zeros(mask.shape, np.float32)
    if not background.any():
        return np.where(mask, np.float32(-1.0), np.float32(0.0))
    inside = _distance(~background) * mask
    outside = _distance(~mask) * background
    signed: NDArray[np.float32] = outside / outside.max() - inside / inside.max()
    # A foreground voxel at distance 1 has a background face neighbour: the inner boundary.
    signed[inside == 1] = 0.0
    return signed


def signed_distances(label: Tensor, num_classes: int) -> Tensor:
    """Return one map per foreground class; it is 0 at ignored voxels.

    Args:
        label: ``(L, *S)`` int64.
        num_classes: ``K`` counting background.

    Returns:
        ``(L, K - 1, *S)`` float32 on the label's device.
    """
    labels = label.cpu().numpy()
    maps = [
        [signed_distance(row == k, row != IGNORE) for k in range(1, num_classes)] for row in labels
    ]
    return torch.from_numpy(np.asarray(maps, np.float32)).to(label.device)


def _distance(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return each set voxel's distance to the nearest unset voxel within the crop."""
    distance: NDArray[np.float32] = edt.edt(np.ascontiguousarray(mask), black_border=False)
    return distance
