"""Maps between an image of any shape and a cube of fixed size, the input of a network."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Cube:
    """The place of a cube on a resampled image.

    Attributes:
        shape: ``(*S)`` of the image.
        scaled: ``(*s)`` of the image after resampling.
        size: voxels per axis of the cube.
        start: the cube's first voxel on the resampled image; negative if the image is smaller.
    """

    shape: tuple[int, ...]
    scaled: tuple[int, ...]
    size: int
    start: tuple[int, ...]

    def cut(self, volume: Tensor, fill: float) -> Tensor:
        """Return the cube ``(size, size, size)`` of a resampled image ``(*s)``."""
        # torch counts axes from the last; a negative pad crops.
        sides = [
            side
            for start, n in zip(reversed(self.start), reversed(self.scaled), strict=True)
            for side in (-start, self.size - n + start)
        ]
        return F.pad(volume, sides, value=fill)

    def place(self, cube: Tensor, fill: float) -> Tensor:
        """Put a cube ``(size, size, size)`` back into an image ``(*S)``."""
        sides = [
            side
            for start, n in zip(reversed(self.start), reversed(self.scaled), strict=True)
            for side in (start, n - start - self.size)
        ]
        return resample(F.pad(cube, sides, value=fill), self.shape)

    def locate(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Map voxel indices of the image ``(N, 3)`` to positions in the cube.

        Returns:
            positions ``(N, 3)`` float, and whether each point is in the cube, ``(N,)``.
        """
        scale = torch.tensor([s / n for s, n in zip(self.scaled, self.shape, strict=True)])
        found = (points.cpu() + 0.5) * scale - 0.5 - torch.tensor(self.start)
        inside = ((found > -0.5) & (found < self.size - 0.5)).all(1)
        return found, inside


def scaled_shape(shape: tuple[int, ...], spacing: tuple[float, ...], to: float) -> tuple[int, ...]:
    """Return the shape ``(*s)`` of an image ``(*S)`` with voxels of ``to`` mm."""
    return tuple(max(round(n * mm / to), 1) for n, mm in zip(shape, spacing, strict=True))


def cube_around(
    shape: tuple[int, ...], scaled: tuple[int, ...], size: int, centre: tuple[float, ...]
) -> Cube:
    """Return the cube around a point, moved to hold as much of the resampled image as possible.

    Along an axis where the image fits, the image is centred, so only larger images depend on
    ``centre``, in voxels of the image ``(*S)``. An odd voxel of the margin comes first.
    """
    start = []
    for n, full, at in zip(scaled, shape, centre, strict=True):
        if n <= size:
            start.append(-math.ceil((size - n) / 2))
        else:
            first = math.floor((at + 0.5) * n / full - size / 2 + 0.5)
            start.append(min(max(first, 0), n - size))
    return Cube(shape, scaled, size, tuple(start))


def resample(volume: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return ``(*S)`` interpolated linearly to another shape."""
    if tuple(volume.shape) == shape:
        return volume
    return F.interpolate(volume[None, None], shape, mode="trilinear", align_corners=False)[0, 0]
