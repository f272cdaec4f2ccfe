"""Resampling of volumes to another spacing; the outer faces of the volume stay in place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import SimpleITK
from numpy.typing import NDArray

sitk: Any = SimpleITK  # its functions carry no types

_AT_ONCE = 1 << 22  # voxels
_TIE = np.float32(1e-4)  # of a share, above its rounding


def resampled_size(
    size: Sequence[int], spacing: Sequence[float], target: Sequence[float]
) -> tuple[int, ...]:
    """Return the number of voxels per axis that covers the same mm at another spacing."""
    return tuple(max(1, round(n * a / b)) for n, a, b in zip(size, spacing, target, strict=True))


def resample(
    array: NDArray[np.float32],
    spacing: Sequence[float],
    target: Sequence[float],
    size: Sequence[int],
    rows: range | None = None,
    *,
    nearest: bool = False,
) -> NDArray[np.float32]:
    """Resample a channel ``(*S)`` linearly, with the nearest value beyond the outer centres.

    Args:
        array: the channel.
        spacing: mm per axis of the channel.
        target: mm per axis of the result.
        size: voxels per axis of the whole result.
        rows: consecutive indices of the result's first axis to compute; ``None``: all of them.
        nearest: take the nearest voxel instead of a linear mean.
    """
    rows = range(size[0]) if rows is None else rows
    origin = [(b - a) / 2 for a, b in zip(spacing, target, strict=True)]
    # Only the planes between which the rows lie, so that memory depends on the rows.
    ends = [(origin[0] + row * target[0]) / spacing[0] for row in (rows[0], rows[-1])]
    low, high = (min(max(math.floor(end), 0), len(array) - 1) for end in ends)
    part = array[low : high + 2]
    origin[0] += rows[0] * target[0] - low * spacing[0]
    image = sitk.GetImageFromArray(np.ascontiguousarray(part.T, dtype=np.float32))
    image.SetSpacing([float(s) for s in spacing])
    resampler = sitk.ResampleImageFilter()
    resampler.SetInterpolator(sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear)
    resampler.SetUseNearestNeighborExtrapolator(True)
    resampler.SetSize([len(rows), *(int(n) for n in size[1:])])
    resampler.SetOutputSpacing([float(s) for s in target])
    resampler.SetOutputOrigin(origin)
    resampler.SetOutputDirection(np.eye(array.ndim).ravel().tolist())
    resampled = resampler.Execute(image)  # a name keeps it alive, which the view below does not
    return np.array(sitk.GetArrayViewFromImage(resampled).T, order="C")


def resample_classes(
    probs: NDArray[np.float32],
    spacing: Sequence[float],
    target: Sequence[float],
    size: Sequence[int],
) -> NDArray[np.uint8]:
    """Resample probabilities ``(K, *S)`` linearly and return the most probable class ``(*size)``.

    Of equal classes the first is taken. Some rows are computed at a time, so that beyond the
    result the memory does not depend on its size.
    """
    result = np.zeros(tuple(size), np.uint8)
    step = max(1, _AT_ONCE // math.prod(size[1:]))
    for start in range(0, size[0], step):
        rows = range(start, min(start + step, size[0]))
        found = result[rows.start : rows.stop]
        most = resample(probs[0], spacing, target, size, rows)
        for value in range(1, len(probs)):
            share = resample(probs[value], spacing, target, size, rows)
            wins = share > most
            found[wins], most[wins] = value, share[wins]
    return result


def resample_label(
    label: NDArray[np.uint8],
    spacing: Sequence[float],
    target: Sequence[float],
    size: Sequence[int],
) -> NDArray[np.uint8]:
    """Resample every class linearly and assign each voxel to the class with the largest share.

    Of equal shares that of the nearest voxel is taken. At twice the spacing many are equal, and a
    rule by number would shrink the classes of larger numbers.
    """
    own = resample(label.astype(np.float32), spacing, target, size, nearest=True)
    result = own.astype(np.uint8)
    most = np.full(tuple(size), -1.0, np.float32)
    for value in np.flatnonzero(np.bincount(label.ravel(), minlength=1)):
        share = resample((label == value).astype(np.float32), spacing, target, size)
        share[own == value] += _TIE
        wins = share > most
        result[wins], most[wins] = value, share[wins]
    return result
