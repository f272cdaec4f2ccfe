"""Borders of masks and the exact distances between them, computed only at border voxels."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import edt
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from semisam.core.masks import bounding_box

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.intp]

# The way to find the nearest border changes the time but not the result. As measured, one look-up
# in the stencil, or in a tree over the other border, costs as much as the distance transform of
# this many voxels of the grid.
_VOXELS_PER_STENCIL_QUERY = 25
_VOXELS_PER_TREE_QUERY = 40
# Borders of good predictions are this close (in the smallest spacing) almost everywhere.
_STENCIL_RADIUS = 3
# Below this, float32 holds squared distances and their partial sums as exact integers.
_EXACT_SQUARE = 2**23


@dataclass(frozen=True)
class Pair:
    """Two masks on their joint bounding box, with a margin of background after each axis.

    The margin separates consecutive rows and slices. So a neighbour within its width is one shift
    of the flat array, also past the ends, where indices wrap around.
    """

    shape: tuple[int, ...]
    pred: BoolArray  # flat
    ref: BoolArray  # flat
    pred_border: BoolArray  # flat
    ref_border: BoolArray  # flat


def crop_pair(pred: BoolArray, ref: BoolArray) -> Pair:
    """Crop two masks, not both empty, to their joint box and find their borders."""
    # A border voxel depends only on its face neighbours, and outside the joint box all voxels are
    # background. So the borders and their distances equal those on the whole volume.
    box = bounding_box(pred | ref)
    shape = tuple(s.stop - s.start + _STENCIL_RADIUS for s in box)
    inside = tuple(slice(0, n - _STENCIL_RADIUS) for n in shape)
    flats = []
    for mask in (pred, ref):
        padded = np.zeros(shape, dtype=np.bool_)
        padded[inside] = mask[box]
        flats.append(padded.ravel())
    return Pair(shape, flats[0], flats[1], _border(flats[0], shape), _border(flats[1], shape))


def _border(flat: BoolArray, shape: tuple[int, ...]) -> BoolArray:
    """Return the foreground voxels with a background face neighbour (faster than an erosion)."""
    inner = flat.copy()
    for step in _strides(shape):
        inner[step:] &= flat[:-step]
        inner[:step] = False
        inner[:-step] &= flat[step:]
    np.logical_xor(flat, inner, out=inner)
    return inner


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the steps in the flat array between neighbours along each axis."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def surface_distances(
    source: BoolArray, target: BoolArray, shape: tuple[int, ...], scale: tuple[float, ...]
) -> FloatArray:
    """Return the exact distance of every source voxel to its nearest target voxel, unordered.

    Both are flat masks of a grid of ``shape`` with a margin. Most voxels have a target within a few
    steps. If the others are few, a tree over the target finds theirs. If they are many (a speckled
    prediction), a distance transform of the grid does.
    """
    count = int(np.count_nonzero(source))
    query = np.flatnonzero(source & ~target)
    found = [np.zeros(count - query.size, dtype=np.float64)]  # voxels of the target itself
    if query.size * _VOXELS_PER_STENCIL_QUERY < target.size:
        near, query = _by_stencil(query, target, shape, scale)
        found.append(near)
    if query.size:
        goal = np.flatnonzero(target)
        if (query.size + goal.size // 4) * _VOXELS_PER_TREE_QUERY < target.size:
            found.append(_by_tree(query, goal, shape, scale))
        else:
            found.append(_by_transform(query, target.reshape(shape), scale))
    return np.concatenate(found)


def _by_stencil(
    query: IntArray, target: BoolArray, shape: tuple[int, ...], scale: tuple[float, ...]
) -> tuple[FloatArray, IntArray]:
    """Return the distances of voxels with a target in the stencil, and the remaining voxels."""
    reach = range(-_STENCIL_RADIUS, _STENCIL_RADIUS + 1)
    shells: dict[float, list[int]] = {}
    for offset in itertools.product(reach, repeat=len(shape)):
        square = sum((o * s) ** 2 for o, s in zip(offset, scale, strict=True))
        # Beyond this radius, a target outside the cube of offsets could be nearer.
        if 0 < square <= (_STENCIL_RADIUS * min(scale)) ** 2:
            shift = sum(o * step for o, step in zip(offset, _strides(shape), strict=True))
            shells.setdefault(math.sqrt(square), []).append(shift)
    found = []
    for distance, shifts in sorted(shells.items()):
        if not query.size:
            break
        hit = target.take(query + shifts[0], mode="wrap")
        for shift in shifts[1:]:
            hit |= target.take(query + shift, mode="wrap")
        missed = query[~hit]
        found.append(np.full(query.size - missed.size, distance))
        query = missed
    return np.concatenate(found) if found else np.zeros(0), query


def _by_tree(
    query: IntArray, goal: IntArray, shape: tuple[int, ...], scale: tuple[float, ...]
) -> FloatArray:
    points = [
        np.stack([i * s for i, s in zip(np.unravel_index(flat, shape), scale, strict=True)], axis=1)
        for flat in (goal, query)
    ]
    tree = cKDTree(points[0], leafsize=32, compact_nodes=False, balanced_tree=False)
    return np.asarray(tree.query(points[1])[0], dtype=np.float64)


def _by_transform(query: IntArray, target: BoolArray, scale: tuple[float, ...]) -> FloatArray:
    whole = _integer_steps(scale, target.shape)
    if whole is not None:
        # Float32, but only whole numbers: nothing is rounded.
        steps, unit = whole
        square = edt.edtsq(~target, anisotropy=steps, black_border=False, parallel=1)
        near: FloatArray = np.sqrt(square.ravel()[query].astype(np.float64)) * unit
        return near
    nearest = ndimage.distance_transform_edt(
        ~target, sampling=scale, return_distances=False, return_indices=True
    )
    total = np.zeros(query.size, dtype=np.float64)
    for axis, index in enumerate(np.unravel_index(query, target.shape)):
        total += ((nearest[axis].ravel()[query] - index) * scale[axis]) ** 2
    return np.sqrt(total)


def _integer_steps(
    scale: tuple[float, ...], shape: tuple[int, ...]
) -> tuple[tuple[int, ...], float] | None:
    """Return the spacing as small whole multiples of a unit, and that unit.

    Return ``None`` if there is no such unit, or if float32 cannot hold the squared distances
    exactly.
    """
    smallest = min(scale)
    for parts in range(1, 17):
        unit = smallest / parts
        steps = tuple(round(s / unit) for s in scale)
        if all(abs(s - a * unit) <= 1e-12 * s for s, a in zip(scale, steps, strict=True)):
            span = sum(((n - 1) * a) ** 2 for n, a in zip(shape, steps, strict=True))
            return (steps, unit) if span < _EXACT_SQUARE else None
    return None
