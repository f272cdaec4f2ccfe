"""Random numbers, smooth noise and shapes, the parts of synthetic anatomy.

A shape is a field on a coarse grid ``(*s)``: about the distance to its surface in voxels, negative
inside. Interpolation to the fine grid keeps the surface.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from semisam.core.axes import LINEAR


class Draws:
    """Random numbers of one stream.

    Args:
        seed: of the stream.
        axes: spatial axes ``d``, 2 or 3.
    """

    def __init__(self, seed: int, axes: int = 3) -> None:
        self.axes = axes
        self.rng = torch.Generator().manual_seed(seed)

    def uniform(self, low: float, high: float) -> float:
        """Draw from ``low`` to ``high``."""
        return low + (high - low) * float(torch.rand((), generator=self.rng))

    def log_uniform(self, low: float, high: float) -> float:
        """Draw from ``low`` to ``high``, evenly on a logarithmic scale."""
        return math.exp(self.uniform(math.log(low), math.log(high)))

    def whole(self, low: int, high: int) -> int:
        """Draw an integer from ``low`` to ``high``, both included."""
        return int(torch.randint(low, high + 1, (), generator=self.rng))

    def chance(self, probability: float) -> bool:
        """Return True with the given probability."""
        return float(torch.rand((), generator=self.rng)) < probability

    def uniforms(self, *shape: int) -> Tensor:
        """Draw numbers in [0, 1)."""
        return torch.rand(shape, generator=self.rng)

    def normals(self, *shape: int) -> Tensor:
        """Draw normal numbers of deviation 1."""
        return torch.randn(shape, generator=self.rng)

    def direction(self) -> Tensor:
        """Draw a unit vector ``(d,)``."""
        vector = self.normals(self.axes)
        unit: Tensor = vector / vector.norm().clamp(min=1e-6)
        return unit

    def rotation(self) -> Tensor:
        """Draw a rotation or reflection ``(d, d)``."""
        turn: Tensor = torch.linalg.qr(self.normals(self.axes, self.axes))[0]
        return turn

    def smooth(self, count: int, grid: tuple[int, ...], cells: float) -> Tensor:
        """Draw ``count`` fields ``(count, *grid)`` of deviation about 1.

        They vary over 1 / ``cells`` of the longest axis.
        """
        longest = max(grid)
        nodes = [max(2, round(cells * n / longest) + 1) for n in grid]
        field = self.normals(1, count, *nodes)
        stretched = functional.interpolate(
            field, size=grid, mode=LINEAR[len(grid)], align_corners=True
        )
        # Linear interpolation averages. The factor restores the deviation where cells are large.
        return 1.5 * stretched[0]


class Space:
    """The coordinates of a coarse grid, bent by smooth noise, in voxels of the fine grid.

    Attributes:
        grid: ``(*s)`` of the coarse grid.
        size: the geometric mean of the extents, the unit of anatomy.
        half: ``(d,)`` half extents.
        at: ``(d, n)`` bent coordinates of the ``n`` nodes, 0 in the middle.
    """

    def __init__(self, draws: Draws, shape: tuple[int, ...]) -> None:
        self.grid = tuple((n + 1) // 2 + 1 for n in shape)
        # If slices are farther apart than pixels, anatomy looks squeezed along an axis.
        squeeze = [draws.uniform(0.85, 1.15) for _ in shape]
        if draws.chance(0.3):
            squeeze[draws.whole(0, len(shape) - 1)] *= draws.uniform(1.2, 2.5)
        extents = [(n - 1) * f for n, f in zip(shape, squeeze, strict=True)]
        self.size = math.prod(extents) ** (1 / len(shape))
        self.half = torch.tensor(extents) / 2
        axes = [torch.linspace(-e / 2, e / 2, n) for e, n in zip(extents, self.grid, strict=True)]
        place = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        for cells, amplitude in ((2.5, 0.06), (5.0, 0.025), (10.0, 0.008)):
            reach = amplitude * self.size * draws.uniform(0, 1)
            place = place + reach * draws.smooth(len(shape), self.grid, cells)
        self.at = place.reshape(len(shape), -1)

    def field(self, flat: Tensor) -> Tensor:
        """Reshape ``(..., n)`` to ``(..., *s)``."""
        return flat.reshape(*flat.shape[:-1], *self.grid)

    def anywhere(self, draws: Draws, part: float = 0.9) -> Tensor:
        """Draw a place ``(d,)`` within the middle fraction ``part`` of each axis."""
        return (2 * draws.uniforms(draws.axes) - 1) * self.half * part


def ellipsoid(space: Space, draws: Draws, centre: Tensor, radius: float, rough: float) -> Tensor:
    """Draw a rotated, rounded or boxy ellipsoid with an uneven surface.

    Args:
        space: the coordinates.
        draws: the random numbers.
        centre: ``(d,)``.
        radius: the geometric mean of its half axes.
        rough: deviation of its surface, as a fraction of the radius.
    """
    stretch = torch.exp(0.28 * draws.normals(draws.axes))
    radii = radius * stretch / stretch.prod() ** (1 / draws.axes)
    local = (draws.rotation() @ (space.at - centre[:, None])).abs() / radii[:, None]
    power = 2.0 if draws.chance(0.7) else draws.uniform(1.4, 4.0)
    norm = local.square().sum(0).sqrt() if power == 2 else (local**power).sum(0) ** (1 / power)
    field = space.field((norm - 1) * radius)
    if rough > 0:
        cells = min(max(space.size / radius * draws.uniform(0.6, 1.8), 2), 14)
        field = field + rough * radius * draws.smooth(1, space.grid, cells)[0]
    return field


def blob(space: Space, draws: Draws, centre: Tensor, radius: float) -> Tensor:
    """Draw an organ of one to three merged ellipsoids."""
    rough = draws.uniform(0, 0.15)
    field = ellipsoid(space, draws, centre, radius, rough)
    for _ in range(max(draws.whole(-1, 2), 0)):
        size = radius * draws.uniform(0.35, 0.8)
        lobe = centre + draws.direction() * radius * draws.uniform(0.5, 1.1)
        field = melted(field, ellipsoid(space, draws, lobe, size, rough), 0.15 * radius)
    return field


def melted(a: Tensor, b: Tensor, width: float) -> Tensor:
    """Return the union of two shapes, rounded over ``width`` at their contact."""
    mixed = (0.5 + 0.5 * (b - a) / max(width, 1e-3)).clamp(0, 1)
    return b + (a - b) * mixed - width * mixed * (1 - mixed)


def tube(
    space: Space, draws: Draws, start: Tensor, heading: Tensor, radius: float, length: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw a winding vessel of varying radius.

    Returns:
        The field, the place ``(d,)`` of its end and the heading ``(d,)`` there.
    """
    pieces = min(max(round(length / (2.5 * radius)), 2), 8)
    wind, taper = draws.uniform(0.1, 0.5), draws.uniform(0.6, 1.15)
    points, radii = [start], [radius]
    for _ in range(pieces):
        heading = heading + wind * draws.normals(draws.axes)
        heading = heading / heading.norm().clamp(min=1e-6)
        points.append(points[-1] + heading * (length / pieces))
        radii.append(radii[-1] * taper ** (1 / pieces) * math.exp(0.08 * draws.uniform(-1, 1)))
    field: Tensor | None = None
    for a, b, r, end in zip(points[:-1], points[1:], radii[:-1], radii[1:], strict=True):
        along = b - a
        away = space.at - a[:, None]
        t = (along @ away / along.square().sum()).clamp(0, 1)
        rest = away - along[:, None] * t
        piece = rest.square().sum(0).sqrt() - (r + (end - r) * t)
        field = piece if field is None else torch.minimum(field, piece)
    if field is None:
        raise ValueError(f"a tube's length must be positive, got {length}")
    return space.field(field), points[-1], heading
