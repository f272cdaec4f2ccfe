"""Loss terms as pure functions of probabilities and labels, in float32.

Shapes: probabilities ``(B, K, *S)``, labels ``(B, *S)`` int64; ``K`` counts background.

Labels may hold `semisam.core.types.IGNORE`, where nobody annotated. Losses that take a label leave
these voxels out. Without any annotated voxel they are 0. A label without ignored voxels gives the
same bits as if they did not exist.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from semisam.core.types import IGNORE

EPS = 1e-5


def dice_loss(prob: Tensor, target: Tensor, eps: float = EPS) -> Tensor:
    """Return ``1 - (2 sum(s y) + e) / (sum(s^2) + sum(y^2) + e)``, summed over all elements.

    The squared-denominator Dice of Milletari et al. (https://arxiv.org/abs/1606.04797), as UA-MT
    writes it.

    Args:
        prob: probability of one class: ``(B, *S)``, or ``(*S)`` of one volume.
        target: mask of the class in the same shape, boolean or in [0, 1].
        eps: smoothing ``e``; an empty target with an empty prediction has loss 0.

    Example:
        >>> mask = torch.ones(1, 4, 4, 4)
        >>> float(dice_loss(mask, mask)), float(dice_loss(0 * mask, 0 * mask))
        (0.0, 0.0)
    """
    y = target.to(prob.dtype)
    overlap = (prob * y).sum()
    return 1.0 - (2.0 * overlap + eps) / (prob.square().sum() + y.square().sum() + eps)


def foreground_dice_loss(probs: Tensor, label: Tensor) -> Tensor:
    """Return the Dice loss averaged over the foreground classes 1..K-1."""
    return _mean_dice_loss(probs, label, range(1, probs.shape[1]))


def supervised_loss(
    logits: Tensor,
    probs: Tensor,
    label: Tensor,
    *,
    dice_classes: Literal["foreground", "all"] = "foreground",
) -> tuple[Tensor, Tensor]:
    """Return cross-entropy and Dice of the labeled rows, each unweighted.

    Args:
        logits: ``(L, K, *S)``.
        probs: their softmax, ``(L, K, *S)``.
        label: ``(L, *S)``.
        dice_classes: classes that Dice averages over: ``foreground`` as in UA-MT and its
            descendants, or ``all``, background included, as in SSL4MIS.
    """
    first = 1 if dice_classes == "foreground" else 0
    dice = _mean_dice_loss(probs, label, range(first, probs.shape[1]))
    ce = F.cross_entropy(logits, label, ignore_index=IGNORE)
    # Without an annotated voxel the mean is 0 / 0.
    return torch.where((label != IGNORE).any(), ce, 0.0), dice


def masked_supervised_loss(
    logits: Tensor, probs: Tensor, label: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Return cross-entropy and foreground Dice of the voxels in a mask, each unweighted.

    Args:
        logits: ``(B, K, *S)``.
        probs: their softmax, ``(B, K, *S)``.
        label: ``(B, *S)``; not read outside the mask.
        mask: ``(*S)`` or ``(B, *S)`` boolean; both losses are 0 where it is empty.
    """
    inside = mask.expand_as(label) & (label != IGNORE)
    per_voxel = F.cross_entropy(logits, label, reduction="none", ignore_index=IGNORE)
    ce = (per_voxel * inside).sum() / inside.sum().clamp(min=1)
    # Background outside, with probability 0: neither counts in the Dice of a foreground class.
    return ce, foreground_dice_loss(probs * inside.unsqueeze(1), label * inside)


def entropy(probs: Tensor, eps: float = 1e-6) -> Tensor:
    """Return the entropy over classes divided by ``ln K``: ``(B, K, *S)`` to ``(B, 1, *S)``.

    In [0, 1] up to ``eps``; with ``eps`` = 1e-6 inside the logarithm as published.
    """
    total = -(probs * (probs + eps).log()).sum(1, keepdim=True)
    return total / math.log(probs.shape[1])


def _mean_dice_loss(probs: Tensor, label: Tensor, classes: range) -> Tensor:
    known = label != IGNORE
    return torch.stack([dice_loss(probs[:, k] * known, label == k) for k in classes]).mean()


def mean_squared_difference(a: Tensor, b: Tensor, label: Tensor | None = None) -> Tensor:
    """Return ``mean (a - b)^2``; gradients flow into both.

    Args:
        a: ``(B, K, *S)``; of any shape without a label.
        b: as ``a``.
        label: ``(B, *S)``, whose ignored voxels are left out; ``None``: the mean of all elements.
    """
    if label is None:
        return (a - b).square().mean()
    known = label != IGNORE
    share = known.numel() / known.sum().clamp(min=1)  # exactly 1 without ignored voxels
    return ((a - b).square() * known.unsqueeze(1)).mean() * share
