"""The channels of a prompt, as in the module ``prompts``, in tensors that never leave a GPU.

There the walk of one processor through a graph would take longer than the network. Shortest paths
are found by sweeps instead: along one axis, the best way from either side is a running minimum
(``torch.cummin``) of what is known less the length up to there, exact over the whole line at once.
A path with ``n`` turns is found after ``n`` rounds of the three axes. The figures are those of the
other file up to rounding; which constants, and why, stands there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from semisam.backends._synthsam.prompts import (
    ALIKE,
    CHANNELS,
    FAR,
    FAREST,
    FLAT,
    NEAR,
    REACH,
    STRIDE,
    Indices,
    box_cells,
    coarsened,
)

_ROUNDS = 4  # between two looks at whether a path is still getting shorter
_SHORTER = 1e-3  # what counts as shorter, in coarse voxels: more than rounding


@dataclass(frozen=True)
class GpuGuide:
    """What prompts need of one image; nothing in it depends on a prompt.

    Attributes:
        grey: ``(*s)`` smoothed intensity, in standard deviations.
        sums: per axis ``(*s)``, the geodesic length from the axis's first voxel.
    """

    grey: Tensor
    sums: tuple[Tensor, ...]

    @property
    def grid(self) -> tuple[int, ...]:
        """``(*s)``."""
        return tuple(self.grey.shape)


def make_gpu_guide(image: Tensor) -> GpuGuide:
    """Prepare an image ``(*S)`` of zero mean and unit deviation and even extents."""
    coarse, smooth = coarsened(image)
    sums = []
    for axis, step in enumerate(relative_steps(coarse)):
        length = torch.zeros_like(coarse)
        length.narrow(axis, 1, coarse.shape[axis] - 1).copy_(FLAT + step)
        sums.append(length.cumsum(axis))
    return GpuGuide(smooth, tuple(sums))


def relative_steps(coarse: Tensor) -> list[Tensor]:
    """Return per axis how much face neighbours of ``(*s)`` differ, in units of the mean step."""
    steps = [coarse.diff(dim=axis).abs() for axis in range(coarse.ndim)]
    count = sum(step.numel() for step in steps)
    mean = torch.stack([step.sum() for step in steps]).sum() / max(count, 1)
    return [step / mean.clamp_min(1e-6) for step in steps]


class GpuMarks:
    """The clicks given so far on one image, as maps on the coarse grid.

    Args:
        guide: of the image.
    """

    def __init__(self, guide: GpuGuide) -> None:
        self.guide = guide
        self.cells: list[list[int]] = [[], []]
        # Index 0: negative clicks, 1: positive ones.
        blank = guide.grey.new_zeros((2, *guide.grid))
        self._near = blank + 1e6
        self._geodesic = blank + FAREST
        self._alike = blank
        self._axes = [torch.arange(n, device=blank.device).float() for n in guide.grid]

    def add(self, points: Indices, label: int) -> None:
        """Take ``(N, 3)`` clicks in voxels of the fine grid, all positive (1) or negative (0)."""
        if not len(points):
            return
        grid, device = self.guide.grid, self.guide.grey.device
        cells = np.ravel_multi_index(tuple(points.T // STRIDE), grid)
        self.cells[label] += cells.tolist()
        centres = torch.from_numpy((points + 0.5) / STRIDE - 0.5).float().to(device)
        at = torch.from_numpy(cells).to(device)
        x, y, z = (
            (axis - centre[:, None]).square()
            for axis, centre in zip(self._axes, centres.T, strict=True)
        )
        for a, b, c in zip(x, y, z, strict=True):
            square = a[:, None, None] + b[:, None] + c
            torch.minimum(self._near[label], square, out=self._near[label])
        start = torch.full_like(self.guide.grey, FAREST)
        start.view(-1)[at] = 0
        far = shortest_paths(self.guide.sums, torch.minimum(start, self._geodesic[label]))
        self._geodesic[label] = far.clamp_min(0)
        for level in self.guide.grey.reshape(-1)[at]:
            alike = (-0.5 * ((self.guide.grey - level) / ALIKE).square()).exp()
            torch.maximum(self._alike[label], alike, out=self._alike[label])

    def channels(self, box: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Return the prompt ``(CHANNELS, *s)``.

        Args:
            box: ``(2, 3)`` half-open, in voxels of the fine grid.
            mask: ``(*s)`` probability.
        """
        maps = self.guide.grey.new_zeros((CHANNELS, *self.guide.grid))
        # Positive first.
        near, far, alike = (m.flip(0) for m in (self._near, self._geodesic, self._alike))
        maps[0:2] = (-0.5 * near).exp()
        maps[2:4] = (-near.sqrt() / REACH).exp()
        maps[4:6] = (-far / NEAR).exp()
        maps[6:8] = (-far / FAR).exp()
        maps[8:10] = alike
        to_fore, to_back = far
        maps[10] = (to_back - to_fore) / (to_back + to_fore + 1)
        if box is not None:
            maps[11] = -1
            maps[11][box_cells(box)] = 1
        if mask is not None:
            maps[12] = 2 * mask.to(maps) - 1
        return maps


def shortest_paths(sums: tuple[Tensor, ...], start: Tensor) -> Tensor:
    """Return the lengths ``(*s)`` of the shortest paths along the axes of a grid.

    Args:
        sums: per axis ``(*s)``, the length from the axis's first voxel.
        start: ``(*s)`` the length before the first step: 0 at the seeds, elsewhere at least what
            the path to there will turn out to be, or the length from which on all is equally far.
    """
    found = start
    while True:
        before = found
        for _ in range(_ROUNDS):
            for axis, length in enumerate(sums):
                ahead = (found - length).cummin(axis).values + length
                behind = (found + length).flip(axis).cummin(axis).values.flip(axis) - length
                found = torch.minimum(ahead, behind)
        if float((before - found).max()) < _SHORTER:
            return found
