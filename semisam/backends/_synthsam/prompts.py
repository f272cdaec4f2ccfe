"""A prompt as channels on a grid two voxels wide: the network's second input.

A network that receives only clicks must learn by itself that a region ends at its edges. The
channels give this from the start. They hold the place of the clicks, the similarity of each voxel's
intensity, and the distance along paths that avoid edges (Criminisi et al., "GeoS", ECCV 2008; Wang
et al., "DeepIGeoS", IEEE TPAMI 2019). No constant here was tuned on any scan. Lengths are in coarse
voxels, and an edge is a step larger than the image's mean step.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semisam.backends._synthsam.paths import FAREST, Paths, make_paths
from semisam.core.axes import MEAN_POOL
from semisam.networks._synthsam import CHANNELS, STRIDE

Indices = NDArray[np.int64]

NEAR, FAR = 4.0, 12.0  # decay of geodesic closeness
REACH = 6.0  # decay of Euclidean closeness, coarse voxels
ALIKE = 0.35  # width of the likeness, in standard deviations of the image


@dataclass(frozen=True)
class Guide:
    """An image as prompts need it, independent of any prompt.

    Attributes:
        grey: ``(*s)`` smoothed intensity, in standard deviations.
        paths: geodesic distances.
    """

    grey: Tensor
    paths: Paths

    @property
    def grid(self) -> tuple[int, ...]:
        """The shape ``(*s)``."""
        return tuple(self.grey.shape)


def make_guide(image: Tensor) -> Guide:
    """Prepare an image ``(*S)`` of zero mean and unit deviation and even extents."""
    pool = MEAN_POOL[image.ndim]
    coarse = pool(image[None, None].float(), STRIDE)
    smooth = pool(coarse, 3, 1, padding=1, count_include_pad=False)
    return Guide(smooth[0, 0], make_paths(relative_steps(coarse[0, 0])))


class Marks:
    """The clicks given so far on one image, as maps on the coarse grid.

    Args:
        guide: of the image.
    """

    def __init__(self, guide: Guide) -> None:
        self.guide = guide
        self.cells: list[list[int]] = [[], []]
        # Index 0: negative clicks, 1: positive ones.
        self._near = guide.grey.new_full((2, *guide.grid), 1e6)
        self._geodesic = guide.grey.new_full((2, *guide.grid), FAREST)
        self._alike = guide.grey.new_zeros((2, *guide.grid))
        self._axes = [torch.arange(n, device=guide.grey.device).float() for n in guide.grid]

    def add(self, points: Indices, label: int) -> None:
        """Add ``(N, d)`` clicks in voxels of the fine grid, all positive (1) or negative (0)."""
        if not len(points):
            return
        grid, grey = self.guide.grid, self.guide.grey
        cells = np.ravel_multi_index(tuple(points.T // STRIDE), grid)
        self.cells[label] += cells.tolist()
        centres = torch.from_numpy((points + 0.5) / STRIDE - 0.5).float().to(grey.device)
        at = torch.from_numpy(cells).to(grey.device)
        for centre in centres:
            square = reduce(
                lambda sums, part: sums[..., None] + part,
                [(axis - c).square() for axis, c in zip(self._axes, centre, strict=True)],
            )
            torch.minimum(self._near[label], square, out=self._near[label])
        self._geodesic[label] = self.guide.paths.closer(self._geodesic[label], at)
        for level in grey.reshape(-1)[at]:
            alike = (-0.5 * ((grey - level) / ALIKE).square()).exp()
            torch.maximum(self._alike[label], alike, out=self._alike[label])

    def channels(self, box: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Return the prompt ``(CHANNELS, *s)``.

        Args:
            box: ``(2, d)`` half-open, in voxels of the fine grid.
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
            maps[11][_box_cells(box)] = 1
        if mask is not None:
            maps[12] = 2 * mask.to(maps) - 1
        return maps


def relative_steps(coarse: Tensor) -> tuple[Tensor, ...]:
    """Return per axis the contrast of face neighbours of ``(*s)``, in units of the mean step."""
    steps = [coarse.diff(dim=axis).abs() for axis in range(coarse.ndim)]
    count = sum(step.numel() for step in steps)
    mean = torch.stack([step.sum() for step in steps]).sum() / max(count, 1)
    return tuple(step / mean.clamp_min(1e-6) for step in steps)


def _box_cells(box: Tensor) -> tuple[slice, ...]:
    """Return the coarse voxels that a half-open box ``(2, d)`` of the fine grid touches."""
    low, high = box.cpu().numpy()
    sides = zip(low // STRIDE, -(-high // STRIDE), strict=True)
    return tuple(slice(max(int(a), 0), max(int(b), 0)) for a, b in sides)
