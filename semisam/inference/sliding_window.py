"""Sliding-window inference as UA-MT publishes it, on the image's own device.

Yu et al., "Uncertainty-aware Self-ensembling Model for Semi-supervised 3D Left Atrium
Segmentation", MICCAI 2019. Differs from the published code: windows may be batched, and nothing
leaves the device; the window positions, the zero padding and the mean are the published ones.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def window_starts(size: int, patch: int, stride: int) -> list[int]:
    """Return the first voxel of each window along one axis; the last ends at the last voxel.

    Args:
        size: voxels of the image along the axis, at least ``patch``.
        patch: voxels of a window.
        stride: voxels between windows; the last step may be shorter.

    Raises:
        ValueError: the window is larger than the image, or an argument is not positive.
    """
    if not (0 < patch <= size and stride > 0):
        raise ValueError(
            f"windows must have 0 < patch <= size and stride > 0, got size {size}, patch {patch}, "
            f"stride {stride}."
        )
    count = math.ceil((size - patch) / stride) + 1
    return [min(stride * i, size - patch) for i in range(count)]


def count_windows(size: Sequence[int], patch: Sequence[int], stride: Sequence[int]) -> int:
    """Return the number of windows over an image, which is padded if it is smaller than the patch.

    Args:
        size: voxels of the image along each axis.
        patch: voxels of a window along each axis.
        stride: voxels between windows along each axis.
    """
    return math.prod(
        len(window_starts(max(n, p), p, s)) for n, p, s in zip(size, patch, stride, strict=True)
    )


@torch.no_grad()
def sliding_window(
    predict: Callable[[Tensor], Tensor],
    image: Tensor,
    patch: Sequence[int],
    stride: Sequence[int],
    *,
    window_batch: int = 1,
) -> Tensor:
    """Average the probabilities of overlapping windows.

    An image smaller than the patch is padded with zeros on both sides (the smaller half first).

    Args:
        predict: maps windows ``(B, C, *patch)`` to probabilities ``(B, K, *patch)``.
        image: ``(C, *S)``.
        patch: voxels of a window along each axis.
        stride: voxels between windows along each axis.
        window_batch: windows per call of ``predict``; the last call may get fewer.

    Returns:
        ``(K, *S)`` float32 on the image's device; the label map is its ``argmax(0)``.

    Raises:
        ValueError: patch, stride or the value of ``predict`` does not fit the image.
    """
    ndim = image.ndim - 1
    patch, stride = tuple(patch), tuple(stride)
    if not len(patch) == len(stride) == ndim or window_batch < 1:
        raise ValueError(
            f"patch and stride must have one number per axis of the image {tuple(image.shape[1:])} "
            f"and window_batch must be at least 1, got patch {patch}, stride {stride}, "
            f"window_batch {window_batch}."
        )
    size = image.shape[1:]
    image, inside = pad_to_patch(image, patch)
    starts = [
        window_starts(n, p, s) for n, p, s in zip(image.shape[1:], patch, stride, strict=True)
    ]
    windows = [
        tuple(slice(a, a + p) for a, p in zip(corner, patch, strict=True))
        for corner in itertools.product(*starts)
    ]
    coverage = _coverage(image.shape[1:], starts, patch)
    if not coverage.all():
        raise ValueError(
            f"windows must cover the image, got gaps at patch {patch} and stride {stride}. "
            "Use a stride of at most the patch."
        )
    score: Tensor | None = None
    for first in range(0, len(windows), window_batch):
        chunk = windows[first : first + window_batch]
        probs = predict(torch.stack([image[(slice(None), *window)] for window in chunk]))
        _check_probs(probs, len(chunk), patch)
        if score is None:
            score = torch.zeros(
                (probs.shape[1], *image.shape[1:]), dtype=torch.float32, device=image.device
            )
        for window, prob in zip(chunk, probs, strict=True):
            score[(slice(None), *window)] += prob
    assert score is not None  # there is always a window
    score /= coverage.to(score.device)
    return score if score.shape[1:] == size else score[(slice(None), *inside)].contiguous()


def pad_to_patch(image: Tensor, patch: tuple[int, ...]) -> tuple[Tensor, tuple[slice, ...]]:
    """Return the padded image, and the place of the image in it."""
    size = image.shape[1:]
    missing = [max(p - n, 0) for n, p in zip(size, patch, strict=True)]
    inside = tuple(slice(m // 2, m // 2 + n) for n, m in zip(size, missing, strict=True))
    if not any(missing):
        return image, inside
    pads = [side for m in reversed(missing) for side in (m // 2, m - m // 2)]
    return F.pad(image, pads), inside


def _coverage(size: Sequence[int], starts: list[list[int]], patch: tuple[int, ...]) -> Tensor:
    """Return the number of windows over each voxel, the product of the counts along the axes."""
    total = torch.ones((), dtype=torch.float32)
    for n, corners, p in zip(size, starts, patch, strict=True):
        line = torch.zeros(n, dtype=torch.float32)
        for corner in corners:
            line[corner : corner + p] += 1
        total = total[..., None] * line
    return total


def _check_probs(probs: Tensor, rows: int, patch: tuple[int, ...]) -> None:
    if probs.ndim != len(patch) + 2 or probs.shape[0] != rows or probs.shape[2:] != patch:
        raise ValueError(
            f"predict must return probabilities ({rows}, K, {', '.join(map(str, patch))}), "
            f"got {tuple(probs.shape)}."
        )
