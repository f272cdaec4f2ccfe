"""A picture of a mask on its scan: three orthogonal slices with the outline of each class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from semisam.core.files import printable, replace_file
from semisam.data.images.files import Geometry
from semisam.data.images.preprocessing import orientation
from semisam.inference.card import orientation_code
from semisam.inference.volumes import unit_of

_COLORS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#42d4f4", "#f032e6", "#ffe119", "#469990")
_PLANES = (("axial", 2, (0, 1)), ("coronal", 1, (0, 2)), ("sagittal", 0, (1, 2)))
_OPPOSITE = dict(zip("LPSRAI", "RAILPS", strict=True))
_MOST_PIXELS = 1024  # per side of a slice; finer ones are drawn with a step


@mpl.rc_context({"text.parse_math": False})  # a name with dollar signs is a name
def write_preview(
    path: Path,
    image: NDArray[np.float32],
    labelmap: NDArray[np.uint8],
    geometry: Geometry,
    class_names: Sequence[str],
) -> None:
    """Write a PNG with the slices through the middle of the mask, as a radiologist sees them.

    The patient's left is on the right; anterior and superior are up. Letters at the edges show this
    where the scan's orientation is known. An oblique scan is cut along its own axes. Distances are
    to scale. Without a mask the slices go through the middle of the scan. The title of a slice has
    its place along the axis i, j or k of the array, counted from 0, as `semisam click` takes it.

    Args:
        path: of the PNG, which is written atomically.
        image: ``(C, *S)`` of two or three axes; the levels span its 1st to 99th percentile. Three
            channels of two axes are colours; of others the first is shown.
        labelmap: ``(*S)``, the class numbers.
        geometry: of both.
        class_names: background first.
    """
    axes, flips = orientation(geometry)
    against = tuple(a for a, flip in enumerate(flips) if flip)
    coloured = has_colours(image)
    if not coloured:
        image = np.flip(image[0].transpose(axes), against)
    labelmap = np.flip(labelmap.transpose(axes), against)
    spacing = tuple(geometry.spacing[axis] for axis in axes)
    known = geometry.direction is not None and len(axes) == 3
    middle = middle_of(labelmap)
    low, high = (float(v) for v in np.percentile(image[np.isfinite(image)], (1, 99)))
    planes = planes_of(labelmap.shape)
    figure = Figure(figsize=(4.2 * len(planes), 4.8), facecolor="black", layout="constrained")
    for number, (name, across, (right, down)) in enumerate(planes, start=1):
        ax = figure.add_subplot(1, len(planes), number)
        index: tuple[Any, ...] = tuple(
            middle[a] if a == across else slice(None) for a in range(labelmap.ndim)
        )
        plane = image if coloured else image[index]
        _draw(ax, plane, labelmap[index], (spacing[right], spacing[down]), (low, high))
        if across >= 0:
            at, last = middle[across], labelmap.shape[across] - 1
            name = f"{name}, {'ijk'[axes[across]]} = {last - at if flips[across] else at}"
        ax.set_title(name, color="white", fontsize=10)
        if down == 2:
            ax.invert_yaxis()  # superior is up; anterior is already
        if known:
            _letters(ax, "LPS"[right], "LPS"[down], upside_down=down == 2)
    figure.suptitle(printable(path.stem), color="white", fontsize=11)
    unit, size = unit_of(geometry)
    _legend(figure, labelmap, size, unit, class_names)
    if known:
        figure.text(0.995, 0.005, orientation_code(geometry), color="gray", fontsize=7, ha="right")
    with replace_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, facecolor="black")


def planes_of(sizes: Sequence[int]) -> Sequence[tuple[str, int, tuple[int, int]]]:
    """Return the planes to draw of a scan: of a volume three, or the one in which its slice lies.

    Args:
        sizes: of the scan, after orienting.

    Returns:
        The name, the LPS axis across, and the axes along the picture's width and height.
    """
    if len(sizes) == 2:
        return (("slice", -1, (0, 1)),)
    return [plane for plane in _PLANES if 1 not in (sizes[a] for a in plane[2])] or _PLANES


def has_colours(image: NDArray[np.float32]) -> bool:
    """Return whether an image ``(C, *S)`` is a coloured picture."""
    return image.ndim == 3 and len(image) == 3


def displayed(colours: NDArray[np.float32], window: tuple[float, float]) -> NDArray[np.float32]:
    """Return colours ``(3, x, y)`` in [0, 1], as matplotlib shows them."""
    low, high = window
    shown: NDArray[np.float32] = np.clip((colours - low) / max(high - low, 1e-6), 0, 1)
    return shown


def middle_of(labelmap: NDArray[np.uint8]) -> tuple[int, ...]:
    """Return the voxel of a mask ``(*S)`` nearest to its centre; of an empty one, the middle."""
    voxels = np.argwhere(labelmap)
    if not len(voxels):
        return tuple(n // 2 for n in labelmap.shape)
    # The centre of a mask with a hole or with two parts may be outside the mask.
    nearest = voxels[((voxels - voxels.mean(0)) ** 2).sum(1).argmin()]
    return tuple(int(i) for i in nearest)


def _draw(
    ax: Any,
    image: NDArray[np.float32],
    labelmap: NDArray[np.uint8],
    spacing: tuple[float, float],
    window: tuple[float, float],
) -> None:
    """Draw one slice ``(right, down)``, or ``(3, right, down)``, and the outlines, in mm."""
    step = max(1, -(-max(labelmap.shape) // _MOST_PIXELS))
    image, labelmap = image[..., ::step, ::step], labelmap[::step, ::step]
    width, height = (n * s * step for n, s in zip(labelmap.shape, spacing, strict=True))
    low, high = window
    ax.imshow(
        (image if image.ndim == 2 else displayed(image, window)).T,
        cmap="gray",
        vmin=low,
        vmax=max(high, low + 1e-6),
        extent=(0, width, height, 0),
        interpolation="nearest",
    )
    x, y = ((np.arange(n) + 0.5) * s * step for n, s in zip(labelmap.shape, spacing, strict=True))
    for value in np.unique(labelmap[labelmap > 0]):
        if min(labelmap.shape) > 1:
            inside = (labelmap == value).T.astype(float)
            ax.contour(x, y, inside, levels=[0.5], colors=[_color(int(value))], linewidths=1.2)
    ax.set_axis_off()


def _letters(ax: Any, right: str, down: str, *, upside_down: bool) -> None:
    bottom, top = (_OPPOSITE[down], down) if upside_down else (down, _OPPOSITE[down])
    places = ((0.01, 0.5, _OPPOSITE[right]), (0.99, 0.5, right), (0.5, 0.01, bottom))
    for x, y, letter in (*places, (0.5, 0.99, top)):
        ax.text(
            *(x, y, letter),
            transform=ax.transAxes,
            color="yellow",
            fontsize=9,
            ha="left" if x < 0.1 else "right" if x > 0.9 else "center",
            va="bottom" if y < 0.1 else "top" if y > 0.9 else "center",
        )


def _legend(
    figure: Figure,
    labelmap: NDArray[np.uint8],
    size: float,
    unit: str,
    class_names: Sequence[str],
) -> None:
    """Add a line for each class in the mask, with its volume, or its area in 2-D."""
    counts = np.bincount(labelmap.ravel(), minlength=len(class_names))
    lines = [
        Line2D([], [], color=_color(k), label=f"{class_names[k]}: {counts[k] * size:.1f} {unit}")
        for k in range(1, len(class_names))
        if counts[k]
    ]
    if not lines:
        figure.text(0.5, 0.02, "nothing was found", color="white", fontsize=9, ha="center")
        return
    figure.legend(
        handles=lines,
        loc="outside lower center",
        ncols=min(4, len(lines)),
        frameon=False,
        labelcolor="white",
        fontsize=9,
    )


def _color(value: int) -> str:
    return _COLORS[(value - 1) % len(_COLORS)]
