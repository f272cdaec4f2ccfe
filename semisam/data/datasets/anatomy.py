"""The bodies of the phantoms, as signed fields that are bit-identical on every machine.

Lengths are in units of the phantom's size, with the origin near the middle of the volume.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from semisam.data.datasets.exact import ExactRandom, Field

Point = tuple[float, float, float]
Grid = tuple[Field, Field, Field]

WALL = 0.02  # about one voxel


@dataclass(frozen=True)
class Body:
    """One field per structure: about the distance to its surface, negative inside.

    Attributes:
        vessels: what is filled with blood. Where several meet, the first wins.
        muscle: around a vessel.
        lung: at the sides.
        spine: behind.
        rim: whose outside is bright in patches.
        centre: of the first vessel before anything is added.
        regions: those of the label, class 1 first; the vessels if ``None``.
    """

    vessels: tuple[Field, ...]
    muscle: Field
    lung: Field
    spine: Field
    rim: Field
    centre: Point
    regions: tuple[Field, ...] | None = None


def _heart(rng: ExactRandom, grid: Grid, shape: tuple[int, ...]) -> Body:
    """Draw an atrium with veins among other chambers and vessels."""
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
    second = np.maximum(second, 1.5 * WALL - atrium)
    aorta = np.maximum(aorta, WALL - np.minimum(atrium, second))
    muscle = ventricle - u(0.03, 0.05)
    ventricle = np.maximum(ventricle, 2 * WALL - np.minimum(np.minimum(atrium, second), aorta))
    return Body((atrium, second, aorta, ventricle), muscle, lung, spine, atrium, centre)


def _halves(rng: ExactRandom, grid: Grid, shape: tuple[int, ...]) -> Body:
    """Draw a heart whose atrium is two classes, which only their place tells apart."""
    body = _heart(rng, grid, shape)
    atrium = body.vessels[0]
    near = np.maximum(atrium, grid[0] - body.centre[0])
    return replace(body, regions=(near, atrium))


def _gland(rng: ExactRandom, grid: Grid, shape: tuple[int, ...]) -> Body:
    """Draw a gland behind the atrium of a heart, in 0.3 to 1 % of the scan."""
    body = _heart(rng, grid, shape)
    u = rng.uniform
    x, y, z = body.centre
    place = (x - u(0.14, 0.20), y + u(0.27, 0.31), z + u(-0.10, 0.10))
    gland = _ellipsoid(grid, place, (u(0.095, 0.12), u(0.085, 0.105), u(0.095, 0.12)))
    gland = np.maximum(gland, WALL - np.minimum(body.vessels[0], body.vessels[2]))
    return replace(body, vessels=(gland, *body.vessels))


def _pair(rng: ExactRandom, grid: Grid, shape: tuple[int, ...]) -> Body:
    """Draw two organs that mirror each other at the middle plane, with vessels between them."""
    u = rng.uniform
    aside, back, radii = u(0.23, 0.27), u(0.04, 0.12), (u(0.10, 0.13), u(0.12, 0.15), u(0.18, 0.23))
    organs = []
    for side in (-1, 1):
        place = (side * aside + u(-0.02, 0.02), back + u(-0.02, 0.02), u(-0.03, 0.03))
        organs.append(_ellipsoid(grid, place, radii) + 0.03 * rng.smooth(shape, 7))
    left, right = organs
    front = u(-0.26, -0.20)
    falling = ((u(-0.03, 0.03), 0.1, -0.6), (u(-0.03, 0.03), 0.1, 0.6))
    vessel = _Tube(falling, u(0.06, 0.08), u(0.06, 0.08)).field(grid)
    chamber = _ellipsoid(grid, (0.0, front, 0.0), (u(0.14, 0.20), u(0.09, 0.13), u(0.16, 0.24)))
    both = np.minimum(left, right)
    vessel = np.maximum(vessel, WALL - both)
    chamber = np.maximum(chamber, 2 * WALL - np.minimum(both, vessel))
    spine = _Tube(((0.0, 0.34, -0.6), (0.0, 0.34, 0.6)), 0.1, 0.1).field(grid)
    lung = 0.43 + u(-0.03, 0.03) - abs(grid[0]) + 0.06 * rng.smooth(shape, 4)
    muscle = chamber - u(0.03, 0.05)
    return Body((left, right, vessel, chamber), muscle, lung, spine, both, (0.0, back, 0.0))


@dataclass(frozen=True)
class Kind:
    """One kind of body: the names of the classes that its label can have, and how it is drawn."""

    class_names: tuple[str, ...]
    draw: Callable[[ExactRandom, Grid, tuple[int, ...]], Body]


BODIES: Mapping[str, Kind] = MappingProxyType(
    {
        "heart": Kind(("atrium", "second chamber", "aorta", "ventricle"), _heart),
        "halves": Kind(("near half", "far half"), _halves),
        "gland": Kind(("gland", "atrium"), _gland),
        "pair": Kind(("left organ", "right organ"), _pair),
    }
)


def draw_body(organs: str, rng: ExactRandom, shape: tuple[int, ...], size: int) -> Body:
    """Draw a body of the named kind: a common layout, shifted, rotated and bent."""
    return BODIES[organs].draw(rng, _bent_grid(rng, shape, size), shape)


def _bent_grid(rng: ExactRandom, shape: tuple[int, ...], size: int) -> Grid:
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


def _ellipsoid(grid: Grid, centre: Point, radii: Point) -> Field:
    x, y, z = ((c - m) / r for c, m, r in zip(grid, centre, radii, strict=True))
    field: Field = (np.sqrt(x * x + y * y + z * z) - 1.0) * min(radii)
    return field


@dataclass(frozen=True)
class _Tube:
    """A chain of straight pieces whose radius changes linearly from ``start`` to ``end``."""

    points: Sequence[Point]
    start: float
    end: float

    def field(self, grid: Grid) -> Field:
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
