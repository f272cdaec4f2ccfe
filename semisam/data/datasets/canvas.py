"""Scans off centre: a control for rows that gain from where the organ usually is."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semisam.core.errors import InputError

_MOST = 4.0


def check_canvas(factor: float) -> None:
    """Refuse a canvas that is smaller than a scan, or larger than any control needs."""
    if not 1 <= factor <= _MOST:
        raise InputError(
            f"canvas must be from 1 to {_MOST:g}, got {factor}. 1 leaves the scans as they are."
        )


def on_canvas(
    array: NDArray[Any], case: str, factor: float, fill: float | None = None, axes: int = 3
) -> NDArray[Any]:
    """Place a volume on a canvas that is ``factor`` times as large along each axis.

    The place depends only on the name of the case, so that image and label stay together.

    Args:
        array: whose last axes are spatial.
        case: name of the case.
        factor: at least 1.
        fill: value outside the volume; ``None``: its least value.
        axes: number of spatial axes.

    Example:
        >>> on_canvas(np.ones((4, 4, 4), np.uint8), "carl", 1.5, fill=0).shape
        (6, 6, 6)
    """
    if factor == 1:
        return array
    pads = [(0, 0)] * (array.ndim - axes)
    digest = hashlib.sha256(case.encode()).digest()
    for axis, size in enumerate(array.shape[-axes:]):
        room = round(size * factor) - size
        before = int.from_bytes(digest[8 * axis : 8 * axis + 8], "big") % (room + 1)
        pads.append((before, room - before))
    return np.pad(array, pads, constant_values=array.min() if fill is None else fill)
