"""Helpers that the prompters share: option checks, boxes and random clicks."""

from __future__ import annotations

import torch
from torch import Tensor

from semisam.core.errors import InputError
from semisam.core.regions import box_of_mask
from semisam.core.types import Prompt, View


def check_fraction(name: str, value: float) -> None:
    """Check that an uncertainty threshold is in (0, 1].

    Raises:
        InputError: ``value`` is outside (0, 1].
    """
    if not 0.0 < value <= 1.0:
        raise InputError(
            f"{name} must be in (0, 1], as uncertainties are, got {value}. Use 1 for no limit."
        )


def check_count(name: str, value: int, least: int) -> None:
    """Check that a count is at least ``least``.

    Raises:
        InputError: ``value`` is smaller.
    """
    if value < least:
        raise InputError(f"{name} must be at least {least}, got {value}. Increase it.")


def to_correct(view: View, max_uncertainty: float) -> tuple[Tensor, int]:
    """Return the voxels ``(*S)`` to click, and the label of a click there.

    In the first round they are the proposal's certain foreground, later the larger of two errors
    between the certain part of the proposal and the last prediction: missed or surplus voxels.
    """
    sure = view.uncertainty < max_uncertainty
    target = view.prob > 0.5
    if view.previous is None:
        return sure & target, 1
    predicted = view.previous > 0.5
    missed, surplus = sure & target & ~predicted, sure & ~target & predicted
    return (missed, 1) if int(missed.sum()) >= int(surplus.sum()) else (surplus, 0)


def sample(candidates: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """Draw voxels uniformly and without replacement.

    Args:
        candidates: ``(*S)`` bool, the voxels to draw from.
        count: number of voxels; if there are fewer candidates, all of them are returned, shuffled.
        rng: source of randomness. Its device may differ from that of ``candidates``, so a CPU
            generator draws the same voxels on every device.

    Returns:
        ``(n, d)`` int64 voxel indices with ``n <= count``.
    """
    index = candidates.flatten().nonzero().squeeze(1)
    order = torch.randperm(index.numel(), generator=rng, device=rng.device)[:count]
    drawn = index[order.to(index.device)]
    return torch.stack(torch.unravel_index(drawn, candidates.shape), dim=1)


def grow_box(box: Tensor, margin: int, shape: torch.Size) -> Tensor:
    """Grow a half-open box ``(2, d)`` by ``margin`` voxels per side, clipped to ``shape``."""
    first = (box[0] - margin).clamp(min=0)
    size = torch.tensor(shape, dtype=box.dtype, device=box.device)
    return torch.stack([first, torch.minimum(box[1] + margin, size)])


def inside_box(box: Tensor, shape: torch.Size) -> Tensor:
    """Return the ``(*S)`` bool mask of a half-open box ``(2, d)``, on the box's device."""
    mask = torch.zeros(shape, dtype=torch.bool, device=box.device)
    mask[tuple(slice(int(a), int(b)) for a, b in zip(box[0], box[1], strict=True))] = True
    return mask


def draw_clicks(
    foreground: Tensor,
    allowed: Tensor,
    *,
    positive: int,
    negative: int,
    margin: int,
    rng: torch.Generator,
    lone_negatives: bool = False,
) -> Prompt | None:
    """Draw positive clicks in a proposal and negative ones near it.

    Args:
        foreground: ``(*S)`` bool, the proposal.
        allowed: ``(*S)`` bool, the voxels that may be clicked.
        positive: number of positive clicks; fewer if there are fewer such voxels.
        negative: number of negative clicks, likewise.
        margin: negative clicks are drawn from the proposal's bounding box grown by this many
            voxels, because a click in a far corner does not help a backend.
        rng: source of randomness.
        lone_negatives: allow a prompt without positive clicks, for rounds after the first.

    Returns:
        Points with their labels, or ``None`` if no voxel can take a positive click.
    """
    inside = foreground & allowed
    if not bool(foreground.any()) or not (lone_negatives or bool(inside.any())):
        return None
    near = inside_box(grow_box(box_of_mask(foreground), margin, foreground.shape), allowed.shape)
    pos = sample(inside, positive, rng)
    neg = sample(near & allowed & ~foreground, negative, rng)
    if not len(pos) and not len(neg):
        return None
    labels = torch.cat([pos.new_ones(len(pos)), neg.new_zeros(len(neg))])
    return Prompt(points=torch.cat([pos, neg]), labels=labels)
