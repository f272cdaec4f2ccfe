"""The slices of test cases for the viewer of the page, compressed.

Slices are axial, along the axes of the scan. The slices of a case are below each other in one
picture: WebP of the scan, PNG of a mask, whose grey levels are its classes. Of a large scan the
surroundings of truth and predictions are shown, with fewer slices and voxels.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import PIL.Image
from numpy.typing import NDArray

from semisam.bench.comparing import paired
from semisam.bench.report.masks import MaskSource, ScoredCase
from semisam.bench.report.pictures import upright
from semisam.bench.report.runs import Bench, Part, Row
from semisam.bench.report.style import EXCESS, MISSED, TRUTH, WITH, WITHOUT
from semisam.core.errors import InputError
from semisam.inference.preview import displayed
from semisam.run.folder import RunFolder

Labels = NDArray[np.uint8]

MOST_BYTES = 9_000_000
"""Size of all slices in the page; cases that would exceed it are left out."""
_MOST_SLICES, _LEAST_SLICES = 32, 8  # of a case
_MOST_PIXELS = 160  # per side of a slice; finer ones lose voxels
_MARGIN = (12, 12, 2)  # voxels around the masks in a large scan
_PER_SCAN, _PER_MASK = 4000, 220  # bytes of a slice, as base64
COLORS = {
    "truth": TRUTH,
    "without": WITHOUT,
    "with": WITH,
    "missed": MISSED,
    "excess": EXCESS,
}


@dataclass(frozen=True)
class _Pair:
    """Two runs to compare, without and with SemiSAM, of which one may be missing.

    Attributes:
        group: title of their part of the table; empty if there is one part.
        title: of the pair.
        runs: without and with SemiSAM.
        first: True if the pair has the lowest subset and seed of its row.
    """

    group: str
    title: str
    runs: tuple[RunFolder | None, RunFolder | None]
    first: bool


@dataclass(frozen=True)
class Slices:
    """The content of the viewer.

    Attributes:
        data: for the script of the page: ``colors``, ``pairs`` and ``cases``.
        problems: why cases are missing, a sentence each.
    """

    data: dict[str, Any]
    problems: list[str] = field(default_factory=list)


def slices(
    bench: Bench,
    source: MaskSource,
    on_start: Callable[[int], Callable[[], None]],
    *,
    all_cases: bool = False,
) -> Slices:
    """Return the slices of every test case that has predictions.

    Args:
        bench: the runs.
        source: of their masks, of which those at hand are shown.
        on_start: called with the number of cases; it returns a function to call after each.
        all_cases: show all masks of the first pair of runs of each row, computed where they must.
    """
    pairs = [pair for part in bench.parts for pair in _pairs(bench, part)]
    firsts = [pair for pair in pairs if pair.first] if all_cases else []
    by_case = _cases(bench, pairs, source, {r.run for p in firsts for r in p.runs if r})
    on_case = on_start(len(by_case))
    most = _slices_of_each(by_case)
    cases: list[dict[str, Any]] = []
    problems: list[str] = []
    size = left_out = 0
    for (_, case), runs in by_case.items():
        if size < MOST_BYTES:
            try:
                found, faults = _case(source, case, runs, most)
            except InputError as error:
                problems.append(str(error))
            else:
                cases.append(found)
                problems += faults
                size += len(found["scan"]) + len(found["truth"])
                size += sum(len(mask["png"]) for mask in found["masks"].values())
        else:
            left_out += 1
        on_case()
    if left_out:
        problems.append(f"{left_out} cases are left out to keep the page small")
    shown = {name for found in cases for name in found["masks"]}
    listed = [
        {"group": pair.group, "title": pair.title, "runs": names}
        for pair in pairs
        if shown.intersection(names := [run.run if run else "" for run in pair.runs])
    ]
    data = {"colors": COLORS, "pairs": listed, "cases": cases}
    return Slices(data, list(dict.fromkeys(problems)))


def _pairs(bench: Bench, part: Part) -> Iterator[_Pair]:
    """Yield the pairs of runs of each row, and single runs of rows without a partner."""
    group = part.title if len(bench.parts) > 1 else ""
    partners = {row.bare for row in part.rows}
    for index, row in enumerate(part.rows):
        if row.bare is not None:
            both = paired(row.runs, part.rows[row.bare].runs)
            for place, (title, run) in enumerate(_titled(row, both)):
                two = (bench.folder_of(str(run["run_bare"])), bench.folder_of(str(run["run"])))
                yield _Pair(group, title, two, place == 0)
        elif index not in partners:
            for place, (title, run) in enumerate(_titled(row, row.runs)):
                one = bench.folder_of(str(run["run"]))
                yield _Pair(group, title, (None, one) if row.with_sam else (one, None), place == 0)


def _titled(row: Row, runs: pd.DataFrame) -> Iterator[tuple[str, dict[Any, Any]]]:
    """Yield a title and the figures of each run; several runs have what distinguishes them."""
    told = [n for n in ("subset", "seed", "fold") if n in runs and runs[n].nunique() > 1]
    for run in runs.sort_values(["subset", "seed"]).to_dict("records"):
        own = [f"{name} {run[name]}" for name in told]
        yield ", ".join([row.name, f"{row.labels} labeled", *own]), run


def _cases(
    bench: Bench, pairs: Sequence[_Pair], source: MaskSource, whole: Collection[str]
) -> dict[tuple[str, str], list[RunFolder]]:
    """Return the runs that have a mask of each case, by the data and the case's name.

    Args:
        bench: the runs.
        pairs: of runs to show.
        source: of their masks.
        whole: runs of which every mask is shown.
    """
    runs = {run.run: run for pair in pairs for run in pair.runs if run is not None}
    found: dict[tuple[str, str], list[RunFolder]] = {}
    for name, run in runs.items():
        data = source.data_of(run)
        for case in dict.fromkeys(bench.cases.loc[bench.cases["run"] == name, "case"]):
            if name in whole or source.at_hand(run, case):
                found.setdefault((data, case), []).append(run)
    return found


def _slices_of_each(by_case: dict[tuple[str, str], list[RunFolder]]) -> int:
    """Return the number of slices of a case with which all of them fit into the page."""
    each = sum(_PER_SCAN + _PER_MASK * (1 + len(runs)) for runs in by_case.values())
    return min(_MOST_SLICES, max(_LEAST_SLICES, MOST_BYTES // max(each, 1)))


def _case(
    source: MaskSource, case: str, runs: Sequence[RunFolder], most: int
) -> tuple[dict[str, Any], list[str]]:
    """Return a case for the page, and why masks of it are missing."""
    scored = source.case(runs[0], case)
    image, (truth,), spacing = _solid(scored, [scored.truth])
    small = {"": _Small.of(truth)}
    dice, problems = {}, []
    for run in runs:
        try:
            found = source.mask(run, scored)
        except InputError as error:
            problems.append(str(error))
            continue
        _, (mask,), _ = _solid(scored, [found.mask])
        small[run.run], dice[run.run] = _Small.of(mask), found.dice
    box, step = _window(truth.shape, list(small.values()), most)
    levels = max(int(one.array.max(initial=1)) for one in small.values())
    count = len(box[2])

    def png(name: str) -> str:
        return _png(small[name].within(box)[::step, ::step], levels)

    planes = _grey(image)[..., box[0], :, :][..., :, box[1], :][..., box[2]]
    geometry = scored.image.geometry
    return {
        "name": case,
        "size": [len(box[0][::step]), len(box[1][::step]), count],
        "aspect": spacing[1] / spacing[0],
        "numbers": [int(z) + 1 for z in box[2]],
        "of": truth.shape[2],
        "letters": geometry.direction is not None and len(geometry.spacing) == 3,
        "levels": levels,
        "scan": _webp(_averaged(planes, step)),
        "truth": png(""),
        "masks": {name: {"png": png(name), "dice": round(dice[name], 2)} for name in dice},
    }, problems


def _solid(
    case: ScoredCase, masks: Sequence[Labels]
) -> tuple[NDArray[np.float32], list[Labels], tuple[float, ...]]:
    """Return upright arrays of three axes; of two axes the third has one slice."""
    image, maps, spacing = upright(case.image, masks)
    if maps[0].ndim == 2:
        return image[..., None], [mask[..., None] for mask in maps], spacing
    return image, maps, spacing


@dataclass(frozen=True)
class _Small:
    """A mask without its empty surroundings: where it begins, and its voxels."""

    start: tuple[int, ...]
    array: Labels

    @classmethod
    def of(cls, mask: Labels) -> _Small:
        ends = []
        for axis in range(mask.ndim):
            others = tuple(a for a in range(mask.ndim) if a != axis)
            found = np.flatnonzero(mask.any(axis=others))
            ends.append((int(found[0]), int(found[-1]) + 1) if len(found) else (0, 0))
        index = tuple(slice(*end) for end in ends)
        return cls(tuple(low for low, _ in ends), mask[index].copy())

    @property
    def stop(self) -> tuple[int, ...]:
        return tuple(a + n for a, n in zip(self.start, self.array.shape, strict=True))

    def within(self, box: Sequence[NDArray[np.intp]]) -> Labels:
        """Return the mask at the voxels of a box, given by their numbers along each axis."""
        found = np.zeros([len(places) for places in box], np.uint8)
        if not self.array.size:
            return found
        inside = [
            np.flatnonzero((places >= low) & (places < high))
            for places, low, high in zip(box, self.start, self.stop, strict=True)
        ]
        taken = [
            places[own] - low for places, own, low in zip(box, inside, self.start, strict=True)
        ]
        found[np.ix_(*inside)] = self.array[np.ix_(*taken)]
        return found


def _window(
    shape: Sequence[int], masks: Sequence[_Small], most: int
) -> tuple[list[NDArray[np.intp]], int]:
    """Return the voxels to show along each axis, and the step in the plane.

    A scan that is small enough is shown whole.
    """
    filled = [mask for mask in masks if mask.array.size]
    box = []
    for axis, (size, limit, margin) in enumerate(
        zip(shape, (_MOST_PIXELS, _MOST_PIXELS, most), _MARGIN, strict=True)
    ):
        low, high = 0, size
        if size > limit and filled:
            low = max(0, min(mask.start[axis] for mask in filled) - margin)
            high = min(size, max(mask.stop[axis] for mask in filled) + margin)
        box.append(np.arange(low, high))
    along = box[2]
    if len(along) > most:
        box[2] = along[np.linspace(0, len(along) - 1, most).round().astype(int)]
    return box, -(-max(len(box[0]), len(box[1])) // _MOST_PIXELS)


def _grey(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return an image from 0 to 255, from its 1st to its 99th percentile."""
    low, high = (float(v) for v in np.percentile(image[np.isfinite(image)], (1, 99)))
    return (255.0 * np.nan_to_num(displayed(image, (low, high)))).round().astype(np.uint8)


def _averaged(planes: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    """Return planes ``(..., x, y, z)`` in which each voxel is the mean of ``step`` x ``step``."""
    if step == 1:
        return planes
    over = [(0, -planes.shape[a] % step) for a in (-3, -2)]
    padded = np.pad(planes, [*[(0, 0)] * (planes.ndim - 3), *over, (0, 0)], mode="edge")
    *others, x, y, z = padded.shape
    blocks = padded.reshape(*others, x // step, step, y // step, step, z)
    found: NDArray[np.uint8] = blocks.mean(axis=(-4, -2)).round().astype(np.uint8)
    return found


def _webp(planes: NDArray[np.uint8]) -> str:
    """Return planes ``(x, y, z)``, or ``(3, x, y, z)`` of colours, below each other."""
    strip = _strip(planes)
    picture = PIL.Image.fromarray(strip if strip.ndim == 2 else strip.transpose(1, 2, 0))
    return _encoded(picture, format="WEBP", quality=60, method=4)


def _png(mask: Labels, levels: int) -> str:
    """Return a mask ``(x, y, z)`` below each other, its classes spread over the grey levels."""
    strip = _strip(mask)
    if levels == 1:
        return _encoded(PIL.Image.fromarray(strip > 0), format="PNG", optimize=True)
    return _encoded(PIL.Image.fromarray(strip * np.uint8(255 // levels)), format="PNG")


def _strip(planes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return planes ``(..., x, y, z)`` as one picture ``(..., z * y, x)``."""
    turned = np.moveaxis(planes, (-3, -2, -1), (-1, -2, -3))
    return np.ascontiguousarray(turned.reshape(*turned.shape[:-3], -1, turned.shape[-1]))


def _encoded(picture: PIL.Image.Image, **how: Any) -> str:
    target = io.BytesIO()
    picture.save(target, **how)
    return base64.b64encode(target.getvalue()).decode()
