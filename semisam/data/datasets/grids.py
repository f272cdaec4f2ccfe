"""Derive spacing and patch size from image headers."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from semisam.core.errors import InputError
from semisam.data.datasets.dataset import Dataset
from semisam.data.images.files import Geometry
from semisam.data.images.headers import read_header
from semisam.data.images.preprocessing import Recipe, orientation

SMALL_PATCH = {2: (128, 128), 3: (64, 64, 48)}
"""Patches that any machine can train, by axes."""

_LARGEST_PATCH, _PATCH_STEP = {2: 256, 3: 128}, 16


def count_channels(paths: Iterable[Path]) -> int:
    """Return the channels of the first image whose header is readable, or 1."""
    for path in paths:
        if path.is_dir():
            return 1  # DICOM slices have one value per pixel
        try:
            header = read_header(path)
        except InputError:
            continue  # reported when the case is read
        return header.size[3] if len(header.size) == 4 else header.components
    return 1


@dataclass(frozen=True)
class Grid:
    """Size and spacing of a scan after orienting."""

    size: tuple[int, ...]
    spacing: tuple[float, ...]


def grids_of(paths: Iterable[Path], series: str = "") -> list[Grid]:
    """Return the grids of scans, from their headers.

    Args:
        paths: files or DICOM folders.
        series: choice of a DICOM series.

    Raises:
        InputError: a header is unreadable.
    """
    with ThreadPoolExecutor(8, thread_name_prefix="headers") as pool:
        return list(pool.map(lambda path: _grid(path, series), paths))


def _grid(path: Path, series: str) -> Grid:
    header = read_header(path, series)
    ndim = min(len(header.size), 3)
    try:
        geometry = Geometry(header.spacing[:ndim], None, header.direction)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    axes, _ = orientation(geometry)
    return Grid(
        tuple(header.size[axis] for axis in axes), tuple(header.spacing[axis] for axis in axes)
    )


def common_spacing(given: tuple[float, ...] | None, grids: list[Grid]) -> tuple[float, ...]:
    """Return the given spacing, of which one number means all axes, or the median.

    Raises:
        InputError: no scan has as many axes as there are numbers.
    """
    axes = len(grids[0].spacing)
    if given is not None:
        if len(given) not in {1, *(len(grid.spacing) for grid in grids)}:
            raise InputError(
                f"spacing must be one number of mm or one for each of the {axes} axes of the "
                f"scans, got {given}. Leave it out for the median of the scans."
            )
        return given * axes if len(given) == 1 else given
    columns = zip(*(grid.spacing for grid in grids if len(grid.spacing) == axes), strict=True)
    # Rounded, so that a median of float32 spacings does not depend on their last bits.
    return tuple(round(statistics.median(column), 4) for column in columns)


def fitting_patch(grids: list[Grid], recipe: Recipe) -> tuple[int, ...]:
    """Return a patch that fits into the median scan, in multiples of 16 voxels."""
    axes = len(grids[0].size if recipe.spacing is None else recipe.spacing)
    sizes = [recipe.grid(grid.size, grid.spacing)[0] for grid in grids if len(grid.size) == axes]
    median = [statistics.median_low(column) for column in zip(*sizes, strict=True)]
    if recipe.flat is not None:
        del median[recipe.flat]
    most = _LARGEST_PATCH[len(median)]
    return tuple(min(most, max(_PATCH_STEP, n // _PATCH_STEP * _PATCH_STEP)) for n in median)


def small_patch(dataset: Dataset) -> tuple[int, ...]:
    """Return a patch within the one that suits the scans, which any machine can train.

    Raises:
        InputError: the scans have another number of axes than two or three.
    """
    suggested = dataset.suggested.get("patch", SMALL_PATCH[3])
    small = SMALL_PATCH.get(len(suggested))
    if small is None:
        raise InputError(f"scans must have two or three axes, got {len(suggested)}. Split them.")
    return tuple(min(pair) for pair in zip(suggested, small, strict=True))


def flat_axis(sizes: Iterable[Sequence[int]]) -> int | None:
    """Return the axis of which each scan has one slice, the last of several.

    Args:
        sizes: of scans, after orienting.

    Returns:
        The axis; ``None`` if a scan has several slices or two axes, or if there is no scan.
    """
    known = {tuple(size) for size in sizes}
    flat = [axis for axis in range(3) if all(len(s) == 3 and s[axis] == 1 for s in known)]
    return flat[-1] if flat and known else None
