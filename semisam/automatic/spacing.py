"""A coarser spacing of large scans, so that their masks fit into the budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from semisam.automatic.survey import Survey
from semisam.data.datasets.grids import Grid, grids_of
from semisam.data.datasets.labels import classes_in
from semisam.data.datasets.scans import ScanDataset
from semisam.data.images.resampling import resampled_size
from semisam.inference.sliding_window import count_windows

_FINER = 1.1  # factor between the spacings that are tried
_COARSEST = 3.0  # mm
_FEW = 64  # windows: a scan of two patches along each axis, which is not made coarser

Spacing = tuple[float, ...]


def affordable_spacing(
    data: Survey,
    patch: Sequence[int],
    stride: Sequence[int],
    seconds: float,
    most: float,
) -> Spacing | None:
    """Return the finest spacing at which the windows of all scans take at most some seconds.

    Axes that are finer than the others are made coarser first. No labeled scan loses a class.

    Args:
        data: the cases.
        patch: voxels of the window.
        stride: voxels between windows.
        seconds: of a window.
        most: seconds of all windows.

    Returns:
        mm along each axis; ``None``: the scans' own spacing, which is fine enough, was chosen by
        the user, or cannot be changed.
    """
    opened = data.opened
    if not isinstance(opened, ScanDataset) or "spacing" in data.options or len(patch) != 3:
        return None
    own = opened.recipe.spacing
    if own is None:
        return None
    series = str(data.options.get("series", ""))
    grids = grids_of([data.files(case)[0] for case in data.unlabeled], series)
    windows = _counter(grids, patch, stride)
    most_windows = max(most / seconds, _FEW * len(grids))
    tried = [own]
    while windows(tried[-1]) > most_windows and min(tried[-1]) < _COARSEST:
        least = min(float(f"{min(tried[-1]) * _FINER:.3g}"), _COARSEST)
        tried.append(tuple(max(mm, least) for mm in own))
    if len(tried) == 1:
        return None
    held = {case: classes_in(opened.label(case)) for case in data.labeled}
    if not _loses_a_class(data, tried[-1], held):
        return tried[-1]
    # The coarsest one that keeps all classes is between these two.
    kept, lost = 0, len(tried) - 1
    while lost - kept > 1:
        middle = (kept + lost) // 2
        if _loses_a_class(data, tried[middle], held):
            lost = middle
        else:
            kept = middle
    return tried[kept] if kept else None


def _counter(
    grids: Sequence[Grid], patch: Sequence[int], stride: Sequence[int]
) -> Callable[[Spacing], int]:
    """Return a function that counts the windows of all scans at a spacing."""

    def windows(spacing: Spacing) -> int:
        found = 0
        for grid in grids:
            size = resampled_size(grid.size, grid.spacing, spacing)
            found += count_windows(size, patch, stride)
        return found

    return windows


def _loses_a_class(data: Survey, spacing: Spacing, held: Mapping[str, frozenset[int]]) -> bool:
    """Return whether a class of a labeled scan, of those it holds, has no voxel at a spacing."""
    coarse = data.at(spacing).opened
    return any(not classes <= classes_in(coarse.label(case)) for case, classes in held.items())
