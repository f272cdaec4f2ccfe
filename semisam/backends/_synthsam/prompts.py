"""What a prompt says, as channels on a grid two voxels wide: the network's second input.

Learning from clicks alone, a network must find out by itself that a region ends at its edges. The
channels say so from the start: besides where the clicks are, how far every voxel is from them along
paths that avoid edges (Criminisi et al., "GeoS", ECCV 2008; Wang et al., "DeepIGeoS", IEEE TPAMI
2019), and how alike its intensity is. No constant here was tuned on any scan: lengths are in
coarse voxels, and an edge is a step larger than the image's own mean step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra
from torch import Tensor
from torch.nn import functional

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]

STRIDE = 2
CHANNELS = 13
"""Of a prompt: positive then negative of disk, distance, near and far geodesic distance and
likeness; then the contest of the two geodesic distances, the box and the mask."""

FLAT = 0.3  # the length of a step without contrast, where the mean step adds 1
FAREST = 40.0  # geodesic length beyond which all is equally far
NEAR, FAR = 4.0, 12.0  # decay of geodesic closeness
REACH = 6.0  # decay of Euclidean closeness, coarse voxels
ALIKE = 0.35  # of the intensities' deviation


@dataclass(frozen=True)
class Guide:
    """What prompts need of one image; nothing in it depends on a prompt.

    Attributes:
        grey: ``(*s)`` smoothed intensity, in standard deviations.
        graph: geodesic lengths between face neighbours, CSR.
    """

    grey: Floats
    graph: Any

    @property
    def grid(self) -> tuple[int, ...]:
        """``(*s)``."""
        return self.grey.shape


def make_guide(image: Tensor) -> Guide:
    """Prepare an image ``(*S)`` of zero mean and unit deviation and even extents."""
    coarse, smooth = coarsened(image)
    return Guide(smooth.cpu().numpy(), _graph(coarse.cpu().numpy()))


def coarsened(image: Tensor) -> tuple[Tensor, Tensor]:
    """Return an image ``(*S)`` on the coarse grid, as it is and smoothed, ``(*s)`` each."""
    coarse = functional.avg_pool3d(image[None, None].float(), STRIDE)
    smooth = functional.avg_pool3d(coarse, 3, 1, padding=1, count_include_pad=False)
    return coarse[0, 0], smooth[0, 0]


def box_cells(box: Tensor) -> tuple[slice, ...]:
    """Return the coarse voxels that a half-open box ``(2, 3)`` of the fine grid touches."""
    low, high = box.cpu().numpy()
    sides = zip(low // STRIDE, -(-high // STRIDE), strict=True)
    return tuple(slice(max(int(a), 0), max(int(b), 0)) for a, b in sides)


class Marks:
    """The clicks given so far on one image, as maps on the coarse grid.

    Args:
        guide: of the image.
    """

    def __init__(self, guide: Guide) -> None:
        self.guide = guide
        self.cells: list[list[int]] = [[], []]
        # Index 0: negative clicks, 1: positive ones.
        self._near = np.full((2, *guide.grid), 1e6, np.float32)
        self._geodesic = np.full((2, *guide.grid), FAREST, np.float32)
        self._alike = np.zeros((2, *guide.grid), np.float32)
        self._axes = [np.arange(n, dtype=np.float32) for n in guide.grid]

    def add(self, points: Indices, label: int) -> None:
        """Take ``(N, 3)`` clicks in voxels of the fine grid, all positive (1) or negative (0)."""
        if not len(points):
            return
        grid = self.guide.grid
        cells = np.ravel_multi_index(tuple(points.T // STRIDE), grid)
        self.cells[label] += cells.tolist()
        for point in points:
            x, y, z = (
                np.square(axis - np.float32((p + 0.5) / STRIDE - 0.5))
                for axis, p in zip(self._axes, point, strict=True)
            )
            square = x[:, None, None] + y[:, None] + z
            np.minimum(self._near[label], square, out=self._near[label])
        found = dijkstra(self.guide.graph, indices=cells, min_only=True, limit=FAREST)
        far = np.minimum(found, FAREST).astype(np.float32).reshape(grid)
        np.minimum(self._geodesic[label], far, out=self._geodesic[label])
        for level in np.unique(self.guide.grey.ravel()[cells]):
            alike = np.exp(-0.5 * np.square((self.guide.grey - level) / np.float32(ALIKE)))
            np.maximum(self._alike[label], alike, out=self._alike[label])

    def channels(self, box: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Return the prompt ``(CHANNELS, *s)``.

        Args:
            box: ``(2, 3)`` half-open, in voxels of the fine grid.
            mask: ``(*s)`` probability.
        """
        grid = self.guide.grid
        maps = np.zeros((CHANNELS, *grid), np.float32)
        to_back, to_fore = self._geodesic
        for sign, label in enumerate((1, 0)):
            maps[0 + sign] = np.exp(-0.5 * self._near[label])
            maps[2 + sign] = np.exp(-np.sqrt(self._near[label]) / np.float32(REACH))
            maps[4 + sign] = np.exp(-self._geodesic[label] / np.float32(NEAR))
            maps[6 + sign] = np.exp(-self._geodesic[label] / np.float32(FAR))
            maps[8 + sign] = self._alike[label]
        maps[10] = (to_back - to_fore) / (to_back + to_fore + 1)
        if box is not None:
            maps[11] = -1
            maps[11][box_cells(box)] = 1
        result = torch.from_numpy(maps)
        if mask is not None:
            result[12] = 2 * mask.float().cpu() - 1
        return result


def _graph(coarse: Floats) -> Any:
    """Return the face-neighbour graph of ``(*s)``."""
    grid = coarse.shape
    steps = [np.abs(np.diff(coarse, axis=axis)) for axis in range(3)]
    count = sum(s.size for s in steps)
    mean = sum(float(s.sum()) for s in steps) / max(count, 1)
    index = np.arange(math.prod(grid), dtype=np.int32).reshape(grid)
    rows, columns, lengths = [], [], []
    for axis, step in enumerate(steps):
        near = index.take(range(grid[axis] - 1), axis).ravel()
        far = index.take(range(1, grid[axis]), axis).ravel()
        length = FLAT + step.ravel() / max(mean, 1e-6)
        rows += [near, far]
        columns += [far, near]
        lengths += [length, length]
    entries = (np.concatenate(lengths), (np.concatenate(rows), np.concatenate(columns)))
    return coo_array(entries, shape=(index.size, index.size)).tocsr()
