"""Mean Teacher (MT).

References:
    Tarvainen, Valpola. "Mean teachers are better role models: weight-averaged consistency targets
    improve semi-supervised deep learning results." NeurIPS 2017. https://arxiv.org/abs/1703.01780
    Its three-dimensional form follows UA-MT, https://arxiv.org/abs/1907.07034.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from semisam.core.ema import ema_decay_at, ema_update, frozen_copy
from semisam.core.framework import Framework, NetBuilder, check_not_negative
from semisam.core.losses import mean_squared_difference, supervised_loss
from semisam.core.schedules import Ramp
from semisam.core.types import Batch, Clock, Step


class MeanTeacher(Framework):
    """Consistency of the student with a teacher, its exponential moving average.

    ``w (CE + Dice) + lambda_c mean_U (p_student - p_teacher)^2``.

    The teacher sees the unlabeled rows with clamped Gaussian noise, in training mode and without a
    gradient. The student is deployed.

    There is no published script of MT on the Left Atrium. "Published" here is SemiSAM's script
    without its branch: CE + Dice with weight 1, half the consistency, over all rows, and one
    labeled row in a batch of four. Those are options, and ``--protocol published`` sets them.

    Differs from the published code:

    - The teacher starts as a copy of the student (published: a random network that the first update
      overwrites with the student, which is the same from the second step on).
    - The rows that the teacher sees are those of the consistency term.
    - Without an unlabeled row in the batch the term is 0 unless it takes all rows.
    - The term counts from the first iteration on (published by SSL4MIS in 2-D: from iteration 1,000
      on).

    Args:
        build: network builder; called for the head ``logits``.
        num_classes: classes counting background.
        ema_decay: ``a`` in ``theta' = a theta' + (1 - a) theta``, reached over the first steps.
        ema_buffers: average the BatchNorm statistics too.
        noise_std: standard deviation of the noise on the teacher's input, in image units.
        noise_clip: the noise is clamped to plus or minus this.
        supervised_weight: ``w``, of CE and Dice: 0.5 in UA-MT, 1 in SemiSAM's published script.
        consistency_weight: the end value of ``lambda_c``.
        consistency_rows: rows of the consistency term: ``unlabeled`` as in the paper, or ``all``.
        ramp_power: exponent on the ramp's fraction: 1 in the paper, 2 in the published code.
        ramp_every: iterations between steps of the ramp (published: 150).
    """

    def __init__(
        self,
        build: NetBuilder,
        num_classes: int,
        *,
        ema_decay: float = 0.99,
        ema_buffers: bool = False,
        noise_std: float = 0.1,
        noise_clip: float = 0.2,
        supervised_weight: float = 0.5,
        consistency_weight: float = 0.1,
        consistency_rows: Literal["unlabeled", "all"] = "unlabeled",
        ramp_power: float = 1.0,
        ramp_every: int = 1,
    ) -> None:
        super().__init__(build, num_classes)
        if not 0 <= ema_decay <= 1:
            raise ValueError(f"ema_decay must be in [0, 1], got {ema_decay}.")
        check_not_negative(
            supervised_weight=supervised_weight, noise_std=noise_std, noise_clip=noise_clip
        )
        self.student = build(logits=num_classes)
        self.teacher = frozen_copy(self.student)
        self.ema_decay = ema_decay
        self.ema_buffers = ema_buffers
        self.noise_std = noise_std
        self.noise_clip = noise_clip
        self.supervised_weight = supervised_weight
        self.consistency_rows = consistency_rows
        self.consistency_weight = Ramp(consistency_weight, power=ramp_power, every=ramp_every)

    def forward(self, image: Tensor) -> Tensor:
        """Return the student's softmax probabilities."""
        logits: Tensor = self.student(image)["logits"]
        return logits.softmax(1)

    def training_step(self, batch: Batch, clock: Clock) -> Step:
        """Return ``ce``, ``dice`` and ``consistency``."""
        probs, losses = self._supervise(batch)
        first = 0 if self.consistency_rows == "all" else batch.num_labeled
        if first < len(batch.image):
            target = self._teach(batch.image[first:])
            consistency = mean_squared_difference(probs[first:], target)
            losses["consistency"] = self.consistency_weight(clock) * consistency
        else:
            losses["consistency"] = probs.new_zeros(())
        return Step(losses, probs)

    def after_update(self, clock: Clock) -> None:
        """Move the teacher towards the student."""
        decay = ema_decay_at(clock.step, self.ema_decay)
        ema_update(self.teacher, self.student, decay, buffers=self.ema_buffers)

    def _supervise(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the student's map ``(B, K, *S)`` and the weighted ``ce`` and ``dice``."""
        labeled = batch.num_labeled
        logits = self.student(batch.image)["logits"]
        probs = logits.softmax(1)
        ce, dice = supervised_loss(logits[:labeled], probs[:labeled], batch.label)
        w = self.supervised_weight
        return probs, {"ce": w * ce, "dice": w * dice}

    @torch.no_grad()
    def _teach(self, image: Tensor) -> Tensor:
        """Return the teacher's softmax of noisy rows: ``(R, C, *S)`` to ``(R, K, *S)``."""
        noise = torch.randn_like(image).mul_(self.noise_std)
        noisy = image + noise.clamp_(-self.noise_clip, self.noise_clip)
        logits: Tensor = self.teacher(noisy)["logits"]
        return logits.softmax(1)
