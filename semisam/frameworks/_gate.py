"""The gated weight of the SAM branch: a measure of a promptable model's predictions.

The branch no longer helps when the method is better than the model that guides it (8 labels in the
paper's Table II). The gate closes there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from semisam.core.types import IGNORE

SOFTNESS = 0.1
"""Difference of two Dice values by which the gate opens from 1/2 to 73 %."""
USUAL = 0.8
"""Agreement on unlabeled rows, relative to labeled ones, below which the model is doubted."""


@dataclass(frozen=True)
class Quality:
    """The quality of one foreground class in one batch: Dice values in [0, 1], or ``None``.

    A value is ``None`` if the model was queried for no row, or if no row holds the class. On the
    labeled rows only annotated voxels count.

    Attributes:
        prediction: the model's predictions against the truth, on the labeled rows.
        proposal: the method's own map against the truth, on the same rows.
        agreement: predictions against proposals on the labeled rows.
        agreement_unlabeled: predictions against proposals on the unlabeled rows.
    """

    prediction: float | None
    proposal: float | None
    agreement: float | None
    agreement_unlabeled: float | None = None


def gate(quality: Quality) -> float:
    """Return the share of its weight, in [0, 1], that the branch keeps for one class.

    ``sigmoid((prediction - r proposal) / 0.1) min(r / 0.8, 1)`` with ``r = min(agreement_unlabeled
    / agreement, 1)``. On labeled rows the method's own map was fitted to the truth, so its Dice
    there is too high. Where the map is worse, the model agrees with it less: ``r proposal``
    estimates its Dice on *unlabeled* rows. But a model that is wrong there agrees less, too. So the
    share fades where the two agree less than four fifths as well as on labeled rows.

    The share is a pure function of one batch, so the branch has no state between steps. Without a
    measured value the gate is shut.
    """
    q = quality
    if (
        q.prediction is None
        or q.proposal is None
        or not q.agreement
        or q.agreement_unlabeled is None
    ):
        return 0.0
    ratio = min(q.agreement_unlabeled / q.agreement, 1.0)
    better = 1.0 / (1.0 + math.exp((ratio * q.proposal - q.prediction) / SOFTNESS))
    return better * min(ratio / USUAL, 1.0)


def pooled_dice(pairs: Iterable[tuple[Tensor, Tensor]]) -> float | None:
    """Return the Dice of all pairs of ``(*S)`` boolean masks together.

    The pairs are pooled, so that a patch with few voxels of the organ counts less than a full one.
    ``None`` if no mask has a voxel set.
    """
    overlap = total = 0
    for one, other in pairs:
        overlap += int((one & other).sum())
        total += int(one.sum()) + int(other.sum())
    return 2 * overlap / total if total else None


def agree(masks: Tensor, predictions: list[tuple[int, Tensor]]) -> float | None:
    """Return the Dice of predictions and proposals, with `measure`'s arguments."""
    return pooled_dice((prediction, masks[row]) for row, prediction in predictions)


def measure(masks: Tensor, label: Tensor, predictions: list[tuple[int, Tensor]], k: int) -> Quality:
    """Return the quality of one class's predictions on the labeled rows.

    Args:
        masks: ``(B, *S)`` bool, the proposal ``[p_k > 0.5]``.
        label: ``(L, *S)`` int64, with ignored voxels.
        predictions: (row, prediction) of the rows with a query; predictions are ``(*S)`` bool.
        k: the class.
    """
    known = {row: label[row] != IGNORE for row, _ in predictions}
    truth = {row: label[row] == k for row, _ in predictions}
    if not any(bool(mask.any()) for mask in truth.values()):
        return Quality(None, None, None)
    own = {row: masks[row] & known[row] for row in known}
    inside = [(row, prediction & known[row]) for row, prediction in predictions]
    return Quality(
        prediction=pooled_dice((found, truth[row]) for row, found in inside),
        proposal=pooled_dice((own[row], truth[row]) for row in truth),
        agreement=pooled_dice((found, own[row]) for row, found in inside),
    )
