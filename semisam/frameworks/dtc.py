"""Dual-task consistency (DTC).

References:
    Luo, Chen, Song, Wang. "Semi-supervised medical image segmentation through dual-task
    consistency." AAAI 2021. https://arxiv.org/abs/2009.04448
"""

from __future__ import annotations

import torch
from torch import Tensor

from semisam.core.framework import Framework, NetBuilder, check_not_negative
from semisam.core.losses import foreground_dice_loss, mean_squared_difference
from semisam.core.schedules import Ramp
from semisam.core.types import Batch, Clock, Step
from semisam.frameworks._sdf import signed_distances

STEEPNESS = 1500.0


class DualTaskConsistency(Framework):
    """Consistency of a network's segmentation with the signed distance that it regresses.

    ``D(p, y) + beta mean_L (z - SDF)^2 + lambda mean_{L+U} (sigma(-1500 z) - p)^2``.

    One network has two heads: the segmentation ``p`` and the signed distance ``z``, a tanh. The
    segmentation is deployed. ``lambda = 10 lambda_c``, that is 1 at the end of training.

    Differs from the published code:

    - ``p`` is a softmax over ``K`` channels, so that several classes work, each with its own signed
      distance (published: a sigmoid of one channel). It is the same function for two classes, but
      the difference of two channels starts with twice the variance, and a step moves it twice as
      far. Without ``background_channel``, as with ``--protocol published``, it is the sigmoid.
    - A crop that is all foreground has a signed distance (published: NaN, which ends the training).
    - No distance is computed for a label that training may not see.
    - Ignored voxels have no signed distance, and the distance is to the nearest annotated voxel.
    - The cross-entropy, which the published code only logs, is not computed.

    Args:
        build: network builder; called for the heads ``logits`` and ``sdf``.
        num_classes: ``K``, counting background.
        background_channel: give background a channel of its own; otherwise its logit is 0, which
            for two classes is the published sigmoid.
        beta: weight of the signed distance's regression.
        consistency_weight: the end value of ``lambda``.
        ramp_power: exponent on the ramp's fraction: 1 in SemiSAM's paper, 2 in the published code.
        ramp_every: iterations between steps of the ramp (published: 150).
    """

    def __init__(
        self,
        build: NetBuilder,
        num_classes: int,
        *,
        background_channel: bool = True,
        beta: float = 0.3,
        consistency_weight: float = 1.0,
        ramp_power: float = 1.0,
        ramp_every: int = 1,
    ) -> None:
        super().__init__(build, num_classes)
        check_not_negative(beta=beta)
        channels = num_classes if background_channel else num_classes - 1
        self.net = build(logits=channels, sdf=num_classes - 1)
        self.beta = beta
        self.consistency_weight = Ramp(consistency_weight, power=ramp_power, every=ramp_every)

    def forward(self, image: Tensor) -> Tensor:
        """Return the segmentation head's probabilities."""
        return with_background(self.net(image)["logits"], self.num_classes).softmax(1)

    def training_step(self, batch: Batch, clock: Clock) -> Step:
        """Return ``dice``, ``sdf`` and ``consistency``."""
        labeled = batch.num_labeled
        heads = self.net(batch.image)
        probs = with_background(heads["logits"], self.num_classes).softmax(1)
        distance = heads["sdf"].tanh()
        truth = signed_distances(batch.label, self.num_classes)
        losses = {
            "dice": foreground_dice_loss(probs[:labeled], batch.label),
            "sdf": self.beta * mean_squared_difference(distance[:labeled], truth, batch.label),
            "consistency": self.consistency_weight(clock)
            * mean_squared_difference(inside_probability(distance), probs[:, 1:]),
        }
        return Step(losses, probs)


def with_background(logits: Tensor, num_classes: int) -> Tensor:
    """Return ``(B, K, *S)``: logits of only the foreground get a 0 for background."""
    if logits.shape[1] == num_classes:
        return logits
    return torch.cat([torch.zeros_like(logits[:, :1]), logits], 1)


def inside_probability(distance: Tensor) -> Tensor:
    """Return ``sigma(-1500 z)``, a smooth step that is 1 where the signed distance is negative."""
    return (-STEEPNESS * distance).sigmoid()
