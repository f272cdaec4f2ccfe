"""Synthetic scans that resemble the left atrium data, bit-identical on every machine.

Thresholding does not solve them: an irregular chamber with three to five veins is among other
chambers and vessels of similar intensity. So shape and place must be learned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from semisam.core.errors import InputError
from semisam.data.datasets.dataset import Dataset, Image, Split
from semisam.data.datasets.exact import ExactRandom, Field, blurred, z_scored
from semisam.data.images.files import Geometry

Point = tuple[float, float, float]

SPACING = 1.25
MIN_SIZE = 32
_CLASS_NAMES = ("background", "atrium", "second chamber", "aorta", "ventricle")
_FIRST_TEST = 1 << 20  # test cases do not depend on the number of training cases
_WALL = 0.02  # of the size: about one voxel


class Phantom(Dataset):
    """Seeded synthetic scans that resemble those of the left atrium, made on access.

    A case is a pure function of (seed, index): shape, anatomy, contrast, noise. Volumes have
    about ``size`` x ``size`` x 3/4 ``size`` voxels of 1.25 mm, with slightly different shapes. They
    are z-scored and hold 5 to 15 % foreground in class 1.

    Args:
        path: not used.
        cases: training cases.
        test_cases: test cases; they do not depend on the number of training cases.
        classes: 2 labels the atrium, 3 a second chamber too, 4 the aorta, 5 the ventricle.
        seed: a non-negative integer.
        size: in-plane extent in voxels, at least 32.
        ndim: 3 for volumes, 2 for the slice of each in which the atrium is largest.

    Raises:
        InputError: an option is out of range.
    """

    name: ClassVar[str] = "phantom"
    note: str = "made-up scans, no patients"

    def __init__(
        self,
        path: Path | None = None,
        *,
        cases: int = 16,
        test_cases: int = 6,
        classes: int = 2,
        seed: int = 0,
        size: int = 56,
        ndim: Literal[2, 3] = 3,
    ) -> None:
        super().__init__(path)
        most = len(_CLASS_NAMES)
        for option, value, low, high in (
            ("cases", cases, 1, _FIRST_TEST),
            ("test_cases", test_cases, 0, _FIRST_TEST),
            ("classes", classes, 2, most),
            ("seed", seed, 0, 2**63),
            ("size", size, MIN_SIZE, 512),
        ):
            if not low <= value <= high:
                raise InputError(
                    f"{option} of the phantom must be from {low} to {high}, got {value}. "
                    "Choose a number in that range."
                )
        self.num_classes = classes
        self.channels = 1
        self.class_names = _CLASS_NAMES[:classes]
        self.suggested = {"patch": (48, 48, 32)[:ndim], "iterations": 300}
        self.seed, self.size, self.ndim = seed, size, ndim
        train = {f"train_{n:03d}": n for n in range(cases)}
        test = {f"test_{n:03d}": _FIRST_TEST + n for n in range(test_cases)}
        self._index = train | test
        self._split = Split(tuple(train), tuple(test))

    def split(self) -> Split:
        """Return the cases ``train_000``, ... and ``test_000``, ..."""
        return self._split

    def image(self, case: str) -> Image:
        """Make one image ``(1, W, H, D)``, or ``(1, W, H)``."""
        array = self._make(case)[0]
        return Image(array[None], Geometry((SPACING,) * self.ndim), has_geometry=False)

    def label(self, case: str) -> NDArray[np.uint8]:
        """Make one label ``(W, H, D)`` or ``(W, H)``; unknown classes are background."""
        full = self._make(case)[1]
        return np.where(full < self.num_classes, full, 0).astype(np.uint8)

    def _make(self, case: str) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        image, label = make_case(self.seed, self._index[case], size=self.size)
        if self.ndim == 3:
            return image, label
        at = int((label == 1).sum((0, 1)).argmax())
        return np.ascontiguousarray(image[..., at]), np.ascontiguousarray(label[..., at])

    def has_label(self, case: str) -> bool:
        """Return True: every case has a label."""
        return True

    def source(self, case: str) -> str:
        """Return the case's name for error messages."""
        return f"phantom {case} (seed {self.seed})"


def make_case(
    seed: int, index: int, *, size: int = 56
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Make one scan and the label of all its structures.

    Returns:
        The image ``(W, H, D)``, z-scored, and the label ``(W, H, D)`` with 0 background, 1 atrium
        and its veins, 2 second chamber, 3 aorta, 4 ventricle.
    """
    rng = ExactRandom(seed, index)
    shape = tuple(int(size * part) + rng.whole(-3, 3) for part in (1.0, 1.0, 0.75))
    body = _anatomy(rng, shape, size)
    label = np.zeros(shape, np.uint8)
    # The atrium comes last, so it overwrites the others where they meet.
    for number, field in ((4, body.ventricle), (3, body.aorta), (2, body.second), (1, body.atrium)):
        label[field < 0] = number
    return _scan(rng, body, label), label


@dataclass(frozen=True)
class _Anatomy:
    """The anatomy as one field per structure: about the distance to its surface, negative inside.

    Lengths are in units of the size, with the origin near the middle of the volume.
    """

    atrium: Field
    second: Field
    aorta: Field
    ventricle: Field
    muscle: Field
    lung: Field
    spine: Field


def _anatomy(rng: ExactRandom, shape: tuple[int, ...], size: int) -> _Anatomy:
    """Draw a body: the common layout, shifted, rotated and bent, with random sizes and vessels."""
    grid = _bent_grid(rng, shape, size)
    u = rng.uniform
    rough = rng.smooth(shape, 7)
    centre = (u(-0.04, 0.04), u(-0.01, 0.06), u(-0.03, 0.03))
    radii = (u(0.23, 0.285), u(0.185, 0.23), u(0.185, 0.23))
    atrium = _ellipsoid(grid, centre, radii) + 0.04 * rough
    for _ in range(rng.whole(0, 1)):  # some have an appendage
        tip = (centre[0] + u(0.14, 0.2), centre[1] - u(0.12, 0.2), centre[2] + u(-0.06, 0.06))
        atrium = np.minimum(atrium, _ellipsoid(grid, tip, (0.09, 0.07, 0.08)))
    for vein in _veins(rng, centre, radii):
        atrium = np.minimum(atrium, vein.field(grid))

    beside = (centre[0] - radii[0] - u(0.02, 0.08), centre[1] - u(0.14, 0.22), u(-0.08, 0.02))
    second = _ellipsoid(grid, beside, (u(0.13, 0.19), u(0.16, 0.22), u(0.18, 0.25)))
    second = second - 0.04 * rough
    below, above = (beside[0], beside[1] + 0.06, -0.6), (beside[0], beside[1] + 0.06, 0.6)
    caval = _Tube((below, beside, above), u(0.05, 0.065), u(0.05, 0.065))
    second = np.minimum(second, caval.field(grid))

    behind = centre[1] + radii[1] + u(0.07, 0.10)
    side = centre[0] + u(0.06, 0.16)
    falling = ((side, behind, -0.6), (side + u(-0.05, 0.05), behind, 0.0), (side, behind, 0.6))
    front = (centre[0] + u(-0.06, 0.02), centre[1] - radii[1] - u(0.10, 0.14), 0.1)
    rising = (front, (front[0] - u(0.0, 0.06), front[1], 0.35), (front[0], front[1] + 0.05, 0.7))
    aorta = np.minimum(
        _Tube(falling, u(0.06, 0.075), u(0.055, 0.07)).field(grid),
        _Tube(rising, u(0.08, 0.095), u(0.07, 0.085)).field(grid),
    )

    apart = (centre[0] + u(0.10, 0.2), centre[1] - radii[1] - u(0.10, 0.15), -u(0.10, 0.22))
    size_of = (u(0.15, 0.21), u(0.16, 0.22), u(0.17, 0.23))
    ventricle = _ellipsoid(grid, apart, size_of)
    spine = _Tube(
        ((u(-0.1, 0), behind + 0.15, -0.6), (u(-0.1, 0), behind + 0.13, 0.6)), 0.1, 0.1
    ).field(grid)
    lung = 0.38 + u(-0.03, 0.03) - abs(grid[0]) + 0.06 * rng.smooth(shape, 4)
    # A wall separates the chambers, so that no two touch.
    second = np.maximum(second, 1.5 * _WALL - atrium)
    aorta = np.maximum(aorta, _WALL - np.minimum(atrium, second))
    muscle = ventricle - u(0.03, 0.05)
    ventricle = np.maximum(ventricle, 2 * _WALL - np.minimum(np.minimum(atrium, second), aorta))
    return _Anatomy(atrium, second, aorta, ventricle, muscle, lung, spine)


def _bent_grid(rng: ExactRandom, shape: tuple[int, ...], size: int) -> tuple[Field, Field, Field]:
    """Return the three coordinates of each voxel in the common layout."""
    axes = [
        ((np.arange(n, dtype=np.float32) - 0.5 * (n - 1)) / size + rng.uniform(-0.04, 0.04))
        for n in shape
    ]
    x, y, z = np.meshgrid(*axes, indexing="ij", copy=False)
    tilt = rng.uniform(-0.25, 0.25)
    cosine = 1.0 / math.sqrt(1.0 + tilt * tilt)
    sine = tilt * cosine
    x, y = cosine * x - sine * y, sine * x + cosine * y
    return (
        x + 0.05 * rng.smooth(shape, 3),
        y + 0.05 * rng.smooth(shape, 3),
        z + 0.05 * rng.smooth(shape, 3),
    )


def _ellipsoid(grid: tuple[Field, Field, Field], centre: Point, radii: Point) -> Field:
    x, y, z = ((c - m) / r for c, m, r in zip(grid, centre, radii, strict=True))
    field: Field = (np.sqrt(x * x + y * y + z * z) - 1.0) * min(radii)
    return field


@dataclass(frozen=True)
class _Tube:
    """A chain of straight pieces whose radius changes linearly from ``start`` to ``end``."""

    points: Sequence[Point]
    start: float
    end: float

    def field(self, grid: tuple[Field, Field, Field]) -> Field:
        pieces = len(self.points) - 1
        result: Field | None = None
        for n, (a, b) in enumerate(zip(self.points[:-1], self.points[1:], strict=True)):
            away = [coordinate - origin for coordinate, origin in zip(grid, a, strict=True)]
            along = [end - origin for end, origin in zip(b, a, strict=True)]
            length = sum(d * d for d in along)
            t = sum((p * (d / length) for p, d in zip(away, along, strict=True)), np.float32(0))
            t = np.clip(t, 0.0, 1.0)
            rest = [p - d * t for p, d in zip(away, along, strict=True)]
            distance = np.sqrt(rest[0] * rest[0] + rest[1] * rest[1] + rest[2] * rest[2])
            slope = (self.end - self.start) / pieces
            piece = distance - (self.start + slope * n) - slope * t
            result = piece if result is None else np.minimum(result, piece)
        if result is None:
            raise ValueError(f"a tube must have at least 2 points, got {len(self.points)}.")
        return result


def _veins(rng: ExactRandom, centre: Point, radii: Point) -> list[_Tube]:
    """Draw three to five veins that leave the atrium to the sides and to the back."""
    u = rng.uniform
    corners = [(-1, 1), (1, 1), (-1, -1), (1, -1)][: rng.whole(3, 4)]
    if rng.whole(0, 2) == 0:
        corners.append((rng.whole(0, 1) * 2 - 1, 0))
    veins = []
    for side, level in corners:
        start = (
            centre[0] + side * 0.5 * radii[0],
            centre[1] + u(0.1, 0.5) * radii[1],
            centre[2] + level * u(0.4, 0.6) * radii[2],
        )
        middle = (
            start[0] + side * u(0.12, 0.17),
            start[1] + u(0.0, 0.06),
            start[2] + level * u(0.0, 0.06),
        )
        end = (
            middle[0] + side * u(0.05, 0.12),
            middle[1] + u(-0.04, 0.08),
            middle[2] + level * u(0.0, 0.08),
        )
        veins.append(_Tube((start, middle, end), u(0.055, 0.07), u(0.035, 0.05)))
    return veins


def _scan(rng: ExactRandom, body: _Anatomy, label: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Simulate the scan of a body: contrast, partial volume, bias field, noise."""
    u = rng.uniform
    shape = label.shape
    texture = rng.smooth(shape, 12)
    blood = u(0.50, 0.72)
    image = u(0.28, 0.42) + 0.08 * texture
    image = np.where(rng.smooth(shape, 5) > 0.34, np.float32(u(0.65, 0.95)), image)  # fat
    image = np.where(body.lung < 0, u(0.06, 0.14) + 0.04 * texture, image)
    image = np.where(body.spine < 0, u(0.35, 0.6) + 0.15 * texture, image)
    image = np.where(body.muscle < 0, np.float32(u(0.2, 0.32)), image)
    wall = (body.atrium < _WALL) & (rng.smooth(shape, 6) > u(0.0, 0.2))  # scar takes up contrast
    image = np.where(wall, np.float32(blood + u(0.1, 0.3)), image)
    for number in range(1, len(_CLASS_NAMES)):
        level = blood + u(-0.05, 0.05) + 0.05 * texture
        image = np.where(label == number, level, image)
    image = image.astype(np.float32)
    for _ in range(rng.whole(1, 2)):
        image = blurred(image)
    image = image * (1.0 + u(0.15, 0.35) * rng.smooth(shape, 2))
    sigma = u(0.05, 0.09)  # Rician, as the magnitude of a complex signal
    real = image + sigma * rng.normals(shape)
    imaginary = sigma * rng.normals(shape)
    return z_scored(np.sqrt(real * real + imaginary * imaginary))
