"""Batches as a pure function of (seed, step), so that a resumed run draws the same ones."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from semisam.core.errors import InputError
from semisam.core.types import IGNORE, Batch, OracleBatch, Place
from semisam.core.warping import draw_places, sample
from semisam.data.datasets.dataset import Image
from semisam.data.loading.augmentation import (
    ORIENTATIONS,
    change_looks,
    draw_orientation,
    orient,
    shape_before,
)
from semisam.data.loading.store import VolumeStore
from semisam.data.loading.windows import Window, Windows

_Read = Callable[..., NDArray[Any]]
Augment = Literal["orientation", "mirrored", "strong", "none"]
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
    patch, augmented, drawn from (seed, stream, step, row). A patch of two axes is
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
        augment: ``orientation`` draws one of eight orientations; ``mirrored`` one of the four that
            are mirrored, as published; ``strong`` zooms, turns a little and bends, and changes
            contrast, blur and noise of labeled rows; ``none`` does nothing.
        foreground: least share of foreground in a labeled patch. With several classes, one that
            the patch must show is drawn, too, each with the same chance. A patch with less, or
            without this class, is drawn again, up to ten times, around one of the class's voxels.
        truth: add the labels of all rows, for a control; the store must allow it.
        places: fill `Batch.places` and `Batch.inside`.
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
        places: bool = False,
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
        self.truth = truth
        self.places = places
        self.windows = Windows(store, foreground)
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
        places: list[Place] = []
        inside = np.empty((len(cases) if self.places else 0, *self.patch), np.bool_)
        for place, (row, case) in enumerate(zip(self.rows, cases, strict=True)):
            is_labeled = row < self.plan.labeled
            scan = self.store.image(case)
            volume = scan.array
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
            read, window, turned = self._reader(case, is_labeled, scan, sliced, rng)
            if self.places:
                names = self.store.dataset.channel_names
                places.append(_place(case, scan, window, turned, len(self.patch), names))
                everywhere = np.broadcast_to(np.uint8(1), (1, *volume.shape[1:]))
                inside[place] = read(everywhere, label=True)[0] > 0
            image[place] = read(volume, label=False)
            if self.augment == "strong" and is_labeled:
                # Methods make their own views of unlabeled rows, from one that looks as it is.
                image[place] = change_looks(image[place], rng)
            if place < known:
                around = IGNORE if self.windows.is_partial(case) else 0
                label[place] = read(self.store.label(case)[None], label=True, around=around)[0]
        images, labels = torch.from_numpy(image), torch.from_numpy(label)
        more: dict[str, Any] = {"rows": self.rows}
        if self.places:
            more |= {"places": tuple(places), "inside": torch.from_numpy(inside)}
        if self.truth:
            return OracleBatch(images, labels[:labeled], labels, **more)
        return Batch(images, labels, **more)

    def _reader(
        self,
        case: str,
        is_labeled: bool,
        scan: Image,
        sliced: int,
        rng: np.random.Generator,
    ) -> tuple[_Read, Window, bool]:
        """Draw a patch of a case.

        Args:
            case: its name.
            is_labeled: the case is a labeled one.
            scan: its image.
            sliced: 1 if the patch is cut from a slice of the volume, else 0.
            rng: of this row.

        Returns:
            A function that reads it from an image or a label, its window in the scan, which may
            exceed it, and whether its first two axes are swapped.
        """
        shape = scan.array.shape[1:]
        if self.augment == "strong":
            window = self.windows.draw(case, is_labeled, shape, (*self.patch, *(1,) * sliced), rng)
            flat = window[: len(self.patch)]
            centre = _centre(flat, shape)
            places = draw_places(self.patch, rng, scan.geometry.spacing[: len(self.patch)])
            places += np.reshape(np.asarray(centre, np.float32), (-1, *[1] * len(flat)))
            read = functools.partial(_sampled, places=places, of=window[len(flat) :])
            return read, window, False
        orientation = draw_orientation(rng)
        if self.augment == "mirrored":
            orientation = ORIENTATIONS // 2 + orientation % (ORIENTATIONS // 2)
        elif self.augment == "none":
            orientation = 0
        size = shape_before(self.patch, orientation)
        window = self.windows.draw(case, is_labeled, shape, (*size, *(1,) * sliced), rng)
        read = functools.partial(
            _oriented, window=window, orientation=orientation, patch=self.patch
        )
        return read, window, orientation % 2 == 1


def _centre(window: Window, shape: tuple[int, ...]) -> list[float]:
    """Return the voxel at the centre of the part of a window that is in the scan."""
    ends = (min(w.stop, n) for w, n in zip(window, shape, strict=False))
    return [w.start + (end - w.start - 1) / 2 for w, end in zip(window, ends, strict=True)]


def _place(
    case: str,
    scan: Image,
    window: Window,
    swapped: bool,
    axes: int,
    channels: tuple[str, ...],
) -> Place:
    """Return the place of a patch.

    Args:
        case: name of the case.
        scan: its image.
        window: of the patch in the scan.
        swapped: True if the first two axes of the patch are swapped.
        axes: of the patch.
        channels: their names.
    """
    spacing = tuple(scan.geometry.spacing[:axes])
    if swapped:
        spacing = (spacing[1], spacing[0], *spacing[2:])
    return Place(case, tuple(_centre(window, scan.array.shape[1:])), spacing, channels)


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


def _sampled(
    volume: NDArray[Any],
    *,
    places: NDArray[np.float32],
    of: Window,
    label: bool,
    around: int = 0,
) -> NDArray[Any]:
    """Return the values of ``(C, *S)``, or of one of its slices, at the places of a patch."""
    return sample(_slice_of(volume, of), places, label=label, around=around)


def _slice_of(volume: NDArray[Any], of: Window) -> NDArray[Any]:
    """Return a slice across the last axis, or the volume itself if none is chosen."""
    return volume[..., of[0].start] if of else volume


def _oriented(
    volume: NDArray[Any],
    *,
    window: Window,
    orientation: int,
    patch: tuple[int, ...],
    label: bool,
    around: int = 0,
) -> NDArray[Any]:
    """Return the turned window of ``(C, *S)`` in the centre of a patch ``(C, *patch)``.

    Args:
        volume: an image or a label.
        window: to read, and the slice that it is in.
        orientation: of `orient`.
        patch: voxels per axis, at least those of the turned window.
        label: is not used, since no voxel is interpolated.
        around: value of the padding.
    """
    window, of = window[: len(patch)], window[len(patch) :]
    volume = _slice_of(volume, of)
    cut = orient(volume[(slice(None), *window)], orientation, (1, 2))
    if cut.shape[1:] == patch:
        return cut
    out = np.full((len(cut), *patch), around, volume.dtype)
    inner = [
        slice((want - have) // 2, (want - have) // 2 + have)
        for have, want in zip(cut.shape[1:], patch, strict=True)
    ]
    out[(slice(None), *inner)] = cut
    return out
