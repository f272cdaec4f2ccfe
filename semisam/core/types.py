"""The few types that the parts of semisam exchange.

Shapes: ``B`` batch rows, ``C`` image channels, ``K`` classes counting background, ``L`` labeled
rows, ``*S`` two or three spatial axes in array-index order, never (x, y, z).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Labeled rows first; an unlabeled row has no label that could leak.

    Attributes:
        image: ``(B, C, *S)`` float.
        label: ``(L, *S)`` int64 with ``L <= B``.
        rows: the rows' numbers in the step's whole batch; ``None``: these rows are all of it.
    """

    image: Tensor
    label: Tensor
    rows: tuple[int, ...] | None = field(default=None, kw_only=True)

    @property
    def num_labeled(self) -> int:
        """How many of the leading rows carry a label."""
        return int(self.label.shape[0])

    def number(self, row: int) -> int:
        """Return a row's number in the step's whole batch: what a draw per row is seeded by."""
        return row if self.rows is None else self.rows[row]


@dataclass(frozen=True)
class OracleBatch(Batch):
    """What training may not see: made for the controls of `semisam.frameworks.controls` alone.

    Attributes:
        truth: ``(B, *S)`` int64, the labels of all rows.
    """

    truth: Tensor


@dataclass(frozen=True)
class Clock:
    """Training time. Every schedule is a pure function of a Clock."""

    step: int
    total: int

    @property
    def fraction(self) -> float:
        """``t / t_max`` in [0, 1]."""
        return min(self.step / self.total, 1.0) if self.total else 1.0


class Total(float):
    """A figure of a step that is added up over the parts of its batch, where others are averaged.

    Such as a count of calls: a batch may be taken in micro-batches or divided over processes.
    """


@dataclass(frozen=True)
class Step:
    """What a method computed on one batch.

    Attributes:
        losses: weighted scalars; the objective *is* their sum, and they are what is logged.
        probs: ``(B, K, *S)`` differentiable probabilities, the map that ``forward`` would deploy.
        uncertainty: ``(B, 1, *S)`` in [0, 1], detached; ``None``: the branch takes the entropy of
            ``probs`` divided by ``ln K``.
        metrics: unweighted figures for the log; no part of the objective. Where the batch is taken
            in parts they are averaged, and a `Total` is added up.
    """

    losses: Mapping[str, Tensor]
    probs: Tensor
    uncertainty: Tensor | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Prompt:
    """What a promptable model is asked with, in voxel indices of the image's own grid.

    Attributes:
        points: ``(N, d)`` int64 voxel indices.
        labels: ``(N,)`` int64, 1 foreground, 0 background.
        box: ``(2, d)`` int64, first corner and the corner past the last voxel (half-open).
        mask: ``(*S)`` probability in [0, 1].
    """

    points: Tensor | None = None
    labels: Tensor | None = None
    box: Tensor | None = None
    mask: Tensor | None = None


@dataclass(frozen=True)
class View:
    """All that a prompter may look at: no ground truth, by type.

    Attributes:
        prob: ``(*S)`` the proposal's probability of one foreground class.
        uncertainty: ``(*S)`` in [0, 1].
        previous: ``(*S)`` the backend's probability of the round before; ``None`` in the first.
    """

    prob: Tensor
    uncertainty: Tensor
    previous: Tensor | None = None
