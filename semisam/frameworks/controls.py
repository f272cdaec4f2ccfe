"""Controls of the SAM branch, to test whether a gain comes from SAM.

A control is not a method, and every table names it. Only ``oracle`` and ``truth`` read the labels
of unlabeled cases. These labels are in batches of another type, made only for these two. At ignored
voxels the method's own map replaces the truth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from semisam.core.errors import SemisamError
from semisam.core.seeding import derive_seed
from semisam.core.types import IGNORE, Batch, Clock, OracleBatch, Step
from semisam.frameworks.semisam import SemiSAM


class OracleSAM(SemiSAM):
    """The branch with prompts from the truth: an upper bound on the gain from better proposals.

    The published code does the same. Backend, loss and schedule are those of the branch.
    """

    def _proposal(self, batch: Batch, step: Step) -> tuple[Tensor, Tensor]:
        known = _truth(batch, step, self.num_classes)
        return known, torch.zeros_like(known[:, :1])


class TruthSAM(OracleSAM):
    """The branch with the truth as the prediction: its upper bound. No model is queried.

    It has no gate, which doubts a prediction that differs from the method's map.
    """

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **{**options, "gated": False})

    def _predictions(
        self,
        batch: Batch,
        proposal: tuple[Tensor, Tensor],
        rows: Sequence[int],
        clock: Clock,
        classes: Sequence[int],
    ) -> tuple[dict[int, dict[int, Tensor]], int]:
        truth, _ = proposal
        return {i: {k: truth[i, k] for k in classes} for i in rows}, 0


class ShuffledSAM(SemiSAM):
    """The branch with each unlabeled row's predictions replaced by those for another row.

    A gain that remains does not come from the backend's view of the image. It comes from a prior on
    size and place, or from noise that regularises. The weight is that of the branch, which measures
    the predictions before they are exchanged. A single unlabeled row is refused.
    """

    def _exchanged(
        self, batch: Batch, predictions: dict[int, dict[int, Tensor]], clock: Clock
    ) -> dict[int, dict[int, Tensor]]:
        unlabeled = range(batch.num_labeled, len(batch.image))
        if len(unlabeled) < 2:
            raise SemisamError(
                "the control shuffled must have at least two unlabeled rows in a batch, got "
                f"{len(unlabeled)}. Raise --batch."
            )
        given = [predictions[i] for i in (*unlabeled[1:], unlabeled[0])]
        return predictions | dict(zip(unlabeled, given, strict=True))


class MovedSAM(ShuffledSAM):
    """`ShuffledSAM`, and each prediction is moved by a random shift of up to half the patch.

    Scans that were cropped around an organ hold it at the same place, so predictions for another
    row still show it. Moved ones do not. What is moved out of the patch comes in on the other side.
    """

    def _exchanged(
        self, batch: Batch, predictions: dict[int, dict[int, Tensor]], clock: Clock
    ) -> dict[int, dict[int, Tensor]]:
        found = super()._exchanged(batch, predictions, clock)
        shape = batch.image.shape[2:]
        moved = {}
        for i in range(batch.num_labeled, len(batch.image)):
            rng = torch.Generator().manual_seed(
                derive_seed(self.seed, "moved", clock.step, batch.number(i))
            )
            by = [int(torch.randint(-(n // 2), n // 2 + 1, (), generator=rng)) for n in shape]
            axes = tuple(range(len(shape)))
            moved[i] = {k: predicted.roll(by, axes) for k, predicted in found[i].items()}
        return found | moved


CONTROLS: Mapping[str, type[SemiSAM]] = {
    "none": SemiSAM,
    "oracle": OracleSAM,
    "truth": TruthSAM,
    "shuffled": ShuffledSAM,
    "moved": MovedSAM,
}
"""The class of the branch for each value of ``--sam-control``."""

NEED_TRUTH = frozenset({"oracle", "truth"})
"""The controls whose batches carry the labels of unlabeled cases."""


def _truth(batch: Batch, step: Step, num_classes: int) -> Tensor:
    """Return the truth ``(B, K, *S)``, with the method's own map at ignored voxels."""
    if not isinstance(batch, OracleBatch):
        raise TypeError(f"this control needs an OracleBatch, got {type(batch).__name__}")
    known = batch.truth != IGNORE
    one_hot = F.one_hot(batch.truth * known, num_classes).movedim(-1, 1).float()
    return torch.where(known.unsqueeze(1), one_hot, step.probs.detach())
