"""Entropy minimisation (Ent-Mini).

References:
    Vu, Jain, Bucher, Cord, Perez. "ADVENT: Adversarial entropy minimization for domain adaptation
    in semantic segmentation." CVPR 2019. https://arxiv.org/abs/1811.12833
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from semisam.core.framework import Framework, NetBuilder, check_not_negative
from semisam.core.losses import entropy, supervised_loss
from semisam.core.schedules import Ramp
from semisam.core.types import Batch, Clock, Step


class EntropyMinimisation(Framework):
    """Minimal entropy of the predictions on all rows.

    ``w (CE + Dice) + lambda_c mean_{L+U} [entropy(p) / ln C]``.

    There is no published script of it on the Left Atrium. "Published" here is SSL4MIS's 3-D code.

    Differs from the published code:

    - Dice is over the foreground classes, as for the other methods in the table (published: over
      background too, as with ``dice_classes="all"`` and ``--protocol published``).
    - The learning rate falls in the steps of the Left Atrium scripts (published:
      ``(1 - t/T)^0.9``, as with ``--protocol published``).
    - The network and the length of training are those of the Left Atrium scripts (published: a
      3-D U-Net, 30,000 iterations, the length of its ramp too; 6,000 iterations of it would see a
      weight of at most 0.004).

    Args:
        build: network builder; called for the head ``logits``.
        num_classes: ``C``, counting background.
        supervised_weight: ``w``, of CE and Dice.
        dice_classes: classes that Dice averages over: ``foreground``, or ``all`` as published.
        consistency_weight: the end value of ``lambda_c``.
        ramp_power: exponent on the ramp's fraction: 1 in SemiSAM's paper, 2 in the published code.
        ramp_every: iterations between steps of the ramp (published: 150).
    """

    def __init__(
        self,
        build: NetBuilder,
        num_classes: int,
        *,
        supervised_weight: float = 0.5,
        dice_classes: Literal["foreground", "all"] = "foreground",
        consistency_weight: float = 0.1,
        ramp_power: float = 1.0,
        ramp_every: int = 1,
    ) -> None:
        super().__init__(build, num_classes)
        check_not_negative(supervised_weight=supervised_weight)
        self.net = build(logits=num_classes)
        self.supervised_weight = supervised_weight
        self.dice_classes = dice_classes
        self.consistency_weight = Ramp(consistency_weight, power=ramp_power, every=ramp_every)

    def forward(self, image: Tensor) -> Tensor:
        """Return softmax probabilities."""
        logits: Tensor = self.net(image)["logits"]
        return logits.softmax(1)

    def training_step(self, batch: Batch, clock: Clock) -> Step:
        """Return ``ce``, ``dice`` and ``entropy``."""
        labeled = batch.num_labeled
        logits = self.net(batch.image)["logits"]
        probs = logits.softmax(1)
        ce, dice = supervised_loss(
            logits[:labeled], probs[:labeled], batch.label, dice_classes=self.dice_classes
        )
        w = self.supervised_weight
        map_of_entropy = entropy(probs)
        weighted = self.consistency_weight(clock) * map_of_entropy.mean()
        uncertainty = map_of_entropy.detach().clamp(0, 1)
        return Step({"ce": w * ce, "dice": w * dice, "entropy": weighted}, probs, uncertainty)
