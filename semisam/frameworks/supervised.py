"""The supervised baseline: labeled rows only."""

from __future__ import annotations

from torch import Tensor

from semisam.core.framework import Framework, NetBuilder, check_not_negative
from semisam.core.losses import supervised_loss
from semisam.core.types import Batch, Clock, Step


class Supervised(Framework):
    """Supervised training on the labeled rows: the floor of every comparison.

    ``w (CE + Dice)``.

    The network and its BatchNorm statistics see no unlabeled volume. Wrapped by SemiSAM they do,
    since the branch needs a proposal for the unlabeled rows.

    With ``--batch 4`` it uses the two labeled rows only, which is the published batch size of 2.
    With one labeled case it uses one row.

    Differs from the published code (SemiSAM's ``train_LA.py``):

    - It trains for as long as the other methods (published: 12,000 iterations, which
      ``--protocol published`` sets).
    - It is tested at the patch that it trained on (published: trained at 112x112x80, tested at
      128^3).

    Args:
        build: network builder; called for the head ``logits``.
        num_classes: classes counting background.
        supervised_weight: ``w``, of CE and Dice.
    """

    uses_unlabeled = False

    def __init__(
        self, build: NetBuilder, num_classes: int, *, supervised_weight: float = 0.5
    ) -> None:
        super().__init__(build, num_classes)
        check_not_negative(supervised_weight=supervised_weight)
        self.net = build(logits=num_classes)
        self.supervised_weight = supervised_weight

    def forward(self, image: Tensor) -> Tensor:
        """Return softmax probabilities."""
        logits: Tensor = self.net(image)["logits"]
        return logits.softmax(1)

    def training_step(self, batch: Batch, clock: Clock) -> Step:
        """Return ``ce`` and ``dice``."""
        logits = self.net(batch.image)["logits"]
        probs = logits.softmax(1)
        rows = batch.num_labeled
        ce, dice = supervised_loss(logits[:rows], probs[:rows], batch.label)
        w = self.supervised_weight
        return Step({"ce": w * ce, "dice": w * dice}, probs)
