"""How far a promptable model's answers may be trusted: the gated weight of the SAM branch.

The paper's own limit is that the branch stops helping once the method is better than the model
that guides it (8 labels in its Table II). The gate closes there by itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

SOFTNESS = 0.1
"""Difference of two Dice values by which the gate opens from 1/2 to 73 %."""


@dataclass(frozen=True)
class Quality:
    """What one batch tells of one foreground class; each a Dice in [0, 1], or ``None``.

    ``None`` stands where nothing was asked or nothing is there to be found.

    Attributes:
        answer: the model's answers against the truth, on the labeled rows.
        proposal: the method's own map against the truth, on the same rows.
        agreement: answers against proposals on the labeled rows.
        agreement_unlabeled: answers against proposals on the unlabeled rows.
    """

    answer: float | None
    proposal: float | None
    agreement: float | None
    agreement_unlabeled: float | None


def gate(quality: Quality) -> float:
    """Return the share of its weight, in [0, 1], that the branch keeps for one class.

    ``sigmoid((answer - expected) / 0.1)``, where ``expected`` is how good the method's own map is
    on *unlabeled* rows. On labeled rows that map has been fitted to the truth, so its Dice there
    says too much; where it is worse, the model agrees with it less, and so
    ``expected = proposal min(agreement_unlabeled / agreement, 1)``.

    A pure function of one batch: the branch carries nothing from step to step. Without evidence
    the gate is shut.
    """
    q = quality
    if q.answer is None or q.proposal is None or not q.agreement or q.agreement_unlabeled is None:
        return 0.0
    expected = q.proposal * min(q.agreement_unlabeled / q.agreement, 1.0)
    return 1.0 / (1.0 + math.exp((expected - q.answer) / SOFTNESS))


def pooled_dice(pairs: Iterable[tuple[Tensor, Tensor]]) -> float | None:
    """Return the Dice of all pairs of ``(*S)`` boolean masks together.

    Pooled, so that a patch with a few voxels of the organ does not weigh as much as a full one.
    ``None`` if no voxel is set in any of them.
    """
    overlap = total = 0
    for one, other in pairs:
        overlap += int((one & other).sum())
        total += int(one.sum()) + int(other.sum())
    return 2 * overlap / total if total else None


def measure(
    masks: Tensor,
    label: Tensor,
    labeled: list[tuple[int, Tensor]],
    unlabeled: list[tuple[int, Tensor]],
    k: int,
) -> Quality:
    """Return the quality of one class's answers.

    Args:
        masks: ``(B, *S)`` bool, the proposal ``[p_k > 0.5]``.
        label: ``(L, *S)`` int64.
        labeled: (row, answer) of the labeled rows that were asked, answers ``(*S)`` bool.
        unlabeled: the same of the unlabeled rows.
        k: the class.
    """
    truth = {row: label[row] == k for row, _ in labeled}
    if not any(bool(mask.any()) for mask in truth.values()):
        return Quality(None, None, None, pooled_dice((a, masks[row]) for row, a in unlabeled))
    return Quality(
        answer=pooled_dice((a, truth[row]) for row, a in labeled),
        proposal=pooled_dice((masks[row], truth[row]) for row, _ in labeled),
        agreement=pooled_dice((a, masks[row]) for row, a in labeled),
        agreement_unlabeled=pooled_dice((a, masks[row]) for row, a in unlabeled),
    )
