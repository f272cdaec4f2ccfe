"""Resampling of volumes to another spacing; the outer faces of the volume stay in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import SimpleITK
from numpy.typing import NDArray

sitk: Any = SimpleITK  # its functions carry no types


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
) -> NDArray[np.float32]:
    """Resample a channel ``(*S)`` linearly, with the nearest value beyond the outer centres."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T, dtype=np.float32))
    image.SetSpacing([float(s) for s in spacing])
    resampler = sitk.ResampleImageFilter()
    resampler.SetInterpolator(sitk.sitkLinear)
    resampler.SetUseNearestNeighborExtrapolator(True)
    resampler.SetSize([int(n) for n in size])
    resampler.SetOutputSpacing([float(s) for s in target])
    resampler.SetOutputOrigin([(b - a) / 2 for a, b in zip(spacing, target, strict=True)])
    resampler.SetOutputDirection(np.eye(array.ndim).ravel().tolist())
    resampled = resampler.Execute(image)  # a name keeps it alive, which the view below does not
    return np.ascontiguousarray(sitk.GetArrayViewFromImage(resampled).T)


def resample_label(
    label: NDArray[np.uint8],
    spacing: Sequence[float],
    target: Sequence[float],
    size: Sequence[int],
) -> NDArray[np.uint8]:
    """Resample every class linearly and assign each voxel to the class with the largest share."""
    result = np.zeros(tuple(size), np.uint8)
    most = np.full(tuple(size), -1.0, np.float32)
    for value in np.flatnonzero(np.bincount(label.ravel(), minlength=1)):
        share = resample((label == value).astype(np.float32), spacing, target, size)
        wins = share > most
        result[wins], most[wins] = value, share[wins]
    return result
