"""The windows of the patches: anywhere in a scan, or where a labeled one has something to learn."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from semisam.core.types import IGNORE
from semisam.data.datasets.labels import is_partial
from semisam.data.loading.store import VolumeStore

Window = tuple[slice, ...]
"""The voxels of a patch along each axis, which may exceed a scan that is shorter."""

_TRIES = 10
_VOXELS = 1 << 18  # of a class in a scan, among which a window is drawn


class Windows:
    """The draws of windows in scans.

    A window is uniformly random. In a partly annotated label it holds an annotated voxel. With
    ``foreground``, a window of a label with less is drawn again, up to ten times, around a voxel
    of a class. With several classes one is drawn first, each with the same chance, and the window
    must show it: a small class next to a large one would be in few patches.

    Args:
        store: of the scans.
        foreground: least share of foreground in a window of a label.
    """

    def __init__(self, store: VolumeStore, foreground: float = 0.0) -> None:
        self.store = store
        self.foreground = foreground
        self._partial: dict[str, bool] = {}
        self._classes: dict[str, tuple[int, ...]] = {}
        self._voxels: dict[tuple[str, int], NDArray[np.intp]] = {}

    def draw(
        self,
        case: str,
        is_labeled: bool,
        shape: tuple[int, ...],
        size: tuple[int, ...],
        rng: np.random.Generator,
    ) -> Window:
        """Draw a window.

        Args:
            case: name of the case.
            is_labeled: the case is a labeled one; else its label is not read.
            shape: of the scan.
            size: voxels per axis.
            rng: of the row.
        """
        if not is_labeled:
            return _draw(shape, size, rng)
        label = self.store.label(case)
        annotated = np.flatnonzero(label != IGNORE) if self.is_partial(case) else None
        window = _draw(shape, size, rng, annotated)
        classes = self._classes_of(case) if self.foreground else ()
        if not classes:
            return window
        several = len(classes) > 1
        wanted = classes[rng.integers(len(classes))] if several else classes[0]
        for _ in range(_TRIES):
            inside = label[window]
            found = np.count_nonzero((inside != 0) & (inside != IGNORE))
            enough = found >= self.foreground * inside.size
            if enough and (not several or bool((inside == wanted).any())):
                break
            window = _draw(shape, size, rng, self._voxels_of(case, wanted))
        return window

    def is_partial(self, case: str) -> bool:
        """Return whether a label has voxels that nobody annotated; each label is searched once."""
        if case not in self._partial:
            self._partial[case] = is_partial(self.store.label(case))
        return self._partial[case]

    def _classes_of(self, case: str) -> tuple[int, ...]:
        """Return the foreground classes in a label; each label is searched once."""
        if case not in self._classes:
            label = self.store.label(case)
            every = range(1, min(self.store.dataset.num_classes, IGNORE))
            self._classes[case] = tuple(k for k in every if bool((label == k).any()))
        return self._classes[case]

    def _voxels_of(self, case: str, k: int) -> NDArray[np.intp]:
        """Return flat indices of a class in a label, evenly chosen ones of a very large class."""
        if (case, k) not in self._voxels:
            found = np.flatnonzero(self.store.label(case) == k)
            self._voxels[case, k] = found[:: -(-len(found) // _VOXELS)].copy()
        return self._voxels[case, k]


def _draw(
    shape: tuple[int, ...],
    size: tuple[int, ...],
    rng: np.random.Generator,
    voxels: NDArray[np.intp] | None = None,
) -> Window:
    """Draw a window uniformly, or among those that hold one of some voxels, drawn first.

    An axis shorter than the window is taken whole.

    Args:
        shape: of the scan.
        size: voxels per axis.
        rng: the random numbers.
        voxels: flat indices; ``None`` or empty: any window.
    """
    voxel = None
    if voxels is not None and len(voxels):
        voxel = np.unravel_index(voxels[rng.integers(len(voxels))], shape)
    starts = []
    for axis, (have, want) in enumerate(zip(shape, size, strict=True)):
        low, high = 0, max(have - want, 0)
        if voxel is not None:
            at = int(voxel[axis])
            low, high = max(low, at - want + 1), min(high, at)
        starts.append(int(rng.integers(low, high + 1)))
    return tuple(slice(start, start + want) for start, want in zip(starts, size, strict=True))
