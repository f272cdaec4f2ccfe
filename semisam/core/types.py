"""The types that the packages of semisam exchange.

Shapes: ``B`` batch rows, ``C`` image channels, ``K`` classes counting background, ``L`` labeled
rows, ``*S`` two or three spatial axes in array-index order, never (x, y, z).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor  # at run time a reader of labels needs `IGNORE` and no torch

IGNORE = 255
"""The value of a label's voxel that nobody annotated. Losses and scores leave it out."""


@dataclass(frozen=True)
class Place:
    """The place of a row in its case. It holds nothing of a label.

    Attributes:
        case: name of the case.
        centre: voxel of the scan at the centre of the row, a number per axis of the scan.
        spacing: mm between voxels of the scan along each axis of the row; a zoom is not in it.
        channels: name of each image channel, such as ``mr``, ``ct`` or ``T2``; empty where the
            dataset does not state it.
    """

    case: str
    centre: tuple[float, ...]
    spacing: tuple[float, ...]
    channels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Batch:
    """The images of one step, labeled rows first, and the labels of the labeled rows.

    An unlabeled row has no label, so its label cannot leak.

    Attributes:
        image: ``(B, C, *S)`` float.
        label: ``(L, *S)`` int64 with ``L <= B``: classes, or `IGNORE` where nobody annotated.
        rows: the rows' numbers in the step's whole batch; ``None``: these rows are all of it.
        places: the rows' places, for a method with `Framework.wants_places`.
        inside: ``(B, *S)`` bool, False in padding, for a method with `Framework.wants_places`.
    """

    image: Tensor
    label: Tensor
    rows: tuple[int, ...] | None = field(default=None, kw_only=True)
    places: tuple[Place, ...] | None = field(default=None, kw_only=True)
    inside: Tensor | None = field(default=None, kw_only=True)

    @property
    def num_labeled(self) -> int:
        """Number of labeled rows, which come first."""
        return int(self.label.shape[0])

    def number(self, row: int) -> int:
        """Return a row's number in the step's whole batch: what a draw per row is seeded by."""
        return row if self.rows is None else self.rows[row]


@dataclass(frozen=True)
class OracleBatch(Batch):
    """A batch with the labels of all rows, only for the controls in `semisam.frameworks.controls`.

    Attributes:
        truth: ``(B, *S)`` int64, the labels of all rows, with `IGNORE` as in ``label``.
    """

    truth: Tensor


@dataclass(frozen=True)
class Clock:
    """Training time; every schedule is a pure function of it.

    Example:
        >>> Clock(step=25, total=100).fraction
        0.25
    """

    step: int
    total: int

    @property
    def fraction(self) -> float:
        """``t / t_max`` in [0, 1]."""
        return min(self.step / self.total, 1.0) if self.total else 1.0


class Total(float):
    """A metric of a step that is summed over micro-batches and processes, such as a count of calls.

    Other metrics are averaged.
    """


@dataclass(frozen=True)
class Step:
    """The result of a method on one batch.

    Attributes:
        losses: weighted scalars. The objective is their sum, and each is logged.
        probs: ``(B, K, *S)`` differentiable probabilities, as ``forward`` would deploy them.
        uncertainty: ``(B, 1, *S)`` in [0, 1], detached. With ``None`` the branch uses the entropy
            of ``probs`` divided by ``ln K``.
        metrics: unweighted figures for the log, not part of the objective. Over micro-batches a
            `Total` is summed and any other figure is averaged.
    """

    losses: Mapping[str, Tensor]
    probs: Tensor
    uncertainty: Tensor | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Prompt:
    """A prompt for a backend, in voxel indices of the image's own grid.

    Attributes:
        points: ``(N, d)`` int64 voxel indices.
        labels: ``(N,)`` int64, 1 foreground, 0 background.
        box: ``(2, d)`` int64, first corner and the corner past the last voxel (half-open).
        mask: ``(*S)`` probability in [0, 1].
        more: prompts of other kinds, such as a text, by the name of the kind. A prompter names the
            kind in its ``emits``, and a backend in its ``accepts``.
        class_name: name of the object's class; empty where it is not known.
        last: the prompt of the query before, for the same object and embedding; ``None`` in the
            first query.
    """

    points: Tensor | None = None
    labels: Tensor | None = None
    box: Tensor | None = None
    mask: Tensor | None = None
    more: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    class_name: str = field(default="", kw_only=True)
    last: Prompt | None = field(default=None, kw_only=True, repr=False)

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of prompt that it holds."""
        own = {"points": self.points, "box": self.box, "mask": self.mask, **self.more}
        return frozenset(kind for kind, value in own.items() if value is not None)

    def added(self) -> Prompt:
        """Return the parts that the query before did not have, for a model with a session.

        These are the points after those of the query before, and other parts that were replaced.
        """
        last = self.last
        if last is None:
            return self
        points, labels = self.points, self.labels
        old = 0 if last.points is None else len(last.points)
        if points is not None and labels is not None:
            points, labels = (points[old:], labels[old:]) if len(points) > old else (None, None)
        return Prompt(
            points,
            labels,
            None if self.box is last.box else self.box,
            None if self.mask is last.mask else self.mask,
            more={k: value for k, value in self.more.items() if value is not last.more.get(k)},
            class_name=self.class_name,
        )


@dataclass(frozen=True)
class View:
    """The input of a prompter. It has no label, so no ground truth can reach a prompt.

    Attributes:
        prob: ``(*S)`` the proposal's probability of one foreground class.
        uncertainty: ``(*S)`` in [0, 1].
        previous: ``(*S)`` the backend's probability in the previous round; ``None`` in the first.
        class_name: name of the class; empty where it is not known.
    """

    prob: Tensor
    uncertainty: Tensor
    previous: Tensor | None = None
    class_name: str = ""
