"""A method in the manner of FixMatch: the prediction on an image teaches two strong views of it.

References:
    Sohn et al. "FixMatch: Simplifying semi-supervised learning with consistency and confidence."
    NeurIPS 2020. https://arxiv.org/abs/2001.07685
    Yang, Qi, Feng, Zhang, Shi. "Revisiting weak-to-strong consistency in semi-supervised semantic
    segmentation." CVPR 2023. https://arxiv.org/abs/2208.09910
"""

from __future__ import annotations

import torch
from torch import Tensor

from semisam.core.framework import Framework, NetBuilder, check_not_negative
from semisam.core.losses import masked_supervised_loss, supervised_loss
from semisam.core.types import IGNORE, Batch, Clock, Step
from semisam.core.views import draw_cut, mix, strong_view


class WeakStrong(Framework):
    """A method that minimises ``1/2 (CE + Dice) + u/2 (CE + Dice)_{c >= tau}(p_v, argmax p)``.

    ``p`` is the prediction on an unlabeled image as the loader gives it, ``c`` its largest
    probability, and ``p_v`` that on two strong views, of which the first is mixed by CutMix.

    Args:
        build: network builder; it builds the head ``logits``.
        num_classes: classes counting background.
        threshold: ``tau``, in [0, 1).
        unlabeled_weight: ``u``.

    Raises:
        ValueError: an option is out of range.
    """

    def __init__(
        self,
        build: NetBuilder,
        num_classes: int,
        *,
        threshold: float = 0.85,
        unlabeled_weight: float = 1.0,
    ) -> None:
        super().__init__(build, num_classes)
        check_not_negative(unlabeled_weight=unlabeled_weight)
        if not 0 <= threshold < 1:
            raise ValueError(f"threshold must be in [0, 1), got {threshold}.")
        self.net = build(logits=num_classes)
        self.threshold = threshold
        self.unlabeled_weight = unlabeled_weight

    def forward(self, image: Tensor) -> Tensor:
        """Map images ``(B, C, *S)`` to probabilities ``(B, K, *S)``, as deployed."""
        logits: Tensor = self.net(image)["logits"]
        return logits.softmax(1)

    def training_step(self, batch: Batch, clock: Clock) -> Step:
        """Return the losses ``ce``, ``dice`` and ``strong``, and the share of sure voxels."""
        logits, rows = self.net(batch.image)["logits"], batch.num_labeled
        probs = logits.softmax(1)
        ce, dice = supervised_loss(logits[:rows], probs[:rows], batch.label)
        strong, sure = probs.new_zeros(()), 0.0
        if len(batch.image) > rows:
            # SemiSAM may correct what the method teaches itself.
            pseudo = self._pseudo(self.guided(probs[rows:].detach()))
            sure = float((pseudo != IGNORE).float().mean())
            strong = 0.5 * self.unlabeled_weight * self._taught(batch.image[rows:], pseudo)
        losses = {"ce": 0.5 * ce, "dice": 0.5 * dice, "strong": strong}
        return Step(losses, probs, metrics={"sure": sure})

    def _pseudo(self, target: Tensor) -> Tensor:
        certainty, label = target.max(1)
        return torch.where(certainty >= self.threshold, label, IGNORE)

    def _taught(self, weak: Tensor, pseudo: Tensor) -> Tensor:
        cut = draw_cut(weak)
        views = torch.cat([mix(strong_view(weak), cut), strong_view(weak)])
        labels = torch.cat([mix(pseudo, cut), pseudo])
        logits = self.net(views)["logits"]
        ce, dice = masked_supervised_loss(logits, logits.softmax(1), labels, labels != IGNORE)
        return ce + dice
