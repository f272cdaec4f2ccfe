"""Uncertainty-aware Mean Teacher (UA-MT).

References:
    Yu, Wang, Li, Fu, Heng. "Uncertainty-aware self-ensembling model for semi-supervised 3D left
    atrium segmentation." MICCAI 2019. https://arxiv.org/abs/1907.07034
"""

from __future__ import annotations

import torch
from torch import Tensor

from semisam.core.framework import NetBuilder
from semisam.core.losses import entropy
from semisam.core.schedules import Ramp
from semisam.core.types import Batch, Clock, Step
from semisam.frameworks.mean_teacher import MeanTeacher


class UncertaintyAwareMeanTeacher(MeanTeacher):
    """Mean Teacher with a consistency that counts only where the teacher is certain.

    ``w (CE + Dice) + lambda_c sum_U M (p_student - p_teacher)^2 / (C sum M + 1e-16)`` with
    ``M = [u < H]``, ``u`` the entropy of the mean of T noisy dropout passes of the teacher and
    ``H = (0.75 + 0.25 exp(-5 (1 - t/T)^2)) ln C``. The entropy, divided by ``ln C``, is the step's
    uncertainty for the unlabeled rows. That of the labeled rows is the student's.

    ``lambda_c`` follows the published code if ``ramp_power`` is 2 and ``ramp_every`` 150. ``H`` is
    always the published one, squared and with ``t`` not floored.

    The passes differ by the noise on the image and by the network's dropout, which ``vnet`` and
    ``unet2d`` have, and ``unet`` only with its option ``dropout``.

    Differs from the published code: the teacher starts as a copy of the student (published: a
    random network that the first update overwrites with the student). The entropy is over any
    number of classes, with ``H`` in units of ``ln C`` (published: two classes). SSL4MIS
    in 2-D divides the sum over ``C`` classes by 2, so the weight of ``--protocol published`` for
    two axes is that of 4 classes. As published, the passes run two at a time, and BatchNorm takes
    its statistics over the rows of both.

    Args:
        build: network builder; called for the head ``logits``.
        num_classes: ``C``, counting background.
        passes: ``T``, stochastic passes of the teacher.
        ema_decay: of the teacher, as in Mean Teacher.
        ema_buffers: average the BatchNorm statistics too.
        noise_std: standard deviation of the noise on the teacher's input.
        noise_clip: the noise is clamped to plus or minus this.
        supervised_weight: ``w``, of CE and Dice.
        consistency_weight: the end value of ``lambda_c``.
        ramp_power: exponent on the fraction in ``lambda_c``: 1 in SemiSAM's paper, 2 published.
        ramp_every: iterations between steps of ``lambda_c`` (published: 150).
    """

    def __init__(
        self,
        build: NetBuilder,
        num_classes: int,
        *,
        passes: int = 8,
        ema_decay: float = 0.99,
        ema_buffers: bool = False,
        noise_std: float = 0.1,
        noise_clip: float = 0.2,
        supervised_weight: float = 0.5,
        consistency_weight: float = 0.1,
        ramp_power: float = 1.0,
        ramp_every: int = 1,
    ) -> None:
        super().__init__(
            build,
            num_classes,
            ema_decay=ema_decay,
            ema_buffers=ema_buffers,
            noise_std=noise_std,
            noise_clip=noise_clip,
            supervised_weight=supervised_weight,
            consistency_weight=consistency_weight,
            ramp_power=ramp_power,
            ramp_every=ramp_every,
        )
        if passes < 1:
            raise ValueError(f"passes must be at least 1, got {passes}.")
        self.passes = passes
        self.threshold = Ramp(0.25, power=2.0)

    def training_step(self, batch: Batch, clock: Clock) -> Step:
        """Return ``ce``, ``dice`` and ``consistency``."""
        probs, losses = self._supervise(batch)
        labeled = batch.num_labeled
        if labeled == len(batch.image):
            return Step({**losses, "consistency": probs.new_zeros(())}, probs)

        unlabeled = batch.image[labeled:]
        target = self._teach(unlabeled)
        # The entropy over ln C is in [0, 1], and so is the threshold.
        uncertainty = self._uncertainty(unlabeled)
        sure = uncertainty < 0.75 + self.threshold(clock)
        consistency = masked_consistency(probs[labeled:], target, sure)
        losses["consistency"] = self.consistency_weight(clock) * consistency
        of_labeled = entropy(probs[:labeled].detach())
        everywhere = torch.cat([of_labeled, uncertainty]).clamp(0, 1)
        metrics = {"sure_share": float(sure.float().mean())}
        return Step(losses, probs, everywhere, metrics)

    @torch.no_grad()
    def _uncertainty(self, image: Tensor) -> Tensor:
        """Return the entropy of the mean of the passes: ``(U, C, *S)`` to ``(U, 1, *S)``."""
        rows = len(image)
        total = torch.zeros((), device=image.device)
        for first in range(0, self.passes, 2):
            # Two passes share a batch and its BatchNorm statistics, as published.
            together = min(2, self.passes - first)
            probs = self._teach(torch.cat([image] * together))
            total = total + probs.view(together, rows, *probs.shape[1:]).sum(0)
        return entropy(total / self.passes)


def masked_consistency(student: Tensor, teacher: Tensor, sure: Tensor) -> Tensor:
    """Return ``sum M (p_s - p_t)^2 / (C sum M + 1e-16)``.

    Args:
        student: ``(U, C, *S)``.
        teacher: ``(U, C, *S)``.
        sure: ``M``, ``(U, 1, *S)``.
    """
    mask = sure.to(student.dtype)
    squared = (student - teacher).square() * mask
    return squared.sum() / (student.shape[1] * mask.sum() + 1e-16)
