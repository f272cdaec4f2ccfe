"""Bidirectional copy-paste (BCP).

References:
    Bai, Chen, Li, Shen, Wang. "Bidirectional copy-paste for semi-supervised medical image
    segmentation." CVPR 2023. https://arxiv.org/abs/2305.00673
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from semisam.core.ema import ema_decay_at, ema_update, frozen_copy
from semisam.core.framework import Framework, NetBuilder, check_not_negative
from semisam.core.losses import masked_supervised_loss, supervised_loss
from semisam.core.types import Batch, Clock, Step
from semisam.core.views import box_of
from semisam.metrics.scores import largest_components


class BidirectionalCopyPaste(Framework):
    """Copy-paste between labeled and unlabeled images, in both directions.

    ``w sum_{in, out} [(CE + Dice) on the label's voxels + alpha (CE + Dice) on the others']``.

    A box of ``beta`` of each axis is cut. Inward, the box of an unlabeled image is pasted onto a
    labeled one. Outward, the box of a labeled image is pasted onto an unlabeled one. The label and
    the teacher's pseudo-label (argmax, the largest component of each class) are mixed alike. The
    teacher is the exponential moving average of the student, in training mode. The student is
    deployed.

    The first ``pretrain`` of the run is the paper's first stage: labeled images are pasted onto
    each other, both supervised. A single labeled row is not changed by it. Its teacher is a copy
    of the student.

    Rows are paired cyclically in ``max(L, U)`` pairs. Each row is pasted and pasted onto, with
    different partners where possible: a batch of 2 + 2 makes four mixes, 1 + 3 makes six. Every
    voxel of every row is therefore in one of two mixes. The returned map is put together from them
    without another pass. It is not exactly that of ``forward``, because the network sees another
    scan beyond the box's faces. While pre-training, no loss uses the unlabeled rows. They run
    through the student once, only for the map.

    Differs from the paper: every row is used in two mixes (paper: four images make one inward and
    one outward mix).

    Differs from the published code:

    - The box has one more position along each axis.
    - A batch has at most as many labeled rows as there are labeled cases (published: 4).
    - Dice is over the foreground classes, as for every method of the table, with squares in the
      denominator and all rows together (published: background too, no squares, a mean over rows).
    - Both mixes share a pass, and so do all rows of the teacher (published: each half of them).
    - The teacher's decay rises to ``ema_decay`` over the first updates of the run, if it pre-trains
      for less than these (published: constant).
    - The last pre-trained network is trained further, and the last one deployed (published: the
      best on the test set, both times).
    - One optimizer and one schedule run through both stages (published: a new one for the second
      stage, whose steps of the learning rate count from its start).

    Args:
        build: network builder; called for the head ``logits``.
        num_classes: classes counting background.
        beta: the box's share of each axis.
        alpha: weight of the pseudo-labeled voxels, constant as in the paper.
        pretrain: fraction of training in the first stage. Paper: 2,000 of 2,000 + 15,000 iterations
            on the Left Atrium, 10,000 of 40,000 on ACDC.
        largest_component: keep the largest component of each class of a pseudo-label.
        ema_decay: ``a`` in ``theta' = a theta' + (1 - a) theta``.
        ema_buffers: average the BatchNorm statistics too.
        supervised_weight: ``w``.

    Raises:
        ValueError: if an option is out of range: ``beta`` in (0, 1), ``pretrain`` in [0, 1).
    """

    def __init__(
        self,
        build: NetBuilder,
        num_classes: int,
        *,
        beta: float = 2 / 3,
        alpha: float = 0.5,
        pretrain: float = 2 / 17,
        largest_component: bool = True,
        ema_decay: float = 0.99,
        ema_buffers: bool = False,
        supervised_weight: float = 0.5,
    ) -> None:
        super().__init__(build, num_classes)
        check_not_negative(supervised_weight=supervised_weight, alpha=alpha)
        if not (0 < beta < 1 and 0 <= pretrain < 1):
            raise ValueError(
                f"beta must be in (0, 1) and pretrain in [0, 1), got {beta} and {pretrain}."
            )
        if not 0 <= ema_decay <= 1:
            raise ValueError(f"ema_decay must be in [0, 1], got {ema_decay}.")
        self.student = build(logits=num_classes)
        self.teacher = frozen_copy(self.student)
        self.beta = beta
        self.alpha = alpha
        self.pretrain = pretrain
        self.largest_component = largest_component
        self.ema_decay = ema_decay
        self.ema_buffers = ema_buffers
        self.supervised_weight = supervised_weight

    def forward(self, image: Tensor) -> Tensor:
        """Return the student's softmax probabilities."""
        logits: Tensor = self.student(image)["logits"]
        return logits.softmax(1)

    def training_step(self, batch: Batch, clock: Clock) -> Step:
        """Return ``ce`` and ``dice``, ``pseudo_ce`` and ``pseudo_dice``."""
        box = draw_box(batch.image.shape[2:], self.beta).to(batch.image.device)
        if self._pretraining(clock) or batch.num_labeled == len(batch.image):
            return self._paste_labeled(batch, box)
        return self._paste_both_ways(batch, box)

    def after_update(self, clock: Clock) -> None:
        """Move the teacher towards the student; while pre-training, copy it."""
        decay = 0.0 if self._pretraining(clock) else ema_decay_at(clock.step, self.ema_decay)
        ema_update(self.teacher, self.student, decay, buffers=self.ema_buffers)

    def _pretraining(self, clock: Clock) -> bool:
        return clock.fraction < self.pretrain

    def _paste_labeled(self, batch: Batch, box: Tensor) -> Step:
        labeled = batch.num_labeled
        image, label = batch.image[:labeled], batch.label
        logits = self.student(torch.where(box, image.roll(-1, 0), image))["logits"]
        probs = logits.softmax(1)
        ce, dice = supervised_loss(logits, probs, torch.where(box, label.roll(-1, 0), label))
        w, zero = self.supervised_weight, probs.new_zeros(())
        losses = {"ce": w * ce, "dice": w * dice, "pseudo_ce": zero, "pseudo_dice": zero}
        # The previous mix holds row i's box.
        probs = torch.where(box, probs.roll(1, 0), probs)
        if labeled < len(batch.image):
            probs = torch.cat([probs, self(batch.image[labeled:])])
        return Step(losses, probs)

    def _paste_both_ways(self, batch: Batch, box: Tensor) -> Step:
        source, target = batch.image[: batch.num_labeled], batch.image[batch.num_labeled :]
        labeled, unlabeled = len(source), len(target)
        pair = torch.arange(max(labeled, unlabeled), device=box.device)
        known, pasted, ground = pair % labeled, pair % unlabeled, (pair + 1) % unlabeled
        label, pseudo = batch.label[known], self._pseudo_label(target)
        inward = torch.where(box, target[pasted], source[known])
        outward = torch.where(box, source[known], target[ground])

        both: Tensor = self.student(torch.cat([inward, outward]))["logits"]
        logits, probs = both.chunk(2), both.softmax(1).chunk(2)
        outside, w = ~box, self.supervised_weight
        ce_in, dice_in = masked_supervised_loss(logits[0], probs[0], label, outside)
        ce_out, dice_out = masked_supervised_loss(logits[1], probs[1], label, box)
        losses = {"ce": w * (ce_in + ce_out), "dice": w * (dice_in + dice_out)}
        ce_in, dice_in = masked_supervised_loss(logits[0], probs[0], pseudo[pasted], box)
        ce_out, dice_out = masked_supervised_loss(logits[1], probs[1], pseudo[ground], outside)
        losses["pseudo_ce"] = self.alpha * w * (ce_in + ce_out)
        losses["pseudo_dice"] = self.alpha * w * (dice_in + dice_out)
        return Step(losses, reassemble(probs[0], probs[1], box, labeled, unlabeled))

    @torch.no_grad()
    def _pseudo_label(self, image: Tensor) -> Tensor:
        """Return the teacher's hard labels: ``(U, C, *S)`` to ``(U, *S)`` int64."""
        label: Tensor = self.teacher(image)["logits"].argmax(1)
        if not self.largest_component:
            return label
        rows = label.to(torch.uint8).cpu().numpy()
        classes = range(1, self.num_classes)
        kept = [torch.from_numpy(largest_components(row, classes)) for row in rows]
        return torch.stack(kept).to(label)


def draw_box(shape: Sequence[int], beta: float) -> Tensor:
    """Return ``(*S)`` boolean, True in a box of ``beta`` of each axis at a random place in it.

    It is drawn from torch's default generator. The paper's mask ``M`` is its negation.
    """
    return box_of(shape, [max(int(size * beta), 1) for size in shape])


def reassemble(
    inward: Tensor, outward: Tensor, box: Tensor, labeled: int, unlabeled: int
) -> Tensor:
    """Return the map of every row, each voxel from a mix that holds the row's own voxel.

    Pair k pastes the box of unlabeled row ``k mod U`` onto labeled row ``k mod L`` (inward), and
    the box of that labeled row onto unlabeled row ``(k + 1) mod U`` (outward).

    Args:
        inward: ``(max(L, U), K, *S)`` maps of the inward mixes.
        outward: ``(max(L, U), K, *S)`` maps of the outward mixes.
        box: ``(*S)`` boolean.
        labeled: ``L``.
        unlabeled: ``U``.

    Returns:
        ``(L + U, K, *S)``, labeled rows first.
    """
    of_labeled = torch.where(box, outward[:labeled], inward[:labeled])
    around = outward[:unlabeled].roll(1, 0)
    return torch.cat([of_labeled, torch.where(box, inward[:unlabeled], around)])
