"""Synthetic volumes: an image and the region that is asked for in it, from two numbers.

What a promptable segmenter must learn is what belongs together around a click, whatever the organ,
the scanner or the contrast. So anatomy and appearance are drawn far wider than any one data set:
noise shapes and random contrast as in SynthMorph (Hoffmann et al., IEEE TMI 2022) and SynthSeg
(Billot et al., Medical Image Analysis 2023), star-like organs as in AnyStar (Dey et al., WACV
2024), and beyond them cavities parted by thin walls, vessels that belong to the target up to a
point, packings of cells, layers and unions. No scan of any person is involved.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from semisam.core.seeding import derive_seed
from semisam.pretraining.anatomy import Scene, draw_scene
from semisam.pretraining.scanner import scan
from semisam.pretraining.shapes import Draws

SMALLEST, LARGEST = 0.003, 0.25  # of the volume that is target
MIN_SIZE = 16
_ATTEMPTS = 100


@dataclass(frozen=True)
class Volume:
    """A synthetic scan.

    Attributes:
        image: ``(*S)`` float32 of zero mean and unit deviation.
        target: ``(*S)`` bool, one connected region.
        looks: ``(*S)`` int16, equal where structures look alike; None where nobody knows.
    """

    image: Tensor
    target: Tensor
    looks: Tensor | None = None


def draw_volume(seed: int, index: int, shape: tuple[int, int, int], hard: bool = False) -> Volume:
    """Draw one volume, a pure function of the arguments.

    Args:
        seed: of the series.
        index: in the series.
        shape: voxels per axis, at least 16.
        hard: add rims, cavities that join without an edge, organs cut by the border, and a
            scanner's ringing, low resolution, motion and sharpening.

    Returns:
        An image, and a target of 0.3 to 25 % of it.

    Raises:
        ValueError: the shape is too small.
    """
    if len(shape) != 3 or min(shape) < MIN_SIZE:
        raise ValueError(f"a volume must have 3 axes of at least {MIN_SIZE}; got {shape}")
    for attempt in range(_ATTEMPTS):
        series = "synthsam hard" if hard else "synthsam"
        draws = Draws(derive_seed(seed, series, index, attempt))
        scene = draw_scene(draws, shape, hard)
        structures = _structures(scene, shape)
        chosen = _choose(scene, draws, structures)
        if chosen is None:
            continue
        target, members = chosen
        asked = torch.zeros(len(scene.shapes), dtype=torch.bool)
        asked[members] = True
        tissues, twins = torch.tensor(scene.tissues), torch.tensor(scene.twins)
        image = scan(draws, structures, tissues, twins, asked, hard)
        return Volume(image, target, twins[structures].to(torch.int16))
    raise RuntimeError(f"no target in {_ATTEMPTS} attempts at volume {index} of seed {seed}")


def _structures(scene: Scene, shape: tuple[int, ...]) -> Tensor:
    """Return the index ``(*S)`` of the last structure that covers each voxel."""
    result = torch.zeros(shape, dtype=torch.int64)
    for index, field in enumerate(scene.shapes):
        if not index:
            continue
        if float(field.min()) >= 0:
            continue
        fine = functional.interpolate(
            field[None, None], size=shape, mode="trilinear", align_corners=True
        )[0, 0]
        result.masked_fill_(fine < 0, index)
    return result


def _choose(scene: Scene, draws: Draws, structures: Tensor) -> tuple[Tensor, list[int]] | None:
    """Return a target of fitting size and its structures, or None where no candidate fits."""
    counts = torch.bincount(structures.flatten(), minlength=len(scene.shapes)).tolist()
    total = structures.numel()
    parts = [sum(counts[m] for m in members) / total for _, members in scene.wanted]
    # Small structures are many: without the root they would be most of what is asked for.
    fitting = [
        (weight * part**0.5, members)
        for part, (weight, members) in zip(parts, scene.wanted, strict=True)
        if SMALLEST <= part <= LARGEST
    ]
    while fitting:
        weights = torch.tensor([weight for weight, _ in fitting])
        at = int(torch.multinomial(weights, 1, generator=draws.rng))
        members = fitting.pop(at)[1]
        region = _largest_piece(torch.isin(structures, torch.tensor(members)))
        if SMALLEST <= float(region.float().mean()) <= LARGEST:
            return region, members
    return None


def _largest_piece(region: Tensor) -> Tensor:
    pieces, count = ndimage.label(region.numpy())
    if count <= 1:
        return region
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return torch.from_numpy(pieces == sizes.argmax())
