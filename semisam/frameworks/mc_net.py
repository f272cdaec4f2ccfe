"""Mutual consistency (MC-Net+).

References:
    Wu, Ge, Zhang, Xu, Zhang, Xia, Cai. "Mutual consistency learning for semi-supervised medical
    image segmentation." Medical Image Analysis 81, 2022. https://arxiv.org/abs/2109.09960
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from semisam.core.framework import Framework, NetBuilder, check_not_negative
from semisam.core.losses import foreground_dice_loss, mean_squared_difference
from semisam.core.schedules import Ramp
from semisam.core.types import Batch, Clock, Step

HEADS = ("logits", "logits_decoder2", "logits_decoder3")


class MutualConsistency(Framework):
    """Three decoders of one encoder, each drawn to what the other two are sure of.

    ``w sum_i Dice_i + lambda sum_{i != j} mean_{L+U} (p_i - sharp(p_j))^2``.

    The decoders enlarge in different ways (transposed convolution, linear, copies), so they differ
    most where the image is ambiguous. ``sharp(p) = p^(1/T) / (p^(1/T) + (1 - p)^(1/T))`` pushes
    each probability towards 0 or 1. No gradient flows through it. The first decoder is deployed,
    as published, and its map is returned.

    Differs from the published code:

    - No gradient flows through the sharpened maps (published: it does, as with
      ``target_gradient=True`` and ``--protocol published``).
    - Dice has squares in the denominator, as for every method of the table (published: none).
    - ``lambda`` rises to 0.1, the value of the other methods, over the whole training (published:
      to 1 over 6,000 of 15,000 iterations, as with ``--protocol published``).
    - The learning rate falls as for the other methods (published: constant, as with ``--protocol
      published``).
    - The last weights are deployed (published: the best on the test list).

    Args:
        build: network builder; called for the heads ``logits``, ``logits_decoder2`` and
            ``logits_decoder3``.
        num_classes: classes counting background.
        temperature: ``T`` of the sharpening, above 0.
        target_gradient: let the gradient of the consistency flow through the sharpened maps, too.
        supervised_weight: ``w``.
        consistency_weight: the end value of ``lambda``.
        rise: fraction of the training over which ``lambda`` rises (published: 0.4).
        ramp_power: exponent on the ramp's fraction: 1 in SemiSAM's paper, 2 published.
        ramp_every: iterations between steps of the ramp (published: 150).

    Raises:
        ValueError: an option is out of range.
    """

    def __init__(
        self,
        build: NetBuilder,
        num_classes: int,
        *,
        temperature: float = 0.1,
        target_gradient: bool = False,
        supervised_weight: float = 0.5,
        consistency_weight: float = 0.1,
        rise: float = 1.0,
        ramp_power: float = 1.0,
        ramp_every: int = 1,
    ) -> None:
        super().__init__(build, num_classes)
        check_not_negative(supervised_weight=supervised_weight)
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0, got {temperature}.")
        if not 0 < rise <= 1:
            raise ValueError(f"rise must be above 0 and at most 1, got {rise}.")
        self.net = build(**dict.fromkeys(HEADS, num_classes))
        self.temperature = temperature
        self.target_gradient = target_gradient
        self.supervised_weight = supervised_weight
        self.consistency_weight = Ramp(
            consistency_weight, power=ramp_power, every=ramp_every, until=rise
        )

    def forward(self, image: Tensor) -> Tensor:
        """Return the first decoder's softmax probabilities."""
        logits: Tensor = self.net(image)["logits"]
        return logits.softmax(1)

    def training_step(self, batch: Batch, clock: Clock) -> Step:
        """Return ``dice``, the sum over the decoders, and ``consistency``."""
        outputs = self.net(batch.image)
        maps = [outputs[name].softmax(1) for name in HEADS]
        rows = slice(batch.num_labeled)
        dice = torch.stack([foreground_dice_loss(p[rows], batch.label) for p in maps]).sum()
        targets = [sharpened(p, self.temperature) for p in maps]
        if not self.target_gradient:
            targets = [target.detach() for target in targets]
        pairs = itertools.permutations(range(len(HEADS)), 2)
        terms = [mean_squared_difference(maps[i], targets[j]) for i, j in pairs]
        losses = {
            "dice": self.supervised_weight * dice,
            "consistency": self.consistency_weight(clock) * torch.stack(terms).sum(),
        }
        return Step(losses, maps[0])


def sharpened(probs: Tensor, temperature: float) -> Tensor:
    """Return ``p^(1/T) / (p^(1/T) + (1 - p)^(1/T))`` of each probability, in any shape.

    Args:
        probs: probabilities.
        temperature: ``T``; 1 changes nothing, and lower ones push towards 0 and 1.

    Example:
        >>> sharpened(torch.tensor([0.0, 0.4, 0.5, 0.6]), 0.1)
        tensor([0.0000, 0.0170, 0.5000, 0.9830])
    """
    inside, outside = probs ** (1 / temperature), (1 - probs) ** (1 / temperature)
    return inside / (inside + outside)
