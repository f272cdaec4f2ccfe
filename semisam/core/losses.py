"""Loss terms as pure functions of probabilities and labels, in float32.

Shapes: probabilities ``(B, K, *S)``, labels ``(B, *S)`` int64; ``K`` counts background.

Where several processes share a batch, its sums are over the rows of all of them.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from semisam.training.distributed import global_sums

EPS = 1e-5


def dice_loss(prob: Tensor, target: Tensor, eps: float = EPS) -> Tensor:
    """Return ``1 - (2 sum(s y) + e) / (sum(s^2) + sum(y^2) + e)`` over the whole batch.

    The squared-denominator Dice of Milletari et al. (https://arxiv.org/abs/1606.04797), as UA-MT
    writes it.

    Args:
        prob: ``(B, *S)`` probability of one class.
        target: ``(B, *S)`` its 0/1 mask.
        eps: smoothing ``e``; an empty target with an empty prediction has loss 0.
    """
    overlap, predicted, labeled = global_sums(*_dice_sums(prob, target))
    return _dice_of_sums(overlap, predicted, labeled, eps)


def volume_dice_loss(prob: Tensor, target: Tensor, eps: float = EPS) -> Tensor:
    """Return the Dice loss of one volume, which no other process has a part of.

    Args:
        prob: ``(*S)`` probability of one class.
        target: ``(*S)`` mask of the class, boolean or in [0, 1].
        eps: smoothing, see `dice_loss`.
    """
    return _dice_of_sums(*_dice_sums(prob, target), eps)


def _dice_sums(prob: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    y = target.to(prob.dtype)
    return (prob * y).sum(), prob.square().sum(), y.square().sum()


def _dice_of_sums(overlap: Tensor, predicted: Tensor, labeled: Tensor, eps: float) -> Tensor:
    return 1.0 - (2.0 * overlap + eps) / (predicted + labeled + eps)


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
    return F.cross_entropy(logits, label), dice


def masked_supervised_loss(
    logits: Tensor, probs: Tensor, label: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Return cross-entropy and foreground Dice of the voxels in a mask, each unweighted.

    Args:
        logits: ``(B, K, *S)``.
        probs: their softmax, ``(B, K, *S)``.
        label: ``(B, *S)``; what it says outside the mask is not read.
        mask: ``(*S)`` or ``(B, *S)`` boolean; both losses are 0 where it is empty.
    """
    inside = mask.expand_as(label)
    per_voxel = F.cross_entropy(logits, label, reduction="none")
    total, voxels = global_sums((per_voxel * inside).sum(), inside.sum())
    ce = total / voxels.clamp(min=1)
    # Background outside, with probability 0: neither counts in the Dice of a foreground class.
    return ce, foreground_dice_loss(probs * inside.unsqueeze(1), label * inside)


def entropy(probs: Tensor, eps: float = 1e-6) -> Tensor:
    """Return the entropy over classes divided by ``ln K``: ``(B, K, *S)`` to ``(B, 1, *S)``.

    In [0, 1] up to ``eps``; with ``eps`` = 1e-6 inside the logarithm as published.
    """
    total = -(probs * (probs + eps).log()).sum(1, keepdim=True)
    return total / math.log(probs.shape[1])


def _mean_dice_loss(probs: Tensor, label: Tensor, classes: range) -> Tensor:
    return torch.stack([dice_loss(probs[:, k], label == k) for k in classes]).mean()


def mean_squared_difference(a: Tensor, b: Tensor) -> Tensor:
    """Return ``mean (a - b)^2`` over all elements; gradients flow into both."""
    return (a - b).square().mean()
