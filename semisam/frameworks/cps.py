"""Cross pseudo supervision (CPS).

References:
    Chen, Yuan, Zeng, Wang. "Semi-supervised semantic segmentation with cross pseudo supervision."
    CVPR 2021. https://arxiv.org/abs/2106.01226
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from semisam.core.framework import Framework, NetBuilder, check_not_negative
from semisam.core.losses import supervised_loss
from semisam.core.schedules import Ramp
from semisam.core.types import Batch, Clock, Step


class CrossPseudoSupervision(Framework):
    """Two networks, each supervised by the hard labels that the other predicts.

    ``sum_i w (CE_i + Dice_i) + lambda mean_{L+U} [CE(p_1, y_2) + CE(p_2, y_1)]``.

    Two networks of one architecture, initialised differently, see the same images. ``y_i`` is the
    hard label ``argmax p_i``, through which no gradient flows. Both networks are trained on the
    labels. The first network is deployed, as in the paper, and its map is returned.

    A network that starts from pretrained weights gives them to the head ``logits``. The head of the
    second network has another name, so it starts without them. Two equal networks would stay equal.

    Differs from the paper:

    - Supervision is CE and Dice, as for the other methods of the table (paper: CE).
    - ``lambda`` is that of the other methods and rises. Paper: 1.5 on PASCAL VOC and 6 on
      Cityscapes, constant, for networks pre-trained on ImageNet. Pseudo-labels of networks without
      pre-training are noise at first. With a ramp to 1.5, two small networks agreed on background
      in 200 iterations on phantoms.
    - ``mean_{L+U}`` is one mean over all rows, as in the published code (paper: the mean of each
      set, added).
    - CutMix, an option of the paper, is left out.
    - One optimizer holds both networks. This is the same as two, except where the gradient's norm
      is clipped, which is that of both.

    "Published" in ``--protocol published`` is SSL4MIS's 3-D code. Differs from the published code:

    - Dice is over the foreground classes, as for the other methods in the table (published: over
      background too, as with ``dice_classes="all"`` and ``--protocol published``).
    - Both networks have the initialisation of their class, with other numbers (published: Kaiming
      for the first, Xavier for the second).
    - The learning rate falls in the steps of the Left Atrium scripts (published:
      ``(1 - t/T)^0.9``, as with ``--protocol published``).
    - The network and the length of training are those of the Left Atrium scripts (published: a
      3-D U-Net, 30,000 iterations, the length of its ramp too).

    Args:
        build: network builder; called for the head ``logits`` and for ``logits_second``.
        num_classes: classes counting background.
        supervised_weight: ``w``.
        dice_classes: classes that Dice averages over: ``foreground``, or ``all`` as in SSL4MIS.
        consistency_weight: the end value of ``lambda``. The default 0.1 is that of SSL4MIS, the
            common code for medical scans.
        consistency_rows: rows with pseudo-labels: ``all`` as in the paper, or ``unlabeled`` as in
            SSL4MIS.
        ramp_power: exponent on the ramp's fraction: 1 in SemiSAM's paper, 2 in SSL4MIS.
        ramp_every: iterations between steps of the ramp (SSL4MIS: 150).
    """

    def __init__(
        self,
        build: NetBuilder,
        num_classes: int,
        *,
        supervised_weight: float = 0.5,
        dice_classes: Literal["foreground", "all"] = "foreground",
        consistency_weight: float = 0.1,
        consistency_rows: Literal["all", "unlabeled"] = "all",
        ramp_power: float = 1.0,
        ramp_every: int = 1,
    ) -> None:
        super().__init__(build, num_classes)
        check_not_negative(supervised_weight=supervised_weight)
        self.first = build(logits=num_classes)
        self.second = build(logits_second=num_classes)
        self.supervised_weight = supervised_weight
        self.dice_classes: Literal["foreground", "all"] = dice_classes
        self.consistency_rows = consistency_rows
        self.consistency_weight = Ramp(consistency_weight, power=ramp_power, every=ramp_every)

    def forward(self, image: Tensor) -> Tensor:
        """Return the first network's softmax probabilities."""
        logits: Tensor = self.first(image)["logits"]
        return logits.softmax(1)

    def training_step(self, batch: Batch, clock: Clock) -> Step:
        """Return ``ce`` and ``dice``, each the sum over both networks, and ``consistency``."""
        labeled = batch.num_labeled
        one: Tensor = self.first(batch.image)["logits"]
        two: Tensor = self.second(batch.image)["logits_second"]
        probs = one.softmax(1)
        w, label, classes = self.supervised_weight, batch.label, self.dice_classes
        ce_1, dice_1 = supervised_loss(one[:labeled], probs[:labeled], label, dice_classes=classes)
        ce_2, dice_2 = supervised_loss(
            two[:labeled], two[:labeled].softmax(1), label, dice_classes=classes
        )
        losses = {"ce": w * (ce_1 + ce_2), "dice": w * (dice_1 + dice_2)}

        rows = 0 if self.consistency_rows == "all" else labeled
        if rows < len(batch.image):
            cross = cross_pseudo_loss(one[rows:], two[rows:])
            losses["consistency"] = self.consistency_weight(clock) * cross
        else:
            losses["consistency"] = probs.new_zeros(())
        return Step(losses, probs)


def cross_pseudo_loss(one: Tensor, two: Tensor) -> Tensor:
    """Return ``CE(one, argmax two) + CE(two, argmax one)``, each a mean over the voxels.

    Args:
        one: ``(B, K, *S)`` logits of one network.
        two: ``(B, K, *S)`` logits of the other.
    """
    return F.cross_entropy(one, two.argmax(1)) + F.cross_entropy(two, one.argmax(1))
