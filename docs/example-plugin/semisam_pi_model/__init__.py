"""Pi model: a method for semisam.

This starting point is the Pi-model (Laine, Aila, "Temporal ensembling for semi-supervised
learning", ICLR 2017, https://arxiv.org/abs/1610.02242): the network predicts the unlabeled rows
twice, with different noise and dropout, and the loss makes the two predictions agree.
"""

from __future__ import annotations

import torch
from torch import Tensor

from semisam.core.framework import Framework, NetBuilder
from semisam.core.losses import mean_squared_difference, supervised_loss
from semisam.core.schedules import Ramp
from semisam.core.types import Batch, Clock, Step


class PiModel(Framework):
    """A method that minimises ``1/2 (CE + Dice) + lambda mean_U (p - p')^2``.

    ``p`` is the softmax of a row, ``p'`` that of the same row with Gaussian noise. Dropout differs
    between the two. The gradient flows through both.

    Differs from the paper: ``lambda`` rises as in SemiSAM's paper; Dice is added to CE.

    Args:
        build: network builder; it builds the head ``logits``.
        num_classes: classes counting background.
        noise: standard deviation of the noise on the second input, in image units.
        consistency_weight: final value of ``lambda``, which rises with exp(-5 (1 - t/T)).

    Raises:
        ValueError: the noise is negative.
    """

    def __init__(
        self,
        build: NetBuilder,
        num_classes: int,
        *,
        noise: float = 0.1,
        consistency_weight: float = 0.1,
    ) -> None:
        super().__init__(build, num_classes)
        if noise < 0:
            raise ValueError(f"noise must be at least 0, got {noise}.")
        self.net = build(logits=num_classes)
        self.noise = noise
        self.consistency_weight = Ramp(consistency_weight)

    def forward(self, image: Tensor) -> Tensor:
        """Map images ``(B, C, *S)`` to probabilities ``(B, K, *S)``, as deployed."""
        logits: Tensor = self.net(image)["logits"]
        return logits.softmax(1)

    def training_step(self, batch: Batch, clock: Clock) -> Step:
        """Return the losses ``ce``, ``dice`` and ``consistency``."""
        labeled = batch.num_labeled
        logits = self.net(batch.image)["logits"]
        probs = logits.softmax(1)
        ce, dice = supervised_loss(logits[:labeled], probs[:labeled], batch.label)
        losses = {"ce": 0.5 * ce, "dice": 0.5 * dice}
        unlabeled = batch.image[labeled:]
        if len(unlabeled):
            again = self(unlabeled + self.noise * torch.randn_like(unlabeled))
            agreement = mean_squared_difference(probs[labeled:], again)
            losses["consistency"] = self.consistency_weight(clock) * agreement
        else:
            losses["consistency"] = probs.new_zeros(())
        return Step(losses, probs)
