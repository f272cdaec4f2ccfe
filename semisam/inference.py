"""Sliding-window inference, as the semi-supervised literature tests.

References:
    Yu et al. "Uncertainty-aware self-ensembling model for semi-supervised 3D left atrium
    segmentation." MICCAI 2019. https://arxiv.org/abs/1907.07034 (its test-time code)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def window_starts(size: int, patch: int, stride: int) -> list[int]:
    """Return where the windows of one axis start: every ``stride``, the last one clamped.

    Args:
        size: of the axis, at least ``patch``.
        patch: of the window.
        stride: between windows.
    """
    count = math.ceil((size - patch) / stride) + 1
    return [min(stride * i, size - patch) for i in range(count)]


def published_stride(patch: Sequence[int]) -> tuple[int, ...]:
    """Return the published stride 18/18/4 at patch 112/112/80, scaled to the patch."""
    *plane, last = patch
    if len(patch) < 3:
        return tuple(max(1, round(p * 18 / 112)) for p in patch)
    return (*(max(1, round(p * 18 / 112)) for p in plane), max(1, round(last * 4 / 80)))


def half_overlap_stride(patch: Sequence[int]) -> tuple[int, ...]:
    """Return half the patch: each voxel seen about twice per axis."""
    return tuple(max(1, p // 2) for p in patch)


def sliding_window(
    predict: Callable[[Tensor], Tensor],
    image: Tensor,
    patch: Sequence[int],
    stride: Sequence[int],
    *,
    window_batch: int = 1,
    on_window: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Return the mean of overlapping windows' probabilities.

    An image smaller than the patch is padded with zeros on both sides, and the result cropped.

    Args:
        predict: ``(B, C, *patch)`` to ``(B, K, *patch)`` probabilities.
        image: ``(C, *S)``.
        patch: window size in voxels.
        stride: of the window, in voxels.
        window_batch: windows per call of ``predict``.
        on_window: called with (windows done, windows in all).

    Returns:
        ``(K, *S)`` float32 on the image's device.

    Raises:
        ValueError: if patch and stride have not one entry per spatial axis.
    """
    spatial = image.shape[1:]
    if not len(spatial) == len(patch) == len(stride):
        raise ValueError(
            f"patch and stride must have one entry per spatial axis, {len(spatial)}, got "
            f"{tuple(patch)} and {tuple(stride)}"
        )
    missing = [max(p - s, 0) for p, s in zip(patch, spatial, strict=True)]
    before = [m // 2 for m in missing]
    # F.pad lists the last axis first.
    padding = [n for m, b in zip(missing[::-1], before[::-1], strict=True) for n in (b, m - b)]
    padded = F.pad(image, padding)
    starts = itertools.product(
        *map(window_starts, padded.shape[1:], patch, stride)
    )
    windows = [tuple(slice(s, s + p) for s, p in zip(c, patch, strict=True)) for c in starts]
    total: Tensor | None = None
    count = torch.zeros(padded.shape[1:], device=image.device)
    for first in range(0, len(windows), window_batch):
        chosen = windows[first : first + window_batch]
        probs = predict(torch.stack([padded[(slice(None), *w)] for w in chosen])).float()
        if total is None:
            total = probs.new_zeros(probs.shape[1], *padded.shape[1:])
        for window, prob in zip(chosen, probs, strict=True):
            total[(slice(None), *window)] += prob
            count[window] += 1
        if on_window is not None:
            on_window(first + len(chosen), len(windows))
    assert total is not None  # there is always one window
    inside = tuple(slice(b, b + s) for b, s in zip(before, spatial, strict=True))
    return (total / count)[(slice(None), *inside)].contiguous()
