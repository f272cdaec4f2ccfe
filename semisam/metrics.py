"""Overlap and surface-distance metrics, numerically those of MedPy, in voxels and in mm.

The border of a mask is the mask minus its erosion by the face-connected cross; voxels outside the
volume count as background, so foreground at the edge of the volume is border. With ``d(a, B)``
the Euclidean distance of border voxel ``a`` to the nearest border voxel of ``B``:

- ASD is the mean of ``d(p, ref)`` over the border of the prediction (directed, as MedPy's ``asd``),
- ASSD is the mean of the two directed means,
- HD95 is the 95th percentile of both directions *pooled* (not the larger of two percentiles).

Distances are exact in float64. Conventions discussed in Maier-Hein, Reinke et al., "Metrics
reloaded", Nature Methods 2024.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import edt
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.intp]

# How nearest borders are found alters time, never the result. Measured: looking one voxel up in
# the stencil, or in a tree over the other border, costs as much as transforming this many voxels
# of the grid.
_VOXELS_PER_STENCIL_QUERY = 25
_VOXELS_PER_TREE_QUERY = 40
# Borders of good predictions lie this near (in the smallest spacing) almost everywhere.
_STENCIL_RADIUS = 3
# Below this a float32 squared distance is an exact integer, and so are the sums on the way to it.
_EXACT_SQUARE = 2**23


@dataclass(frozen=True)
class SurfaceMetrics:
    """One mask pair, both non-empty; distances in the unit of the spacing.

    Attributes:
        dice: ``2 |P & R| / (|P| + |R|)``.
        jaccard: ``|P & R| / |P | R|``.
        hd95: 95th percentile of the pooled surface distances.
        asd: mean surface distance prediction to reference.
        assd: mean of the two directed mean surface distances.
        hd: largest surface distance (Hausdorff).
    """

    dice: float
    jaccard: float
    hd95: float
    asd: float
    assd: float
    hd: float


@dataclass(frozen=True)
class CaseMetrics:
    """One structure of one case, in voxels and in mm; see the module for the definitions.

    An empty mask is never a perfect distance: where exactly one of the masks is empty, Dice and
    Jaccard are 0 and every distance is the diagonal of the image. Where both are empty, Dice and
    Jaccard are 1 and the distances 0; both flags tell such rows apart.
    """

    dice: float
    jaccard: float
    hd95_voxel: float
    asd_voxel: float
    assd_voxel: float
    hd95_mm: float
    asd_mm: float
    assd_mm: float
    empty_prediction: bool
    empty_reference: bool


@dataclass(frozen=True)
class _Pair:
    """Both masks on their joint bounding box, each axis followed by a margin of background.

    The margin separates consecutive rows and slices, so that any neighbour up to its width is one
    shift of the flat array, also past the ends, where indices wrap around.
    """

    shape: tuple[int, ...]
    pred: BoolArray  # flat
    ref: BoolArray  # flat
    pred_border: BoolArray  # flat
    ref_border: BoolArray  # flat


def evaluate_mask(pred: BoolArray, ref: BoolArray, spacing: Sequence[float]) -> CaseMetrics:
    """Compare one predicted mask with its reference.

    Args:
        pred: ``(*S)`` boolean, two or three axes.
        ref: ``(*S)`` boolean.
        spacing: mm per voxel along each axis of the array.

    Returns:
        Dice, Jaccard, HD95, ASD and ASSD, the distances in voxels and in mm.

    Raises:
        ValueError: the shapes differ, or the spacing does not fit.
    """
    pred, ref, mm = _checked(pred, ref, spacing)
    empty_pred, empty_ref = not pred.any(), not ref.any()
    if empty_pred or empty_ref:
        return _empty_case(pred.shape, mm, empty_pred, empty_ref)
    pair = _crop(pred, ref)
    unit = (1.0,) * pred.ndim
    voxel = _pair_metrics(pair, unit)
    if len(set(mm)) == 1:  # isotropic: the same distances in another unit
        hd95, asd, assd = (value * mm[0] for value in (voxel.hd95, voxel.asd, voxel.assd))
    else:
        scaled = _pair_metrics(pair, mm)
        hd95, asd, assd = scaled.hd95, scaled.asd, scaled.assd
    return CaseMetrics(
        dice=voxel.dice,
        jaccard=voxel.jaccard,
        hd95_voxel=voxel.hd95,
        asd_voxel=voxel.asd,
        assd_voxel=voxel.assd,
        hd95_mm=hd95,
        asd_mm=asd,
        assd_mm=assd,
        empty_prediction=False,
        empty_reference=False,
    )


def evaluate_labelmap(
    pred: NDArray[np.integer], ref: NDArray[np.integer], num_classes: int, spacing: Sequence[float]
) -> list[CaseMetrics]:
    """Compare two label maps class by class.

    Args:
        pred: ``(*S)`` integer class per voxel, 0 background.
        ref: ``(*S)`` integer.
        num_classes: classes counting background.
        spacing: mm per voxel along each axis of the array.

    Returns:
        The metrics of the foreground classes ``1 .. num_classes - 1``, in that order.

    Raises:
        ValueError: the shapes differ, or the spacing does not fit.
    """
    return [evaluate_mask(pred == c, ref == c, spacing) for c in range(1, num_classes)]


def surface_metrics(pred: BoolArray, ref: BoolArray, spacing: Sequence[float]) -> SurfaceMetrics:
    """MedPy's ``dc``, ``jc``, ``hd95``, ``asd``, ``assd`` and ``hd`` in one call.

    Args:
        pred: ``(*S)`` boolean, two or three axes, not empty.
        ref: ``(*S)`` boolean, not empty.
        spacing: length per voxel along each axis; ``(1, 1, 1)`` measures in voxels.

    Raises:
        ValueError: a mask is empty, the shapes differ, or the spacing does not fit.
    """
    pred, ref, scale = _checked(pred, ref, spacing)
    if not (pred.any() and ref.any()):
        raise ValueError(
            "surface distances need two masks with foreground, got an empty one; "
            "evaluate_mask scores empty masks"
        )
    return _pair_metrics(_crop(pred, ref), scale)


def largest_component(mask: BoolArray) -> BoolArray:
    """Keep the largest component; voxels that share a face, an edge or a corner are connected.

    Of components of equal size the first in array order stays; an empty mask stays empty.

    Args:
        mask: ``(*S)`` boolean.
    """
    mask = np.asarray(mask, dtype=np.bool_)
    kept = np.zeros_like(mask)
    if not mask.any():
        return kept
    box = _bounding_box(mask)
    labels, count = ndimage.label(mask[box], structure=np.ones((3,) * mask.ndim))
    if count == 1:
        return mask.copy()
    sizes = np.bincount(labels.ravel())
    kept[box] = labels == 1 + int(np.argmax(sizes[1:]))
    return kept


def largest_components(labelmap: NDArray[np.integer], num_classes: int) -> NDArray[np.integer]:
    """Keep the largest component of every foreground class; the rest becomes background.

    Args:
        labelmap: ``(*S)`` integer class per voxel, 0 background.
        num_classes: classes counting background.
    """
    kept = np.zeros_like(labelmap)
    for c in range(1, num_classes):
        kept[largest_component(labelmap == c)] = c
    return kept


def _checked(
    pred: BoolArray, ref: BoolArray, spacing: Sequence[float]
) -> tuple[BoolArray, BoolArray, tuple[float, ...]]:
    pred, ref = np.asarray(pred, dtype=np.bool_), np.asarray(ref, dtype=np.bool_)
    if pred.shape != ref.shape:
        raise ValueError(
            f"prediction and reference must have one shape, got {pred.shape} and {ref.shape}; "
            "resample one onto the grid of the other"
        )
    if pred.ndim not in (2, 3) or pred.size == 0:
        raise ValueError(f"masks must have two or three non-empty axes, got shape {pred.shape}")
    scale = tuple(float(s) for s in spacing)
    if len(scale) != pred.ndim or not all(0 < s < math.inf for s in scale):
        raise ValueError(
            f"spacing must be {pred.ndim} positive numbers, one per axis of the mask, got {scale}"
        )
    return pred, ref, scale


def _empty_case(
    shape: tuple[int, ...], mm: tuple[float, ...], empty_pred: bool, empty_ref: bool
) -> CaseMetrics:
    both = empty_pred and empty_ref
    overlap = 1.0 if both else 0.0
    voxel = 0.0 if both else math.hypot(*shape)
    metric = 0.0 if both else math.hypot(*(n * s for n, s in zip(shape, mm, strict=True)))
    return CaseMetrics(
        overlap, overlap, voxel, voxel, voxel, metric, metric, metric, empty_pred, empty_ref
    )


def _bounding_box(mask: BoolArray) -> tuple[slice, ...]:
    """The smallest box that holds a non-empty mask; half-open."""
    # Collapsing the first axis reads memory in order and leaves little for the other axes.
    flat = mask.any(axis=0)
    profiles = [mask.reshape(mask.shape[0], -1).any(axis=1)]
    for axis in range(flat.ndim):
        profiles.append(flat.any(axis=tuple(a for a in range(flat.ndim) if a != axis)))
    hits = [np.flatnonzero(profile) for profile in profiles]
    return tuple(slice(int(hit[0]), int(hit[-1]) + 1) for hit in hits)


def _crop(pred: BoolArray, ref: BoolArray) -> _Pair:
    # A border voxel depends on face neighbours alone, and outside the joint box all are background:
    # the border is the same as on the whole volume, and so are the distances between borders.
    box = _bounding_box(pred | ref)
    shape = tuple(s.stop - s.start + _STENCIL_RADIUS for s in box)
    inside = tuple(slice(0, n - _STENCIL_RADIUS) for n in shape)
    flats = []
    for mask in (pred, ref):
        padded = np.zeros(shape, dtype=np.bool_)
        padded[inside] = mask[box]
        flats.append(padded.ravel())
    return _Pair(shape, flats[0], flats[1], _border(flats[0], shape), _border(flats[1], shape))


def _border(flat: BoolArray, shape: tuple[int, ...]) -> BoolArray:
    """Foreground with a background face neighbour; shifts are several times faster than erosion."""
    inner = flat.copy()
    for step in _strides(shape):
        inner[step:] &= flat[:-step]
        inner[:step] = False
        inner[:-step] &= flat[step:]
    np.logical_xor(flat, inner, out=inner)
    return inner


def _pair_metrics(pair: _Pair, scale: tuple[float, ...]) -> SurfaceMetrics:
    both = int(np.count_nonzero(pair.pred & pair.ref))
    total = int(np.count_nonzero(pair.pred)) + int(np.count_nonzero(pair.ref))
    to_ref = _distances(pair.pred_border, pair.ref_border, pair.shape, scale)
    to_pred = _distances(pair.ref_border, pair.pred_border, pair.shape, scale)
    pooled = np.concatenate((to_ref, to_pred))
    asd, back = float(to_ref.mean()), float(to_pred.mean())
    return SurfaceMetrics(
        dice=2.0 * both / total,
        jaccard=both / (total - both),
        hd95=float(np.percentile(pooled, 95)),
        asd=asd,
        assd=(asd + back) / 2.0,
        hd=float(pooled.max()),
    )


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Steps in the flat array between neighbours along each axis."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _distances(
    source: BoolArray, target: BoolArray, shape: tuple[int, ...], scale: tuple[float, ...]
) -> FloatArray:
    """Exact distance of every source voxel to its nearest target voxel, in no given order.

    Both are flat masks of a grid of ``shape`` with a margin. Most voxels find the target within
    a few steps; the rest are looked up in a tree over the target where they are few, and read
    from a distance transform of the grid where they are many (a speckled prediction).
    """
    count = int(np.count_nonzero(source))
    query = np.flatnonzero(source & ~target)
    found = [np.zeros(count - query.size, dtype=np.float64)]  # these lie on the target
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
    """Distances of the voxels with a target within the stencil, and the voxels without."""
    reach = range(-_STENCIL_RADIUS, _STENCIL_RADIUS + 1)
    shells: dict[float, list[int]] = {}
    for offset in itertools.product(reach, repeat=len(shape)):
        square = sum((o * s) ** 2 for o, s in zip(offset, scale, strict=True))
        # Past this radius a target that the cube of offsets misses could be nearer.
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
    distance: FloatArray = tree.query(points[1])[0]
    return distance


def _by_transform(query: IntArray, target: BoolArray, scale: tuple[float, ...]) -> FloatArray:
    whole = _integer_steps(scale, target.shape)
    if whole is not None:
        # Float32, but whole numbers throughout: nothing is rounded.
        steps, unit = whole
        square = edt.edtsq(~target, anisotropy=steps, black_border=False, parallel=1)
        return np.sqrt(square.ravel()[query].astype(np.float64)) * unit
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
    """The spacing as small whole multiples of one unit, and that unit.

    ``None`` where there is none, or where squared distances would leave what float32 counts.
    """
    smallest = min(scale)
    for parts in range(1, 17):
        unit = smallest / parts
        steps = tuple(round(s / unit) for s in scale)
        if all(abs(s - a * unit) <= 1e-12 * s for s, a in zip(scale, steps, strict=True)):
            span = sum(((n - 1) * a) ** 2 for n, a in zip(shape, steps, strict=True))
            return (steps, unit) if span < _EXACT_SQUARE else None
    return None
