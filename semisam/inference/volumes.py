"""Volumes of the classes of masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semisam.data.images.files import PIXELS, Geometry


@dataclass(frozen=True)
class Volume:
    """The extent of one class in one scan.

    Attributes:
        scan: its name.
        class_name: of the class.
        voxels: their number.
        size: the volume in ml, or the area in mm² or in pixels.
        unit: of the size.
    """

    scan: str
    class_name: str
    voxels: int
    size: float
    unit: str

    def row(self) -> dict[str, str | int | float]:
        """Return the row of a CSV file."""
        return {
            "scan": self.scan,
            "class": self.class_name,
            "voxels": self.voxels,
            self.unit: float(f"{self.size:.6g}"),
        }


def unit_of(geometry: Geometry) -> tuple[str, float]:
    """Return the unit of extents on a grid, and the size of a voxel in it."""
    voxel = math.prod(geometry.spacing)
    if len(geometry.spacing) == 3:
        return "ml", voxel / 1000
    return ("pixels" if geometry == PIXELS else "mm²"), voxel


def volumes(
    scan: str, labelmap: NDArray[np.integer], geometry: Geometry, class_names: Sequence[str]
) -> list[Volume]:
    """Return the volume of each foreground class.

    Args:
        scan: its name.
        labelmap: ``(*S)``, the class numbers.
        geometry: of the label map.
        class_names: background first.
    """
    unit, size = unit_of(geometry)
    counts = np.bincount(labelmap.ravel(), minlength=len(class_names))
    return [
        Volume(scan, class_names[k], int(counts[k]), int(counts[k]) * size, unit)
        for k in range(1, len(class_names))
    ]
