"""Dual-task mutual learning (DTML).

References:
    Zhang, Zhang. "Dual-task mutual learning for semi-supervised medical image segmentation."
    PRCV 2021. https://arxiv.org/abs/2103.04708
"""

from __future__ import annotations

import torch
from torch import Tensor

from semisam.core.framework import Framework, NetBuilder, check_not_negative
from semisam.core.losses import foreground_dice_loss, mean_squared_difference, supervised_loss
from semisam.core.schedules import Ramp
from semisam.core.types import Batch, Clock, Step
from semisam.frameworks.dtc import inside_probability, with_background


class DualTaskMutualLearning(Framework):
    """Two networks that teach each other: one segments, one regresses the signed distance.

    ``1/2 (CE + D(p, y)) + D(sigma(-1500 z), y) + 2 lambda C`` with
    ``C = mean_{L+U} (sigma(-1500 z) - p)^2`` and ``lambda = 10 lambda_c``. The published code sends
    the shared consistency backwards twice into both networks, hence the factor 2. Its two
    optimizers with equal settings are one over both networks. This is the same, except where the
    gradient's norm is clipped, which is that of both. The segmentation network is deployed.

    Differs from the published code:

    - ``p`` is a softmax over ``K`` channels with categorical cross-entropy, so that several classes
      work (published: a sigmoid of one channel). As in DTC, a step moves it twice as far. Without
      ``background_channel``, as with ``--protocol published``, it is the sigmoid.
    - Each network has only the head that is used (published: both heads, of which one idles).
    - The regression of the signed distance is not computed. The published code computes it, over
      labels that training may not see, and leaves it out of the objective.

    Args:
        build: network builder; called for ``logits`` and, for the second network, ``sdf``.
        num_classes: ``K``, counting background.
        background_channel: give background a channel of its own; otherwise its logit is 0, which
            for two classes is the published sigmoid.
        supervised_weight: of CE and Dice of the segmentation network.
        consistency_weight: the end value of ``lambda``.
        consistency_count: how often the shared consistency counts: 2 as published.
        ramp_power: exponent on the ramp's fraction: 1 in SemiSAM's paper, 2 in the published code.
        ramp_every: iterations between steps of the ramp (published: 150).
    """

    def __init__(
        self,
        build: NetBuilder,
        num_classes: int,
        *,
        background_channel: bool = True,
        supervised_weight: float = 0.5,
        consistency_weight: float = 1.0,
        consistency_count: int = 2,
        ramp_power: float = 1.0,
        ramp_every: int = 1,
    ) -> None:
        super().__init__(build, num_classes)
        check_not_negative(supervised_weight=supervised_weight, consistency_count=consistency_count)
        self.segmenter = build(logits=num_classes if background_channel else num_classes - 1)
        self.regressor = build(sdf=num_classes - 1)
        self.supervised_weight = supervised_weight
        self.consistency_weight = Ramp(consistency_weight, power=ramp_power, every=ramp_every)
        self.consistency_count = consistency_count

    def forward(self, image: Tensor) -> Tensor:
        """Return the segmentation network's probabilities."""
        return with_background(self.segmenter(image)["logits"], self.num_classes).softmax(1)

    def training_step(self, batch: Batch, clock: Clock) -> Step:
        """Return ``ce``, ``dice``, ``distance_dice`` and ``consistency``."""
        labeled = batch.num_labeled
        logits = with_background(self.segmenter(batch.image)["logits"], self.num_classes)
        probs = logits.softmax(1)
        inside = inside_probability(self.regressor(batch.image)["sdf"].tanh())
        ce, dice = supervised_loss(logits[:labeled], probs[:labeled], batch.label)
        # Column 0 is background, which the foreground Dice leaves out.
        of_labeled = inside[:labeled]
        padded = of_labeled.new_zeros(labeled, 1, *of_labeled.shape[2:])
        shared = mean_squared_difference(inside, probs[:, 1:])
        w = self.supervised_weight
        weight = self.consistency_count * self.consistency_weight(clock)
        losses = {
            "ce": w * ce,
            "dice": w * dice,
            "distance_dice": foreground_dice_loss(torch.cat([padded, of_labeled], 1), batch.label),
            "consistency": weight * shared,
        }
        return Step(losses, probs)
