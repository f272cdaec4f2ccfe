"""Batches as a pure function of (seed, step), so that a resumed run draws the same ones."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from semisam.core.errors import InputError
from semisam.core.types import IGNORE, Batch, OracleBatch
from semisam.data.loading.augmentation import (
    change_looks,
    draw_orientation,
    draw_zoom,
    orient,
    shape_before,
    stretch,
)
from semisam.data.loading.store import VolumeStore

Augment = Literal["orientation", "strong", "none"]
_TRIES = 10
_ORDER, _CROP = 0, 1  # purpose of a random stream
_LABELED, _UNLABELED = 0, 1  # rows of a random stream


@dataclass(frozen=True)
class BatchPlan:
    """The numbers of labeled and unlabeled rows of a batch."""

    labeled: int
    unlabeled: int


def plan_batch(
    batch_size: int,
    num_labeled: int,
    num_unlabeled: int,
    uses_unlabeled: bool,
    labeled_rows: int | None = None,
) -> BatchPlan:
    """Divide a batch into labeled and unlabeled rows.

    By default half of the rows are labeled, but never more than there are labeled cases: a batch of
    4 is 2 + 2, or 1 + 3 with one labeled case. A method without unlabeled data gets only the same
    labeled rows. Without unlabeled cases all rows are labeled.

    Args:
        batch_size: rows of a semi-supervised batch.
        num_labeled: labeled training cases.
        num_unlabeled: unlabeled training cases.
        uses_unlabeled: the method's `Framework.uses_unlabeled`.
        labeled_rows: labeled rows of a semi-supervised batch; ``None`` is half of it.

    Raises:
        InputError: there is no labeled case, or the batch cannot hold a row of each kind.
    """
    if num_labeled < 1:
        raise InputError(
            f"labeled cases must be at least 1, got {num_labeled}. Choose more with --labels."
        )
    smallest = 2 if num_unlabeled else 1
    if batch_size < smallest:
        raise InputError(f"--batch must be at least {smallest}, got {batch_size}. Increase it.")
    if num_unlabeled == 0:
        return BatchPlan(batch_size, 0)
    if labeled_rows is not None and not 0 < labeled_rows < batch_size:
        raise InputError(
            f"--labeled-rows must be at least 1 and leave an unlabeled row in a batch of "
            f"{batch_size}, got {labeled_rows}. Choose fewer, or a larger --batch."
        )
    labeled = min(labeled_rows or batch_size // 2, num_labeled)
    return BatchPlan(labeled, batch_size - labeled if uses_unlabeled else 0)


class BatchSource:
    """The source of the batch of any step, in any order, from any thread.

    Each stream (labeled, unlabeled) runs through its cases in permutations, one per pass, drawn
    from (seed, stream, pass), so every case occurs equally often. Each row is a uniformly random
    patch in one of eight orientations, drawn from (seed, stream, step, row). A patch of two axes is
    cut from a uniformly random slice of a volume, across its last axis. A patch of a partly
    annotated label is drawn around one of its annotated voxels. A volume smaller than the patch is
    padded with zeros on both sides, and a partly annotated label with `IGNORE`.

    Args:
        store: store of the volumes.
        labeled: labeled cases.
        unlabeled: unlabeled cases; their labels are not read.
        plan: rows of each kind.
        patch: spatial shape of a patch, in voxels. Of two axes it is cut from a slice of a volume.
        seed: a non-negative integer.
        augment: ``orientation`` draws one of eight orientations; ``strong`` a zoom per axis,
            contrast, blur and noise; ``none`` nothing.
        foreground: least share of foreground in a labeled patch. A patch with less is drawn again,
            up to ten times, around a voxel of the foreground.
        truth: add the labels of all rows, for a control; the store must allow it.
        rows: numbers of the batch's rows to make, labeled first; ``None`` is all. A row does not
            depend on this choice, so several processes can share a batch.

    Raises:
        InputError: the plan has rows of a stream without cases.
    """

    def __init__(
        self,
        store: VolumeStore,
        labeled: Sequence[str],
        unlabeled: Sequence[str],
        plan: BatchPlan,
        patch: tuple[int, ...],
        *,
        seed: int,
        augment: Augment = "orientation",
        foreground: float = 0.0,
        truth: bool = False,
        rows: Sequence[int] | None = None,
    ) -> None:
        for kind, asked, cases in (
            ("labeled", plan.labeled, labeled),
            ("unlabeled", plan.unlabeled, unlabeled),
        ):
            if asked and not cases:
                raise InputError(
                    f"a batch with {asked} {kind} row(s) must have {kind} cases, got none. Add one."
                )
        self.store = store
        self.labeled, self.unlabeled = tuple(labeled), tuple(unlabeled)
        self.plan = plan
        self.patch = tuple(patch)
        self.seed = seed
        self.augment = augment
        self.foreground = foreground
        self.truth = truth
        self._partial: dict[str, bool] = {}
        self.rows = tuple(range(plan.labeled + plan.unlabeled) if rows is None else rows)

    def cases(self, step: int) -> tuple[str, ...]:
        """Return the cases of a step's rows, labeled first."""
        return (
            *_scheduled(self.labeled, self.plan.labeled, step, self.seed, _LABELED),
            *_scheduled(self.unlabeled, self.plan.unlabeled, step, self.seed, _UNLABELED),
        )

    def batch(self, step: int) -> Batch:
        """Return the batch of a step on the CPU.

        Returns:
            Image ``(B, C, *patch)`` float32 and label ``(L, *patch)`` int64, labeled rows first;
            with ``truth`` an `OracleBatch`.

        Raises:
            InputError: a volume and the patch have different numbers of axes.
        """
        every = self.cases(step)
        cases = [every[row] for row in self.rows]
        labeled = sum(row < self.plan.labeled for row in self.rows)
        channels = self.store.image(cases[0]).array.shape[0]
        image = np.empty((len(cases), channels, *self.patch), np.float32)
        known = len(cases) if self.truth else labeled
        label = np.empty((known, *self.patch), np.int64)
        for place, (row, case) in enumerate(zip(self.rows, cases, strict=True)):
            is_labeled = row < self.plan.labeled
            volume = self.store.image(case).array
            sliced = slice_axes(volume.ndim - 1, self.patch)
            if sliced not in (0, 1):
                raise InputError(
                    f"{self.store.dataset.source(case)}: a patch {self.patch} must have the axes "
                    f"of the scan, or two of a volume, got {volume.shape[1:]}. Correct the patch."
                )
            # Rows are counted per stream, so the labeled patches do not depend on whether the
            # method uses unlabeled rows.
            stream = _LABELED if is_labeled else _UNLABELED
            nth = row if is_labeled else row - self.plan.labeled
            rng = _generator(self.seed, _CROP, stream, step, nth)
            orientation = draw_orientation(rng)
            if self.augment != "orientation":
                orientation = 0
            size = shape_before(self.patch, orientation)
            if self.augment == "strong":
                zoom = draw_zoom(rng, len(size))
                size = tuple(max(1, round(n / z)) for n, z in zip(size, zoom, strict=True))
            crop = (*size, *(1,) * sliced)
            window: tuple[Any, ...] = self._draw_patch(
                case, is_labeled, volume.shape[1:], crop, rng
            )
            if sliced:
                window = (*window[:-1], window[-1].start)
            cut = orient(volume[(slice(None), *window)], orientation, (1, 2))
            self._put(cut, size, orientation, image[place], rng)
            if place < known:
                known_label = orient(self.store.label(case)[window], orientation)[None]
                around = IGNORE if self._is_partial(case) else 0
                self._put(known_label, size, orientation, label[place][None], None, around)
        labels = torch.from_numpy(label)
        if self.truth:
            return OracleBatch(torch.from_numpy(image), labels[:labeled], labels, rows=self.rows)
        return Batch(torch.from_numpy(image), labels, rows=self.rows)

    def _put(
        self,
        cut: NDArray[Any],
        size: tuple[int, ...],
        orientation: int,
        out: NDArray[Any],
        rng: np.random.Generator | None,
        around: int = 0,
    ) -> None:
        """Write a crop ``(C, *S)`` of ``size`` into a patch, padded, stretched and changed.

        Args:
            cut: at most as large as ``size``, in the patch's orientation.
            size: of the crop before it was turned.
            orientation: that the crop was turned to.
            out: of the patch's size.
            rng: of the change of looks; ``None`` for a label.
            around: value of the padding.
        """
        if self.augment != "strong":
            _place(cut, out, len(self.patch), around)
            return
        whole = np.empty((len(cut), *shape_before(size, orientation)), cut.dtype)
        _place(cut, whole, len(size), around)
        stretched = stretch(whole, self.patch, label=rng is None)
        out[...] = stretched if rng is None else change_looks(stretched, rng)

    def _draw_patch(
        self,
        case: str,
        is_labeled: bool,
        shape: tuple[int, ...],
        size: tuple[int, ...],
        rng: np.random.Generator,
    ) -> tuple[slice, ...]:
        """Draw a window, of a labeled case with an annotated voxel and enough foreground."""
        voxel = self._draw_annotated(case, rng) if is_labeled else None
        window = _draw_window(shape, size, rng, voxel)
        if not (is_labeled and self.foreground):
            return window
        label = self.store.label(case)
        organ: NDArray[Any] | None = None
        for _ in range(_TRIES):
            inside = label[window]
            found = np.count_nonzero((inside != 0) & (inside != IGNORE))
            if found >= self.foreground * inside.size:
                break
            if organ is None:
                organ = np.flatnonzero((label != 0) & (label != IGNORE))
            if not len(organ):
                break
            place = np.unravel_index(organ[rng.integers(len(organ))], label.shape)
            window = _draw_window(shape, size, rng, tuple(int(index) for index in place))
        return window

    def _draw_annotated(self, case: str, rng: np.random.Generator) -> tuple[int, ...] | None:
        """Draw an annotated voxel of a label; ``None`` if it is annotated everywhere or nowhere."""
        if not self._is_partial(case):
            return None
        label = self.store.label(case)
        annotated = np.flatnonzero(label != IGNORE)
        if not len(annotated):
            return None
        voxel = np.unravel_index(annotated[rng.integers(len(annotated))], label.shape)
        return tuple(int(index) for index in voxel)

    def _is_partial(self, case: str) -> bool:
        """Return whether a label has voxels that nobody annotated; each label is searched once."""
        if case not in self._partial:
            self._partial[case] = bool((self.store.label(case) == IGNORE).any())
        return self._partial[case]


def slice_axes(axes: int, patch: Sequence[int]) -> int:
    """Return 1 if patches are cut from the slices of volumes, and 0 if from whole scans.

    Args:
        axes: of a scan.
        patch: voxels per axis. Any other result means that it does not fit.
    """
    return axes - len(patch) if len(patch) > 1 else -1


def _generator(seed: int, *key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=key)))


def _scheduled(
    cases: tuple[str, ...], rows: int, step: int, seed: int, stream: int
) -> Iterator[str]:
    """Yield ``rows`` cases from position ``step * rows`` of an endless chain of permutations."""
    for position in range(step * rows, (step + 1) * rows):
        which_pass, index = divmod(position, len(cases))
        order = _generator(seed, _ORDER, stream, which_pass).permutation(len(cases))
        yield cases[int(order[index])]


def _draw_window(
    shape: tuple[int, ...],
    size: tuple[int, ...],
    rng: np.random.Generator,
    voxel: tuple[int, ...] | None = None,
) -> tuple[slice, ...]:
    """Draw the place of a crop uniformly, among those that hold a voxel if one is given.

    An axis shorter than the crop is taken whole.
    """
    starts = []
    for axis, (have, want) in enumerate(zip(shape, size, strict=True)):
        low, high = 0, max(have - want, 0)
        if voxel is not None:
            low, high = max(low, voxel[axis] - want + 1), min(high, voxel[axis])
        starts.append(int(rng.integers(low, high + 1)))
    return tuple(slice(start, start + want) for start, want in zip(starts, size, strict=True))


def _place(cut: NDArray[Any], out: NDArray[Any], spatial: int, around: int = 0) -> None:
    """Copy a crop into the centre of ``out`` with one value around; no other copy is made."""
    leading = out.ndim - spatial
    if cut.shape == out.shape:
        out[...] = cut
        return
    out[...] = around
    inner = []
    for have, want in zip(cut.shape[leading:], out.shape[leading:], strict=True):
        before = (want - have) // 2
        inner.append(slice(before, before + have))
    out[(slice(None),) * leading + tuple(inner)] = cut


class _HasBatch(Protocol):
    def batch(self, step: int) -> Batch: ...


class Prefetcher:
    """A background thread that makes the batches of steps ``start`` to ``stop - 1`` in advance.

    Iterating yields ``(step, batch, seconds_waited)``: the batches of ``source.batch`` in order,
    and the consumer's waiting time for each. An exception of the thread is raised in the consumer.
    Leaving the ``with`` block ends the thread.

    Args:
        source: a `BatchSource` or another object with ``batch(step)``.
        start: the first step.
        stop: one past the last step.
        depth: number of batches to keep ready.
    """

    def __init__(self, source: _HasBatch, start: int, stop: int, *, depth: int = 3) -> None:
        self._source = source
        self._steps = range(start, stop)
        self._unseen = iter(self._steps)
        self._queue: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=depth)
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._produce, name="prefetch", daemon=True)

    def __enter__(self) -> Prefetcher:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave.set()
        self._thread.join()

    def __iter__(self) -> Iterator[tuple[int, Batch, float]]:
        if self._thread.ident is None:
            raise RuntimeError("a Prefetcher must be iterated inside its `with` block")
        for step in self._unseen:
            before = time.perf_counter()
            item = self._queue.get()
            waited = time.perf_counter() - before
            if isinstance(item, BaseException):
                self._unseen = iter(())  # no batch follows
                raise item
            yield step, item, waited

    def _produce(self) -> None:
        for step in self._steps:
            try:
                item: Batch | BaseException = self._source.batch(step)
            except BaseException as error:
                item = error
            if not self._put(item) or isinstance(item, BaseException):
                return

    def _put(self, item: Batch | BaseException) -> bool:
        """Wait for room in the queue, but not after the consumer has left."""
        while not self._leave.is_set():
            try:
                self._queue.put(item, timeout=0.05)
            except queue.Full:
                continue
            return True
        return False
