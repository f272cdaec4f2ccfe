"""Does the gain come from SAM? Branches that are no methods, each named in every table.

``oracle`` and ``truth`` read the labels of unlabeled cases, which nothing else in semisam does or
can: the batches that carry them are of a type of their own, made only for these two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from semisam.core.errors import SemisamError
from semisam.core.types import Batch, Clock, OracleBatch, Step
from semisam.frameworks.semisam import SemiSAM


class OracleSAM(SemiSAM):
    """Prompts from the truth: an upper bound on what better proposals could bring.

    This is what the published code does unawares. The promptable model, its answers' part in the
    loss and the schedule are the branch's own.
    """

    def _proposal(self, batch: Batch, step: Step) -> tuple[Tensor, Tensor]:
        truth = _truth(batch)
        one_hot = F.one_hot(truth, self.num_classes).movedim(-1, 1).float()
        return one_hot, torch.zeros_like(one_hot[:, :1])


class TruthSAM(SemiSAM):
    """The truth as the model's answer: the ceiling of the branch itself, no model being asked."""

    def _answers(
        self, batch: Batch, step: Step, rows: Sequence[int], clock: Clock
    ) -> tuple[dict[int, dict[int, Tensor]], int]:
        truth = _truth(batch)
        classes = range(1, self.num_classes)
        return {i: {k: (truth[i] == k).float() for k in classes} for i in rows}, 0


class ShuffledSAM(SemiSAM):
    """Each unlabeled row gets the answers that another one got.

    What is left of a gain is not SAM's knowledge of the image: a prior on size and place, or noise
    that regularises. A batch with a single unlabeled row has no other and is refused.
    """

    def _answers(
        self, batch: Batch, step: Step, rows: Sequence[int], clock: Clock
    ) -> tuple[dict[int, dict[int, Tensor]], int]:
        answers, calls = super()._answers(batch, step, rows, clock)
        unlabeled = [i for i in rows if i >= batch.num_labeled]
        if len(unlabeled) < 2:
            raise SemisamError(
                "the control shuffled needs at least two unlabeled rows in a batch, got "
                f"{len(unlabeled)}: raise --batch"
            )
        given = [answers[i] for i in (*unlabeled[1:], unlabeled[0])]
        return answers | dict(zip(unlabeled, given, strict=True)), calls


CONTROLS: Mapping[str, type[SemiSAM]] = {
    "none": SemiSAM,
    "oracle": OracleSAM,
    "truth": TruthSAM,
    "shuffled": ShuffledSAM,
}
"""The branch by ``--sam-control``."""

NEED_TRUTH = frozenset({"oracle", "truth"})
"""The controls whose batches carry the labels of unlabeled cases."""


def _truth(batch: Batch) -> Tensor:
    if not isinstance(batch, OracleBatch):
        raise TypeError(f"this control needs an OracleBatch, got {type(batch).__name__}")
    return batch.truth
