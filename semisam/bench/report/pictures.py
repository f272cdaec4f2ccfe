"""The pictures of a test case: outlines on three slices, and surfaces of truth and predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from semisam.bench.report.choice import Shown, recorded
from semisam.bench.report.masks import CaseMask, MaskSource, ScoredCase
from semisam.bench.report.runs import Bench
from semisam.bench.report.style import TRUTH, WITH, WITHOUT, Gallery, Made, legend_above, new_figure
from semisam.bench.report.surfaces import common_bounds, draw_slice, draw_surface
from semisam.bench.sections import method_name
from semisam.core.errors import InputError
from semisam.data.datasets.dataset import Image
from semisam.data.images.preprocessing import orientation
from semisam.inference.preview import has_colours, middle_of, planes_of

Labels = NDArray[np.uint8]

_WIDTH = 7.2  # of a picture, in inches
_SAME_DICE = 0.5  # points by which a computed mask may differ from the run's mask on other hardware


@dataclass(frozen=True)
class Qualitative:
    """The pictures of a part, and the reasons why others are missing, a sentence each."""

    made: list[Made]
    problems: list[str]


def pictures(
    bench: Bench,
    shown: list[Shown],
    source: MaskSource,
    gallery: Gallery,
    name: str,
    on_case: Callable[[], None],
) -> Qualitative:
    """Draw the chosen test cases; a case that cannot be drawn is named and passed over."""
    made: list[Made] = []
    problems: list[str] = []
    for number, one in enumerate(shown, start=1):
        try:
            case, masks = source.of(one)
        except InputError as error:
            problems.append(str(error))
        else:
            figure = _draw(one, case, masks)
            caption, alt = _caption(bench, one, masks), f"{one.case}, {', '.join(one.why)}"
            data = _numbers(one, masks)
            made.append(gallery.add(f"{name}-case-{number}", caption, alt, figure, data, wide=True))
        on_case()
    return Qualitative(made, list(dict.fromkeys(problems)))


def _numbers(shown: Shown, masks: Sequence[CaseMask]) -> pd.DataFrame:
    rows = [shown.bare, *([] if shown.wrapped is None else [shown.wrapped])]
    return pd.DataFrame(
        {
            "case": shown.case,
            "row": [row.name for row in rows],
            "labeled": [row.labels for row in rows],
            "dice": [mask.dice for mask in masks],
        }
    )


def _draw(shown: Shown, case: ScoredCase, masks: Sequence[CaseMask]) -> Figure:
    titles = ["truth", "without SemiSAM", "with SemiSAM"]
    colors = [TRUTH, WITHOUT, WITH]
    if shown.wrapped is None:
        titles, colors = ["truth", "prediction"], [TRUTH, WITHOUT]
    scored = [
        f"{title}: Dice {mask.dice:.1f}" for title, mask in zip(titles[1:], masks, strict=True)
    ]
    titles = [titles[0], *scored]
    image, maps, spacing = upright(case.image, [case.truth, *(own.mask for own in masks)])
    shape, coloured = maps[0].shape, image.ndim > maps[0].ndim
    planes = planes_of(shape)
    solid = len(planes) == 3
    # Slices are side by side in one scale, as wide as the figure up to a largest height.
    sides = [tuple(shape[axis] * spacing[axis] for axis in across) for _, _, across in planes]
    height = max(down for _, down in sides) * _WIDTH / sum(right for right, _ in sides)
    height = min(height, 4.0) + 0.35
    figure = new_figure(_WIDTH, height + (2.1 if solid else 0.0) + 0.35)
    upper: Any = figure
    if solid:
        upper, lower = cast(Any, figure.subfigures(2, 1, height_ratios=(height + 0.35, 2.1)))
        bounds = common_bounds(maps, spacing)
        for number, (mask, title, color) in enumerate(zip(maps, titles, colors, strict=True), 1):
            ax = lower.add_subplot(1, len(maps), number, projection="3d")
            draw_surface(ax, mask, spacing, color, bounds)
            ax.set_title(title if mask.any() else f"{title}, empty", loc="center", y=0.98)
    middle = middle_of(maps[0])
    low, high = (float(v) for v in np.percentile(image[np.isfinite(image)], (1, 99)))
    # The truth is the broad line below, so that not only its colour distinguishes it.
    widths = (2.6, 1.3, 1.3)
    grid = upper.add_gridspec(1, len(planes), width_ratios=[right for right, _ in sides])
    for number, (name, across, (right, down)) in enumerate(planes):
        ax = upper.add_subplot(grid[number])
        index: tuple[Any, ...] = tuple(
            middle[a] if a == across else slice(None) for a in range(len(shape))
        )
        outlines = [(m[index], c, w) for m, c, w in zip(maps, colors, widths, strict=False)]
        size = (spacing[right], spacing[down])
        plane = image if coloured else image[index]
        draw_slice(ax, plane, outlines, size, (low, high))
        where = f" {middle[across] + 1} of {shape[across]}" if across >= 0 else ""
        ax.set_title(f"{name}{where}", loc="center")
        if down == 2:
            ax.invert_yaxis()  # superior is up; anterior is already
    handles = [
        Line2D([], [], color=color, lw=w + 1) for color, w in zip(colors, widths, strict=False)
    ]
    legend_above(figure, handles, titles)
    return figure


def upright(
    image: Image, masks: Sequence[Labels]
) -> tuple[NDArray[np.float32], list[Labels], tuple[float, ...]]:
    """Return image, masks and spacing with axes to the left, posterior and superior.

    The image of a coloured picture is ``(3, *S)``. Of other images it is the first channel.
    """
    axes, flips = orientation(image.geometry)
    against = tuple(a for a, flip in enumerate(flips) if flip)

    def turned(array: NDArray[Any]) -> NDArray[Any]:
        return np.flip(array.transpose(axes), against)

    spacing = tuple(image.geometry.spacing[axis] for axis in axes)
    array = image.array if has_colours(image.array) else turned(image.array[0])
    return array, [turned(mask) for mask in masks], spacing


def _caption(bench: Bench, shown: Shown, masks: Sequence[CaseMask]) -> str:
    row = shown.bare if shown.wrapped is None else shown.wrapped
    found = [mask.dice for mask in masks]
    if shown.wrapped is None:
        figures = f"Dice {found[0]:.1f} %"
    else:
        figures = f"Dice {found[0]:.1f} % without, {found[1]:.1f} % with SemiSAM"
    text = (
        f"{shown.case} ({', '.join(shown.why)}). {method_name(row.figures)}, {row.labels} labeled. "
        f"{figures}. Slices through the middle of the truth."
    )
    was = recorded(bench, shown)
    if any(abs(a - b) > _SAME_DICE for a, b in zip(found, was, strict=True)):
        sources = " and ".join(dict.fromkeys(mask.source for mask in masks))
        text += (
            f" The runs recorded {', '.join(f'{value:.1f}' for value in was)} %. These masks are "
            f"{sources}, and are not the ones that were scored."
        )
    return text
