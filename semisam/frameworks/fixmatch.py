"""FixMatch, for segmentation in two or three dimensions.

References:
    Sohn et al. "FixMatch: Simplifying semi-supervised learning with consistency and confidence."
    NeurIPS 2020. https://arxiv.org/abs/2001.07685
    Yang, Qi, Feng, Zhang, Shi. "Revisiting weak-to-strong consistency in semi-supervised semantic
    segmentation." CVPR 2023. https://arxiv.org/abs/2208.09910
"""

from __future__ import annotations

import torch
from torch import Tensor

from semisam.core.ema import ema_decay_at, ema_update, frozen_copy
from semisam.core.framework import Framework, NetBuilder, check_not_negative
from semisam.core.losses import masked_supervised_loss, supervised_loss
from semisam.core.schedules import Ramp
from semisam.core.types import IGNORE, Batch, Clock, Step
from semisam.core.views import draw_cut, mix, strong_view, unmix


class FixMatch(Framework):
    """The prediction on an unlabeled image teaches the network on a strong view of the image.

    ``w (CE + Dice) + u w (CE + Dice)_{c >= tau}(student(strong(x)), argmax p(x))``.

    ``p`` is the prediction on the unlabeled image as the loader gives it, ``c`` its largest
    probability. The strong view has another contrast, noise, blur and bias field, and is mixed
    with another row's by CutMix. No voxel moves, and voxels below ``tau`` do not count. The network
    itself makes ``p`` as in the paper, or its exponential moving average with ``ema_decay``. The
    student is deployed.

    The returned map of the unlabeled rows is put together from the mixed strong views.

    Differs from the papers:

    - Dice is added to the cross-entropy, as for every method of the table.
    - There is one strong view and no dropout of features (second paper: two views and one).
    - The weight ``u`` rises over the first part of the training (papers: constant).
    - The loss is a mean over the sure voxels (papers: over all voxels).
    - ``tau`` is 0.85 (papers: 0.95).

    Args:
        build: network builder; called for the head ``logits``.
        num_classes: classes counting background.
        threshold: ``tau``, the least probability of a pseudo-label.
        ema_decay: of the teacher that makes the pseudo-labels; 0: the student makes them.
        cutmix: probability of CutMix in a step.
        supervised_weight: ``w``.
        unlabeled_weight: ``u`` at the end of its rise.
        rise: part of the training over which ``u`` rises; 0: it is constant.
    """

    def __init__(
        self,
        build: NetBuilder,
        num_classes: int,
        *,
        threshold: float = 0.85,
        ema_decay: float = 0.0,
        cutmix: float = 1.0,
        supervised_weight: float = 0.5,
        unlabeled_weight: float = 1.0,
        rise: float = 0.25,
    ) -> None:
        super().__init__(build, num_classes)
        check_not_negative(supervised_weight=supervised_weight, unlabeled_weight=unlabeled_weight)
        if not (0 <= threshold < 1 and 0 <= ema_decay < 1 and 0 <= cutmix <= 1 and 0 <= rise <= 1):
            raise ValueError(
                "threshold and ema_decay must be in [0, 1), cutmix and rise in [0, 1], got "
                f"{threshold}, {ema_decay}, {cutmix} and {rise}."
            )
        self.student = build(logits=num_classes)
        self.teacher = frozen_copy(self.student) if ema_decay else None
        self.threshold = threshold
        self.ema_decay = ema_decay
        self.cutmix = cutmix
        self.supervised_weight = supervised_weight
        self.unlabeled_weight = Ramp(unlabeled_weight, power=2.0, until=rise)

    def forward(self, image: Tensor) -> Tensor:
        """Return the student's softmax probabilities."""
        logits: Tensor = self.student(image)["logits"]
        return logits.softmax(1)

    def training_step(self, batch: Batch, clock: Clock) -> Step:
        """Return ``ce`` and ``dice``, ``strong_ce`` and ``strong_dice``."""
        labeled, w = batch.num_labeled, self.supervised_weight
        weak = batch.image[labeled:]
        if not len(weak):
            return self._supervise(batch)
        target = self.guided(self._predict(weak))
        sure, pseudo = target.max(1)
        # Unsure voxels are not taught, whichever row they are mixed into.
        pseudo = torch.where(sure >= self.threshold, pseudo, IGNORE)
        cut = draw_cut(weak)
        if float(torch.rand(())) >= self.cutmix:
            cut = torch.zeros_like(cut)
        strong = mix(strong_view(weak), cut)
        logits = self.student(torch.cat([batch.image[:labeled], strong]))["logits"]
        probs = logits.softmax(1)
        ce, dice = supervised_loss(logits[:labeled], probs[:labeled], batch.label)
        strong_ce, strong_dice = masked_supervised_loss(
            logits[labeled:], probs[labeled:], mix(pseudo, cut), torch.ones_like(cut)
        )
        u = w * self.unlabeled_weight(clock)
        losses = {"ce": w * ce, "dice": w * dice}
        losses |= {"strong_ce": u * strong_ce, "strong_dice": u * strong_dice}
        own = torch.cat([probs[:labeled], unmix(probs[labeled:], cut)])
        return Step(losses, own, metrics={"sure": float((pseudo != IGNORE).float().mean())})

    def after_update(self, clock: Clock) -> None:
        """Move the teacher towards the student."""
        if self.teacher is not None:
            decay = ema_decay_at(clock.step, self.ema_decay)
            ema_update(self.teacher, self.student, decay, buffers=True)

    def _supervise(self, batch: Batch) -> Step:
        logits = self.student(batch.image)["logits"]
        probs, w = logits.softmax(1), self.supervised_weight
        ce, dice = supervised_loss(logits, probs, batch.label)
        zero = probs.new_zeros(())
        return Step({"ce": w * ce, "dice": w * dice, "strong_ce": zero, "strong_dice": zero}, probs)

    @torch.no_grad()
    def _predict(self, image: Tensor) -> Tensor:
        """Return the map that teaches: ``(U, C, *S)`` to ``(U, K, *S)``."""
        logits: Tensor = (self.student if self.teacher is None else self.teacher)(image)["logits"]
        return logits.softmax(1)
