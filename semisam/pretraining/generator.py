"""Synthetic volumes, each an image and a target, from a seed and an index.

A promptable segmenter must learn which voxels belong together around a click, for any organ,
scanner or contrast. So anatomy and appearance vary more than in any one data set. Noise shapes and
random contrast are as in SynthMorph (Hoffmann et al., IEEE TMI 2022) and SynthSeg (Billot et al.,
Medical Image Analysis 2023). Star-like organs are as in AnyStar (Dey et al., WACV 2024). New are
cavities with thin walls, vessels that belong to the target in part, packings of cells, layers and
unions. No scan of a person is used.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from semisam.core.axes import LINEAR
from semisam.core.seeding import derive_seed
from semisam.pretraining.anatomy import Scene, draw_scene
from semisam.pretraining.scanner import scan
from semisam.pretraining.shapes import Draws

SMALLEST, LARGEST = 0.003, {2: 0.5, 3: 0.25}  # fraction of the volume that is target
MIN_SIZE = 16
FARTHEST = 2.5  # voxels between a target's surface and the edge that the image shows
_ATTEMPTS = 100


@dataclass(frozen=True)
class Volume:
    """A synthetic scan.

    Attributes:
        image: ``(*S)`` float32 of zero mean and unit deviation.
        target: ``(*S)`` bool, one connected region.
        looks: ``(*S)`` int16, equal for structures of one look; None if unknown.
    """

    image: Tensor
    target: Tensor
    looks: Tensor | None = None


def draw_volume(
    seed: int,
    index: int,
    shape: tuple[int, ...],
    hard: bool = False,
    off_edge: bool = False,
) -> Volume:
    """Draw one volume, a pure function of the arguments.

    Args:
        seed: of the series.
        index: in the series.
        shape: voxels of two or three axes, at least 16 each.
        hard: add rims, cavities that join without an edge, organs cut by the border, and ringing,
            low resolution, motion and sharpening of a scanner.
        off_edge: move the target's surface off the edge that the image shows.

    Returns:
        The image and a target of 0.3 to 25 % of its voxels, in two axes to 50 %.

    Raises:
        ValueError: the shape is too small.
    """
    if len(shape) not in LINEAR or min(shape) < MIN_SIZE:
        raise ValueError(
            f"shape must have 2 or 3 axes of at least {MIN_SIZE}, got {shape}. Use a larger one."
        )
    for attempt in range(_ATTEMPTS):
        series = "synthsam hard" if hard else "synthsam"
        draws = Draws(derive_seed(seed, series, index, attempt), len(shape))
        scene = draw_scene(draws, shape, hard)
        structures = torch.zeros(shape, dtype=torch.int64)
        _cover(structures, scene, range(1, scene.behind))
        chosen = _choose(scene, draws, structures)
        if chosen is None:
            continue
        target, members = chosen
        wanted = torch.zeros(len(scene.shapes), dtype=torch.bool)
        wanted[members] = True
        _cover(structures, scene, range(scene.behind, len(scene.shapes)))
        tissues, twins = torch.tensor(scene.tissues), torch.tensor(scene.twins)
        image = scan(draws, structures, tissues, twins, wanted, hard)
        if off_edge:
            target = moved_off_edge(draws, target)
        return Volume(image, target, twins[structures].to(torch.int16))
    raise RuntimeError(f"volume {index} of seed {seed} has no target in {_ATTEMPTS} attempts")


def moved_off_edge(draws: Draws, target: Tensor) -> Tensor:
    """Draw a target again, like a person whose labels are all a little larger or smaller.

    Only prompts tell where such a surface is, since the image is the same.

    Args:
        draws: the random numbers.
        target: ``(*S)`` bool, one connected region.

    Returns:
        A region of the same kind. Its surface is up to about 2.5 voxels away, less for thin ones.
    """
    inside, outside = (ndimage.distance_transform_edt(t) for t in (target, ~target))
    reach = min(FARTHEST, 0.25 * float(inside.max()))
    offset = draws.uniform(-reach, reach)
    uneven = 0.25 * reach * draws.smooth(1, tuple(target.shape), draws.uniform(2, 6))[0]
    # The centre of the nearest voxel is half a voxel from the surface.
    depth = torch.from_numpy(inside - outside).float() - 0.5 * target.float() + 0.5 * (~target)
    region = _largest_piece(depth + offset + uneven > 0)
    fitting = SMALLEST <= float(region.float().mean()) <= LARGEST[target.ndim]
    return region if fitting else target


def _cover(structures: Tensor, scene: Scene, indices: range) -> None:
    """Write the index of the last structure that covers each voxel into ``(*S)``."""
    for index in indices:
        field = scene.shapes[index]
        if float(field.min()) >= 0:
            continue
        fine = functional.interpolate(
            field[None, None], structures.shape, mode=LINEAR[structures.ndim], align_corners=True
        )[0, 0]
        structures.masked_fill_(fine < 0, index)


def _choose(scene: Scene, draws: Draws, structures: Tensor) -> tuple[Tensor, list[int]] | None:
    """Return a target of fitting size and its structures, or None if no candidate fits."""
    counts = torch.bincount(structures.flatten(), minlength=len(scene.shapes)).tolist()
    total, largest = structures.numel(), LARGEST[draws.axes]
    parts = [sum(counts[m] for m in members) / total for _, members in scene.wanted]
    # Without the root, most targets would be small, because small structures are many.
    fitting = [
        (weight * part**0.5, members)
        for part, (weight, members) in zip(parts, scene.wanted, strict=True)
        if SMALLEST <= part <= largest
    ]
    while fitting:
        weights = torch.tensor([weight for weight, _ in fitting])
        at = int(torch.multinomial(weights, 1, generator=draws.rng))
        members = fitting.pop(at)[1]
        region = _largest_piece(torch.isin(structures, torch.tensor(members)))
        if SMALLEST <= float(region.float().mean()) <= largest:
            return region, members
    return None


def _largest_piece(region: Tensor) -> Tensor:
    pieces, count = ndimage.label(region.numpy())
    if count <= 1:
        return region
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return torch.from_numpy(pieces == sizes.argmax())
