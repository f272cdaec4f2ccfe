"""Synthetic anatomy: the structures of a volume and the candidates for its target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from semisam.pretraining.shapes import Draws, Space, blob, ellipsoid, tube

TISSUES = 8
"""Number of tissues in a volume; structures of one tissue look nearly alike."""

AIR = 0  # the tissue outside a body

_BALL = {2: 0.56, 3: 0.62}  # radius of a ball of volume 1


@dataclass
class Scene:
    """Structures in the order of their painting, and candidates for the target.

    Attributes:
        space: the coordinates.
        shapes: fields ``(*s)``, negative inside; a later one covers an earlier one.
        tissues: the tissue of each.
        twins: for each, the structure whose intensity and texture it has, in most cases itself.
        wanted: (weight, indices of structures) of each candidate; their union is the target.
        behind: number of structures behind the hairs and glints of a picture, which come last.
        hard: True if rims, cavities that join without an edge and organs at the border occur.
    """

    space: Space
    hard: bool = False
    behind: int = 0
    shapes: list[Tensor] = field(default_factory=list)
    tissues: list[int] = field(default_factory=list)
    twins: list[int] = field(default_factory=list)
    wanted: list[tuple[float, list[int]]] = field(default_factory=list)

    def add(self, shape: Tensor, tissue: int, twin: int | None = None) -> int:
        """Add a structure and return its index."""
        self.shapes.append(shape)
        self.tissues.append(tissue)
        self.twins.append(len(self.twins) if twin is None else self.twins[twin])
        return len(self.shapes) - 1

    def want(self, weight: float, *members: int) -> None:
        """Add a candidate for the target."""
        self.wanted.append((weight, list(members)))


def draw_scene(draws: Draws, shape: tuple[int, ...], hard: bool = False) -> Scene:
    """Draw the anatomy of one volume of ``shape`` voxels."""
    scene = Scene(Space(draws, shape), hard)
    _background(scene, draws)
    for _ in range(draws.whole(0, 5)):
        _clutter(scene, draws)
    pick = draws.uniform(0, 1)
    recipe = next(make for until, make in _RECIPES if pick < until)
    recipe(scene, draws)
    if draws.chance(0.35):
        _body(scene, draws)
    scene.behind = len(scene.shapes)
    if draws.axes == 2 and hard and draws.chance(0.3):
        _front(scene, draws)
    return scene


def _tissue(draws: Draws) -> int:
    return draws.whole(1, TISSUES - 1)


def _background(scene: Scene, draws: Draws) -> None:
    """Fill the volume with regions of a few tissues, as in SynthMorph's label maps."""
    count, cells = draws.whole(1, 5), draws.log_uniform(2, 9)
    fields = draws.smooth(count, scene.space.grid, cells)
    for n in range(count):
        rest = torch.cat([fields[:n], fields[n + 1 :]])
        nearest = rest.amax(0) if n and len(rest) else torch.full(scene.space.grid, 9.0)
        # The first field fills the volume, and each other covers it where it is the largest.
        shape = -nearest if not n else (nearest - fields[n]) * scene.space.size / (2 * cells)
        index = scene.add(shape, _tissue(draws))
        if n:
            scene.want(0.03, index)


def _clutter(scene: Scene, draws: Draws) -> None:
    space = scene.space
    if draws.chance(0.6):
        radius = space.size * draws.log_uniform(0.04, 0.25)
        shape = ellipsoid(space, draws, space.anywhere(draws), radius, draws.uniform(0, 0.3))
    else:
        shape = _free_tube(scene, draws, draws.log_uniform(0.02, 0.1))
    scene.want(0.1, scene.add(shape, _tissue(draws)))


def _free_tube(scene: Scene, draws: Draws, radius: float) -> Tensor:
    """Draw a vessel through the volume, with a radius as a fraction of the volume's size."""
    space = scene.space
    start, heading = space.anywhere(draws), draws.direction()
    length = space.size * draws.uniform(0.4, 1.3)
    back = start - heading * length / 2
    return tube(space, draws, back, heading, radius * space.size, length)[0]


def _chambers(scene: Scene, draws: Draws) -> None:
    """Draw cavities of similar content with vessels, behind thin walls with openings."""
    space, blood = scene.space, _tissue(draws)
    # Off centre, the border cuts a chamber. Plain scenes must draw the numbers of earlier versions.
    spread = 0.9 if scene.hard and draws.chance(0.4) else 0.35
    centre = space.anywhere(draws, spread)
    radius = _BALL[draws.axes] * space.size * draws.log_uniform(0.01, 0.25) ** (1 / draws.axes)
    main = blob(space, draws, centre, radius)
    wall = draws.uniform(0.8, 3.5) if draws.chance(0.85) else 0.0
    # Two cavities touch where this is negative, as through a valve.
    gap = wall * (0.9 + 0.7 * draws.smooth(1, space.grid, draws.uniform(3, 8))[0]).clamp(min=0)
    if scene.hard and draws.chance(0.5):
        wall = draws.uniform(2, 4)
        gap = torch.full_like(gap, wall)
    joined = scene.hard and draws.chance(0.35)
    taken = main
    others: list[Tensor] = []
    for _ in range(draws.whole(1, 4)):
        size = radius * draws.log_uniform(0.5, 1.4)
        place = centre + draws.direction() * (radius + size) * draws.uniform(0.7, 1.1)
        if draws.chance(0.3):  # a vessel that passes by
            heading = draws.direction()
            if draws.axes == 3:
                heading = torch.linalg.cross(heading, draws.direction())
                heading = heading / heading.norm().clamp(min=1e-3)
            place = centre + draws.direction() * (radius + 0.3 * size) * draws.uniform(0.9, 1.3)
            start = place - heading * space.size * 0.5
            other = tube(space, draws, start, heading, 0.35 * size, space.size)[0]
        else:
            other = blob(space, draws, place, size)
        apart = torch.full_like(gap, draws.uniform(-0.5, 1)) if joined and not others else gap
        others.append(torch.maximum(other, apart - taken))
        taken = torch.minimum(taken, other)
    muscle = _tissue(draws)
    if draws.chance(0.5):
        thick = draws.uniform(1, 5)
        scene.want(0.15, scene.add(taken - thick, muscle))
    neighbours = []
    for other in others:
        if draws.chance(0.25):
            scene.add(other - draws.uniform(1, 4), muscle)
        neighbours.append(scene.add(other, blood if draws.chance(0.85) else _tissue(draws)))
    chamber = _main_chamber(scene, draws, main, centre, radius, blood, neighbours)
    if joined:  # only the shape shows the border between the two
        scene.twins[neighbours[0]] = chamber


def _main_chamber(
    scene: Scene,
    draws: Draws,
    main: Tensor,
    centre: Tensor,
    radius: float,
    blood: int,
    neighbours: list[int],
) -> int:
    """Paint a cavity and its vessels, and return the cavity's index.

    The target is the cavity with the first part of some of the vessels.
    """
    space = scene.space
    if scene.hard and draws.chance(0.4):
        _rim(scene, draws, main)
    if draws.chance(0.35):
        thick = draws.uniform(0.8, 2.5)
        scene.want(0.1, scene.add(main - thick, _tissue(draws)))
    near, far = [], []
    for _ in range(draws.whole(0, 6)):
        heading = draws.direction()
        wide = radius * draws.log_uniform(0.12, 0.45)
        start = centre + heading * radius * 0.6
        long = radius * draws.uniform(0.7, 2.5)
        vessel = tube(space, draws, start, heading, wide, long)[0]
        cut = radius * draws.uniform(0.0, 0.9) if draws.chance(0.75) else 9 * space.size
        far.append(vessel)
        near.append(torch.maximum(vessel, main - cut))
    outer = [scene.add(vessel, blood) for vessel in far]
    inner = [scene.add(vessel, blood, twin=n) for vessel, n in zip(near, outer, strict=True)]
    chamber = scene.add(main, blood)
    if draws.chance(0.7):  # blood that flows from one into the other has one brightness
        for n in (*outer, *inner):
            scene.twins[n] = chamber
    scene.want(4.0, chamber, *inner)
    scene.want(1.0, chamber)
    if outer:
        scene.want(0.6, chamber, *inner, *outer)
    for n in neighbours:
        scene.want(0.3, n)
    if neighbours and draws.chance(0.5):
        scene.want(0.5, chamber, *inner, neighbours[draws.whole(0, len(neighbours) - 1)])
    return chamber


def _rim(scene: Scene, draws: Draws, shape: Tensor) -> None:
    """Paint patches of one tissue around a shape, like scars and fat around a cavity."""
    space, thick = scene.space, draws.uniform(1.5, 4)
    patches = draws.smooth(1, space.grid, draws.uniform(3, 10))[0] + draws.uniform(-0.8, 0.8)
    scene.add(torch.maximum(shape - thick, 3 * patches), _tissue(draws))


def _organs(scene: Scene, draws: Draws) -> None:
    """Draw solid, hollow, layered and touching organs anywhere."""
    space, last = scene.space, None
    for _ in range(draws.whole(2, 9)):
        radius = space.size * draws.log_uniform(0.1, 0.4)
        shape = blob(space, draws, space.anywhere(draws, 1.0 if scene.hard else 0.8), radius)
        tissue = _tissue(draws)
        if scene.hard and draws.chance(0.3):
            _rim(scene, draws, shape)
        if scene.hard and draws.chance(0.3):
            scene.add(shape - draws.uniform(2, 4), _tissue(draws))
        whole = scene.add(shape, tissue)
        members = [whole]
        if draws.chance(0.4):  # a cavity or a core
            thick = draws.uniform(1.2, 4) if draws.chance(0.5) else radius * draws.uniform(0.2, 0.6)
            members.append(scene.add(shape + thick, _tissue(draws)))
            scene.want(0.8, members[1])
            scene.want(0.4, whole)
        if draws.chance(0.2):  # a lesion
            off = draws.direction() * radius * draws.uniform(0.2, 0.8)
            place = space.anywhere(draws, 0.8) if draws.chance(0.2) else off
            lesion = ellipsoid(space, draws, place, radius * draws.uniform(0.2, 0.5), 0.35)
            members.append(scene.add(torch.maximum(lesion, shape), _tissue(draws)))
            scene.want(0.5, members[-1])
        scene.want(1.0, *members)
        if last is not None and draws.chance(0.2):
            scene.want(0.5, *members, *last)
        last = members


def _cells(scene: Scene, draws: Draws) -> None:
    """Draw a packing of cells, with or without walls between them and a capsule."""
    space, count = scene.space, draws.whole(4, 14)
    places = torch.stack([space.anywhere(draws) for _ in range(count)])
    apart = space.field(torch.cdist(places, space.at.T))
    two = apart.topk(2, dim=0, largest=False).values
    shared, wall = _tissue(draws), draws.uniform(0.5, 2.0)
    capsule = blob(space, draws, space.anywhere(draws, 0.3), space.size * draws.uniform(0.3, 0.6))
    if draws.chance(0.4):
        capsule = torch.full_like(capsule, -99.0)
    scene.add(capsule - 2 * wall, _tissue(draws))
    alike = draws.uniform(0, 1)
    indices = []
    for n in range(count):
        rival = torch.where(apart[n] <= two[0], two[1], two[0])
        shape = torch.maximum((apart[n] - rival) / 2 + wall / 2, capsule)
        tissue = shared if draws.chance(alike) else _tissue(draws)
        indices.append(scene.add(shape, tissue))
        scene.want(1.0, indices[-1])
    order = torch.cdist(places[:1], places)[0].argsort().tolist()
    scene.want(2.0, *(indices[n] for n in order[: draws.whole(2, 4)]))


def _vessels(scene: Scene, draws: Draws) -> None:
    """Draw a branching tree and vessels that cross it."""
    space, blood = scene.space, _tissue(draws)
    radius = space.size * draws.log_uniform(0.03, 0.12)
    heading = draws.direction()
    start = space.anywhere(draws, 0.5) - heading * space.size * 0.3
    length = space.size * draws.uniform(0.3, 0.7)
    for _ in range(draws.whole(0, 3)):
        crossing = scene.add(_free_tube(scene, draws, draws.log_uniform(0.03, 0.1)), blood)
        scene.want(0.3, crossing)
    trunk, end, heading = tube(space, draws, start, heading, radius, length)
    members = [scene.add(trunk, blood)]
    ends = [(end, heading, radius)]
    for _ in range(draws.whole(1, 5)):
        start, heading, wide = ends[draws.whole(0, len(ends) - 1)]
        wide *= draws.uniform(0.6, 0.95)
        way = heading + 0.7 * draws.normals(draws.axes)
        long = space.size * draws.uniform(0.2, 0.5)
        branch, end, heading = tube(space, draws, start, way / way.norm(), wide, long)
        members.append(scene.add(branch, blood, twin=members[0]))
        ends.append((end, heading, wide))
    scene.want(4.0, *members)
    scene.want(0.5, members[0])


def _body(scene: Scene, draws: Draws) -> None:
    """Cover the outside of a body's outline with air."""
    space = scene.space
    outline = ellipsoid(space, draws, space.anywhere(draws, 0.1), space.size, 0.05)
    scene.add(-(outline + space.size * draws.uniform(0.1, 0.45)), AIR)


def _front(scene: Scene, draws: Draws) -> None:
    """Draw the hairs and the glints in front of a picture, which take no pixel from a target."""
    space, tissue = scene.space, _tissue(draws)
    if draws.chance(0.6):
        for _ in range(draws.whole(2, 12)):
            scene.add(_free_tube(scene, draws, draws.log_uniform(0.003, 0.01)), tissue)
    else:
        for _ in range(draws.whole(1, 6)):
            radius = space.size * draws.log_uniform(0.01, 0.05)
            scene.add(ellipsoid(space, draws, space.anywhere(draws), radius, 0.2), tissue)


_RECIPES: tuple[tuple[float, Callable[[Scene, Draws], None]], ...] = (
    (0.5, _chambers),
    (0.8, _organs),
    (0.9, _cells),
    (1.1, _vessels),
)
"""(cumulative probability, recipe)."""
