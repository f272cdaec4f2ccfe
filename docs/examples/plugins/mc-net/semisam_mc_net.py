"""MC-Net+: three decoders of one encoder teach each other.

References:
    Wu et al. "Mutual consistency learning for semi-supervised medical image segmentation." Medical
    Image Analysis 81, 2022. https://arxiv.org/abs/2109.09960
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


class MCNet(Framework):
    """A method that minimises ``w sum_i Dice_i + lambda sum_{i != j} mean (p_i - sharp(p_j))^2``.

    ``p_i`` is the softmax of decoder ``i``, and ``sharp(p) = p^(1/T) / sum p^(1/T)`` is a target
    without a gradient. All rows count in the second sum. The first decoder is deployed.

    Args:
        build: network builder; it builds three decoders, which ``vnet`` and ``unet2d`` have.
        num_classes: classes counting background.
        temperature: ``T`` of the sharpening, above 0.
        supervised_weight: ``w``.
        consistency_weight: final value of ``lambda``, which rises with exp(-5 (1 - t/T)^2).

    Raises:
        ValueError: an option is out of range.
    """

    def __init__(
        self,
        build: NetBuilder,
        num_classes: int,
        *,
        temperature: float = 0.1,
        supervised_weight: float = 0.5,
        consistency_weight: float = 0.1,
    ) -> None:
        super().__init__(build, num_classes)
        check_not_negative(supervised_weight=supervised_weight)
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0, got {temperature}.")
        self.net = build(**dict.fromkeys(HEADS, num_classes))
        self.temperature = temperature
        self.supervised_weight = supervised_weight
        self.consistency_weight = Ramp(consistency_weight, power=2.0)

    def forward(self, image: Tensor) -> Tensor:
        """Map images ``(B, C, *S)`` to probabilities ``(B, K, *S)``, as deployed."""
        logits: Tensor = self.net(image)["logits"]
        return logits.softmax(1)

    def training_step(self, batch: Batch, clock: Clock) -> Step:
        """Return the losses ``dice`` and ``consistency``."""
        rows, raw = batch.num_labeled, self.net(batch.image)
        maps = [raw[name].softmax(1) for name in HEADS]
        targets = [self._sharpened(p.detach()) for p in maps]
        dice = torch.stack([foreground_dice_loss(p[:rows], batch.label) for p in maps]).sum()
        pairs = itertools.permutations(range(len(HEADS)), 2)
        terms = [mean_squared_difference(maps[i], targets[j]) for i, j in pairs]
        consistency = self.consistency_weight(clock) * torch.stack(terms).sum()
        losses = {"dice": self.supervised_weight * dice, "consistency": consistency}
        return Step(losses, maps[0])

    def _sharpened(self, probs: Tensor) -> Tensor:
        powers = probs.float() ** (1 / self.temperature)
        return powers / powers.sum(1, keepdim=True)
