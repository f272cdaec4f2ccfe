"""Conversion of a volume and its prompt to slices and their prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from semisam.core.types import Prompt

T = TypeVar("T")


def window(image: Tensor, clip: float) -> Tensor:
    """Scale each channel of ``(C, *S)`` to [0, 1] between two percentiles of the whole volume.

    All slices share one window, so an empty slice stays dark and its noise is not amplified.

    Args:
        image: any intensities; values that are not finite count as 0.
        clip: percent of the voxels to clip at either end.
    """
    image = torch.nan_to_num(image.detach().float(), posinf=0.0, neginf=0.0)
    flat = image.flatten(1)
    last = flat.shape[1] - 1
    # torch.quantile refuses more than 16 million voxels; kthvalue does not.
    low, high = (
        flat.kthvalue(1 + round(share * last), dim=1).values
        for share in (clip / 100, 1 - clip / 100)
    )
    column = (-1, *[1] * (image.ndim - 1))
    low, width = low.view(column), (high - low).clamp(min=1e-8).view(column)
    return ((image - low) / width).clamp(0, 1)


def as_slices(image: Tensor, axis: int) -> Tensor:
    """Return ``(D, 3, a, b)``: the slices of ``(C, *S)`` along a spatial axis, in three colours.

    One channel becomes grey, three become the three colours, and of any other number the mean
    becomes grey. An image of two axes is one slice.
    """
    if image.shape[0] not in (1, 3):
        image = image.mean(0, keepdim=True)
    slices = image[None] if image.ndim == 3 else image.movedim(1 + axis, 0)
    return slices.expand(-1, 3, -1, -1)


def as_volume(slices: Tensor, shape: tuple[int, ...], axis: int) -> Tensor:
    """Return ``(*S)``, contiguous, from ``(D, a, b)``."""
    volume = slices[0] if len(shape) == 2 else slices.movedim(0, axis)
    return volume.contiguous()


def split(prompt: Prompt, axis: int, ndim: int) -> dict[int, Prompt]:
    """Return the prompt of each slice, by the slice's index, in ascending order.

    A box is on every slice that it spans, a mask on every slice where it exceeds one half. The
    other slices have no mask, because an empty mask would contradict a click there.

    Args:
        prompt: prompt of the volume.
        axis: the axis through the slices, not negative.
        ndim: axes of the image; an image of two axes is one slice.
    """
    if ndim == 2:
        prompt, axis = _lifted(prompt), 0
    points, labels, box = prompt.points, prompt.labels, prompt.box
    clicks: dict[int, list[int]] = {}
    if points is not None:
        for n, i in enumerate(points[:, axis].tolist()):
            clicks.setdefault(i, []).append(n)
    boxed = range(0) if box is None else range(*box[:, axis].tolist())
    mask = None if prompt.mask is None else prompt.mask.detach().float().movedim(axis, 0)
    masked = set() if mask is None else set((mask > 0.5).flatten(1).any(1).nonzero()[:, 0].tolist())
    flat = [a for a in range(3) if a != axis]
    found = {}
    for i in sorted({*clicks, *boxed, *masked}):
        at = clicks.get(i)
        found[i] = Prompt(
            points=points[at][:, flat] if points is not None and at else None,
            labels=labels[at] if labels is not None and at else None,
            box=box[:, flat] if box is not None and i in boxed else None,
            mask=mask[i] if mask is not None and i in masked else None,
        )
    return found


def says_foreground(prompt: Prompt) -> bool:
    """Return whether a slice's prompt shows foreground; negative clicks do not."""
    clicked = prompt.labels is not None and bool((prompt.labels == 1).any())
    return clicked or prompt.box is not None or prompt.mask is not None


def evenly(items: Sequence[T], most: int) -> list[T]:
    """Return at most some items, from first to last at equal distances."""
    count = min(len(items), most)
    last = (len(items) - 1) / max(count - 1, 1)
    return [items[round(n * last)] for n in range(count)]


def batches(items: list[int], size: int) -> list[list[int]]:
    """Cut a list into runs of at most ``size``."""
    return [items[size * n : size * (n + 1)] for n in range(math.ceil(len(items) / size))]


def _lifted(prompt: Prompt) -> Prompt:
    """Put a prompt of two axes on the only slice of a volume."""
    points, box, mask = prompt.points, prompt.box, prompt.mask
    if points is not None:
        points = torch.cat([torch.zeros_like(points[:, :1]), points], 1)
    if box is not None:
        box = torch.cat([torch.tensor([[0], [1]]).to(box), box], 1)
    return Prompt(points, prompt.labels, box, None if mask is None else mask[None])
