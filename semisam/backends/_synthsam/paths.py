"""Geodesic distances on the coarse grid: a library's walk on a CPU, sweeps on a GPU.

They are two because neither device suits the other's algorithm (`docs/adr/0007-twins.md`). Both
give the same lengths up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from scipy.sparse.csgraph import dijkstra
from torch import Tensor

from semisam.backends._graph import neighbour_graph

FLAT = 0.3  # the length of a step without contrast; the mean step adds 1
FAREST = 40.0  # the largest length; farther voxels are equally far
_ROUNDS = 4  # between two tests for convergence
_SHORTER = 1e-3  # a smaller change is rounding, in coarse voxels


class Paths(Protocol):
    """The shortest paths in one image."""

    def closer(self, known: Tensor, cells: Tensor) -> Tensor:
        """Return the path lengths ``(*s)`` to the nearest seed after seeds are added.

        Args:
            known: ``(*s)`` the lengths so far, `FAREST` without a seed.
            cells: ``(N,)`` flat indices of the new seeds.
        """
        ...


def make_paths(steps: Sequence[Tensor]) -> Paths:
    """Prepare the paths of an image, with the algorithm that suits its device.

    Args:
        steps: per axis, the contrast between face neighbours in units of the mean step, one
            shorter along that axis.
    """
    return Graph(steps) if steps[0].device.type == "cpu" else Sweeps(steps)


class Graph:
    """Paths by Dijkstra's algorithm, on a CPU.

    Args:
        steps: as in `make_paths`.
    """

    def __init__(self, steps: Sequence[Tensor]) -> None:
        grid = tuple(step.shape[axis] + 1 for axis, step in enumerate(steps))
        self._graph = neighbour_graph([(FLAT + step).numpy() for step in steps], grid)

    def closer(self, known: Tensor, cells: Tensor) -> Tensor:
        """Return the lengths ``(*s)``, as `Paths` describes them."""
        found = dijkstra(self._graph, indices=cells.numpy(), min_only=True, limit=FAREST)
        lengths = np.minimum(found, FAREST).astype(np.float32)
        return torch.minimum(known, torch.from_numpy(lengths).view_as(known))


class Sweeps:
    """Paths by sweeps along the axes, on any device.

    In a sweep, the shortest way from either side is a running minimum (``torch.cummin``) of the
    known length minus the length up to there. This is exact over a whole line. A path with ``n``
    turns is found after ``n`` rounds of the three axes.

    Args:
        steps: as in `make_paths`.
    """

    def __init__(self, steps: Sequence[Tensor]) -> None:
        self._sums = []
        for axis, step in enumerate(steps):
            first = step.new_zeros([1 if a == axis else n for a, n in enumerate(step.shape)])
            self._sums.append(torch.cat([first, FLAT + step], axis).cumsum(axis))

    def closer(self, known: Tensor, cells: Tensor) -> Tensor:
        """Return the lengths ``(*s)``, as `Paths` describes them."""
        found = known.clamp_max(FAREST)
        found.view(-1)[cells] = 0
        while True:
            before = found
            for _ in range(_ROUNDS):
                for axis, length in enumerate(self._sums):
                    ahead = (found - length).cummin(axis).values + length
                    flipped = (found + length).flip(axis)
                    behind = flipped.cummin(axis).values.flip(axis) - length
                    found = torch.minimum(ahead, behind)
            if float((before - found).max()) < _SHORTER:
                return found.clamp_min(0)
