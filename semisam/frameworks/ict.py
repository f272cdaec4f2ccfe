"""Interpolation consistency training (ICT).

References:
    Verma, Lamb, Kannala, Bengio, Lopez-Paz. "Interpolation consistency training for
    semi-supervised learning." IJCAI 2019. https://arxiv.org/abs/1903.03825
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Beta

from semisam.core.ema import ema_decay_at, ema_update, frozen_copy
from semisam.core.framework import Framework, NetBuilder, check_not_negative
from semisam.core.losses import mean_squared_difference, supervised_loss
from semisam.core.schedules import Ramp
from semisam.core.types import Batch, Clock, Step


class InterpolationConsistencyTraining(Framework):
    """Consistency of the prediction for a mix of two images with the mix of their predictions.

    ``w (CE + Dice) + lambda_c mean [f(mix(u, v)) - mix(g(u), g(v))]^2``.

    ``mix(u, v) = m u + (1 - m) v`` with ``m ~ Beta(alpha, alpha)``, one draw a step. Each unlabeled
    row ``u`` is mixed with another, ``v``. The teacher ``g`` is the exponential moving average of
    the student ``f``; it runs in training mode and without a gradient. The student is deployed.

    A batch with a single unlabeled row has no second one to mix it with. That row and the last
    labeled one are then mixed with each other, without the label. (Mixed with itself, the image
    would not change, and the term would be that of Mean Teacher.)

    No loss uses the student's map of the plain unlabeled images, but the step returns one of every
    row. They run through the student once more, after the labeled and mixed rows and in their own
    pass, so that their BatchNorm statistics do not enter the losses. No gradient flows through that
    pass unless another term, such as SemiSAM's, uses the map.

    Differs from the paper: labeled images are not mixed, and the decay's end value is that of Mean
    Teacher here (paper: 0.999, in 400 epochs).

    "Published" in ``--protocol published`` is SSL4MIS's 3-D code. Differs from the published code:

    - Every unlabeled row is mixed (published: the first two into one).
    - The teacher sees all unlabeled rows in one pass and starts as a copy of the student
      (published: one row in each pass, whose BatchNorm statistics are the row's; random weights
      that the first update overwrites).
    - Dice is over the foreground classes, as for the other methods in the table (published: over
      background too, as with ``dice_classes="all"`` and ``--protocol published``).
    - The learning rate falls in the steps of the Left Atrium scripts (published:
      ``(1 - t/T)^0.9``, as with ``--protocol published``).
    - The network and the length of training are those of the Left Atrium scripts (published: a
      3-D U-Net, 30,000 iterations, the length of its ramp too).

    Args:
        build: network builder; called for the head ``logits``.
        num_classes: classes counting background.
        alpha: of the Beta distribution: 1 on CIFAR-10 and 0.1 on SVHN in the paper, 0.2 in SSL4MIS.
        ema_decay: ``a`` in ``theta' = a theta' + (1 - a) theta``, reached over the first steps.
        ema_buffers: average the BatchNorm statistics too.
        supervised_weight: ``w``.
        dice_classes: classes that Dice averages over: ``foreground``, or ``all`` as in SSL4MIS.
        consistency_weight: the end value of ``lambda_c``. The default is that of Mean Teacher on
            scans, as in SSL4MIS (paper: 100, as for its Mean Teacher on CIFAR-10).
        ramp_power: exponent on the ramp's fraction: 1 in SemiSAM's paper, 2 in SSL4MIS.
        ramp_every: iterations between steps of the ramp (SSL4MIS: 150).

    Raises:
        ValueError: if an option is out of range, such as an ``alpha`` of 0.
    """

    def __init__(
        self,
        build: NetBuilder,
        num_classes: int,
        *,
        alpha: float = 0.2,
        ema_decay: float = 0.99,
        ema_buffers: bool = False,
        supervised_weight: float = 0.5,
        dice_classes: Literal["foreground", "all"] = "foreground",
        consistency_weight: float = 0.1,
        ramp_power: float = 1.0,
        ramp_every: int = 1,
    ) -> None:
        super().__init__(build, num_classes)
        check_not_negative(supervised_weight=supervised_weight)
        if not alpha > 0:
            raise ValueError(f"alpha of the Beta distribution must be above 0, got {alpha}.")
        if not 0 <= ema_decay <= 1:
            raise ValueError(f"ema_decay must be in [0, 1], got {ema_decay}.")
        self.student = build(logits=num_classes)
        self.teacher = frozen_copy(self.student)
        self.alpha = alpha
        self.ema_decay = ema_decay
        self.ema_buffers = ema_buffers
        self.supervised_weight = supervised_weight
        self.dice_classes: Literal["foreground", "all"] = dice_classes
        self.consistency_weight = Ramp(consistency_weight, power=ramp_power, every=ramp_every)

    def forward(self, image: Tensor) -> Tensor:
        """Return the student's softmax probabilities."""
        logits: Tensor = self.student(image)["logits"]
        return logits.softmax(1)

    def training_step(self, batch: Batch, clock: Clock) -> Step:
        """Return ``ce``, ``dice`` and ``consistency``."""
        image, labeled = batch.image, batch.num_labeled
        unlabeled = len(image) - labeled
        pool = image[labeled - 1 :] if unlabeled == 1 else image[labeled:]
        share, shift = draw_mix(self.alpha, len(pool))
        mixed = mix(pool, share, shift)
        logits = self.student(torch.cat([image[:labeled], mixed]))["logits"]
        probs = logits.softmax(1)
        ce, dice = supervised_loss(
            logits[:labeled], probs[:labeled], batch.label, dice_classes=self.dice_classes
        )
        w = self.supervised_weight
        losses = {"ce": w * ce, "dice": w * dice}
        if not unlabeled:
            return Step({**losses, "consistency": probs.new_zeros(())}, probs)

        target = mix(self._teach(pool), share, shift)
        consistency = mean_squared_difference(probs[labeled:], target)
        losses["consistency"] = self.consistency_weight(clock) * consistency
        return Step(losses, torch.cat([probs[:labeled], self(image[labeled:])]))

    def after_update(self, clock: Clock) -> None:
        """Move the teacher towards the student."""
        decay = ema_decay_at(clock.step, self.ema_decay)
        ema_update(self.teacher, self.student, decay, buffers=self.ema_buffers)

    @torch.no_grad()
    def _teach(self, image: Tensor) -> Tensor:
        """Return the teacher's softmax: ``(R, C, *S)`` to ``(R, K, *S)``."""
        logits: Tensor = self.teacher(image)["logits"]
        return logits.softmax(1)


def draw_mix(alpha: float, rows: int) -> tuple[float, int]:
    """Draw the share ``m ~ Beta(alpha, alpha)`` and the shift from a row to its partner.

    Both are from torch's default generator. The shift is in 1 .. rows - 1, so that no row is its
    own partner.
    """
    share = float(Beta(alpha, alpha).sample())
    return share, int(torch.randint(1, rows, ())) if rows > 2 else 1


def mix(rows: Tensor, share: float, shift: int) -> Tensor:
    """Return ``m x_i + (1 - m) x_{i + shift}``, row numbers modulo their count.

    Args:
        rows: ``(R, ...)``: images or maps.
        share: ``m`` in [0, 1].
        shift: from a row to its partner.
    """
    return share * rows + (1.0 - share) * rows.roll(-shift, 0)
