"""Uncertainty rectified pyramid consistency (URPC).

References:
    Luo, Liao, Chen, Song, Chen, Zhang, Chen, Wang, Zhang. "Efficient semi-supervised gross target
    volume of nasopharyngeal carcinoma segmentation via uncertainty rectified pyramid consistency."
    MICCAI 2021. https://arxiv.org/abs/2012.07042
    Extended in Medical Image Analysis 80, 2022. https://doi.org/10.1016/j.media.2022.102517
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from semisam.core.framework import Framework, NetBuilder, check_not_negative
from semisam.core.losses import supervised_loss
from semisam.core.schedules import Ramp
from semisam.core.types import Batch, Clock, Step

Direction = Literal["scale", "average"]


class UncertaintyRectifiedPyramidConsistency(Framework):
    """Consistency of a network's predictions at several scales, weighted by their uncertainty.

    ``mean_s w (CE_s + Dice_s) + lambda mean_s [rectified_s + mean_U D_s]``.

    One network predicts at several scales ``s``: at full resolution and from ``levels`` coarser
    levels of its decoder, enlarged to the image. Each scale is supervised. On the unlabeled rows
    each is drawn to the average ``p_c`` of all: ``rectified_s = sum W_s (p_s - p_c)^2 / sum W_s``
    with ``W_s = exp(-D_s)``. Voxels on which the scales differ most therefore count less. The
    uncertainty ``D_s = KL(p_s || p_c)`` itself is minimised. There is no second network and no
    second pass. The full-resolution scale is deployed, as in the published code, and its map is
    returned. The branch's uncertainty is the entropy, not ``D``, because scales may agree on one
    half.

    Differs from the paper: the second term is the mean of ``D_s`` (paper: its norm, which grows
    with the patch), as published. The network's dropout precedes the coarser heads (paper: dropout
    and feature noise).

    "Published" in ``--protocol published`` is SSL4MIS's 3-D code. Differs from the published code:

    - ``D_s`` is the paper's ``KL(p_s || p_c)``, at most the log of the number of scales (published:
      ``KL(p_c || p_s)``, without bound, as with ``--protocol published``).
    - Dropout is the network's: in V-Net 0.5 at the bottleneck and before each head (published: 0.5,
      0.3, 0.2 and 0.1 after the four decoder levels, so that finer levels see it too).
    - Dice is over the foreground classes, as for the other methods in the table (published: over
      background too, as with ``dice_classes="all"`` and ``--protocol published``).
    - The learning rate falls in the steps of the Left Atrium scripts from 0.01 (published:
      ``0.1 (1 - t/T)^0.9``; ``--protocol published`` has its form from 0.01).
    - The network and the length of training are those of the Left Atrium scripts (published: a
      3-D U-Net, 60,000 iterations, the length of its ramp too).

    Args:
        build: network builder; called for the head ``logits`` and ``logits_level1``,
            ``logits_level2``, ... .
        num_classes: ``K``, counting background.
        levels: coarser scales; with the paper's 3 there are four scales.
        divergence_of: ``scale``: ``KL(p_s || p_c)``; ``average``: ``KL(p_c || p_s)``, published.
        supervised_weight: ``w``.
        dice_classes: classes that Dice averages over: ``foreground``, or ``all`` as in SSL4MIS.
        consistency_weight: the end value of ``lambda``: 0.1 in the paper.
        ramp_power: exponent on the ramp's fraction: 1 in SemiSAM's paper, 2 in URPC's and in the
            published code.
        ramp_every: iterations between steps of the ramp (published: 150).

    Raises:
        ValueError: if a weight is below 0, ``levels`` is below 1, or the network has fewer levels.
    """

    def __init__(
        self,
        build: NetBuilder,
        num_classes: int,
        *,
        levels: int = 3,
        divergence_of: Direction = "scale",
        supervised_weight: float = 0.5,
        dice_classes: Literal["foreground", "all"] = "foreground",
        consistency_weight: float = 0.1,
        ramp_power: float = 1.0,
        ramp_every: int = 1,
    ) -> None:
        super().__init__(build, num_classes)
        check_not_negative(supervised_weight=supervised_weight)
        if levels < 1:
            raise ValueError(f"levels must be at least 1, got {levels}.")
        self.scales = ("logits", *(f"logits_level{i}" for i in range(1, levels + 1)))
        self.net = build(**dict.fromkeys(self.scales, num_classes))
        self.divergence_of: Direction = divergence_of
        self.supervised_weight = supervised_weight
        self.dice_classes: Literal["foreground", "all"] = dice_classes
        self.consistency_weight = Ramp(consistency_weight, power=ramp_power, every=ramp_every)

    def forward(self, image: Tensor) -> Tensor:
        """Return the full-resolution head's softmax probabilities."""
        logits: Tensor = self.net(image)["logits"]
        return logits.softmax(1)

    def training_step(self, batch: Batch, clock: Clock) -> Step:
        """Return ``ce`` and ``dice`` over all scales, ``consistency`` and ``divergence``."""
        labeled = batch.num_labeled
        heads = self.net(batch.image)
        logits = [heads[name] for name in self.scales]
        terms = [
            supervised_loss(
                s[:labeled], s[:labeled].softmax(1), batch.label, dice_classes=self.dice_classes
            )
            for s in logits
        ]
        ce, dice = (torch.stack(each).mean() for each in zip(*terms, strict=True))
        probs = logits[0].softmax(1)
        if labeled < len(batch.image):
            log_probs = torch.stack([s[labeled:].log_softmax(1) for s in logits])
            rectified, divergence = pyramid_consistency(log_probs, self.divergence_of)
        else:
            rectified = divergence = probs.new_zeros(())
        w, weight = self.supervised_weight, self.consistency_weight(clock)
        losses = {
            "ce": w * ce,
            "dice": w * dice,
            "consistency": weight * rectified,
            "divergence": weight * divergence,
        }
        return Step(losses, probs)


def pyramid_consistency(log_probs: Tensor, divergence_of: Direction) -> tuple[Tensor, Tensor]:
    """Return ``mean_s [sum W (p_s - p_c)^2 / sum W]`` and ``mean_s mean D_s``.

    Gradients flow into every scale, also through average and weights, as published. The square is
    averaged over the classes. 1e-8 in the denominator keeps it above 0.

    Args:
        log_probs: ``(N, U, K, *S)`` log-softmax of the N scales.
        divergence_of: the first distribution of the divergence, ``scale`` or ``average``.
    """
    probs = log_probs.exp()
    log_average = log_probs.logsumexp(0) - math.log(len(log_probs))
    average = log_average.exp()
    ratio = log_probs - log_average
    terms = probs * ratio if divergence_of == "scale" else -average * ratio
    divergence = terms.sum(2, keepdim=True)
    weight = (-divergence).exp()
    squared = (probs - average).square() * weight
    voxels = tuple(range(1, squared.ndim))
    rectified = squared.mean(voxels) / (weight.mean(voxels) + 1e-8)
    return rectified.mean(), divergence.mean()
