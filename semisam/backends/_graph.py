"""The graph of a grid's face neighbours, for shortest paths on a CPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array


def neighbour_graph(lengths: Sequence[NDArray[np.float32]], grid: tuple[int, ...]) -> Any:
    """Return the graph of a grid ``(*s)`` as CSR, with one node per voxel.

    Args:
        lengths: per axis, the length of the step between neighbours, one shorter along that axis.
        grid: ``(*s)``.
    """
    index = np.arange(math.prod(grid), dtype=np.int32).reshape(grid)
    rows, columns, values = [], [], []
    for axis, length in enumerate(lengths):
        near = index.take(range(grid[axis] - 1), axis).ravel()
        far = index.take(range(1, grid[axis]), axis).ravel()
        rows += [near, far]
        columns += [far, near]
        values += [length.ravel(), length.ravel()]
    entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    return coo_array(entries, shape=(index.size, index.size)).tocsr()
