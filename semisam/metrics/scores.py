"""Overlap and surface-distance metrics in voxels and in mm, numerically equal to MedPy's.

The border of a mask is the mask minus its erosion by the face-connected cross. Voxels outside the
volume count as background, so foreground at the edge of the volume is border. A volume of one slice
is measured as a picture: across it there is no border, where MedPy takes every voxel as one. With
``d(a, B)`` the Euclidean distance of border voxel ``a`` to the nearest border voxel of ``B``:

- ASD is the mean of ``d(p, ref)`` over the border of the prediction (directed, as MedPy's ``asd``),
- ASSD is the mean over both directions *pooled*, so the larger border weighs more (MedPy 0.5),
- HD95 is the 95th percentile of both directions pooled (not the larger of two percentiles).

Distances are exact in float64. Maier-Hein, Reinke et al., "Metrics reloaded", Nature Methods 2024,
discuss the conventions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from semisam.core.masks import bounding_box
from semisam.core.types import IGNORE
from semisam.metrics.surface import BoolArray, Pair, crop_pair, surface_distances

_STRAY = 0.01  # share of a drawn mask's voxels that may lie apart from it


@dataclass(frozen=True)
class SurfaceMetrics:
    """The metrics of two non-empty masks; distances are in the unit of the spacing.

    Attributes:
        dice: ``2 |P & R| / (|P| + |R|)``.
        jaccard: ``|P & R| / |P | R|``.
        hd95: 95th percentile of the pooled surface distances.
        asd: mean surface distance prediction to reference.
        assd: mean of the pooled surface distances.
    """

    dice: float
    jaccard: float
    hd95: float
    asd: float
    assd: float


@dataclass(frozen=True)
class CaseMetrics:
    """The metrics of one class of one case, in voxels and in mm, as the module defines them.

    If exactly one of the masks is empty, Dice and Jaccard are 0 and every distance is the diagonal
    of the image. If both are empty, Dice and Jaccard are 1 and the distances 0. The two flags mark
    such rows.
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
    pair = crop_pair(pred, ref)
    unit = (1.0,) * pred.ndim
    voxel = _pair_metrics(pair, unit)
    if len(set(mm)) == 1:  # isotropic: only the unit differs
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


def missed(row: Mapping[str, Any]) -> bool:
    """Return whether a row with the fields of `CaseMetrics` is an empty prediction of something."""
    return bool(row["empty_prediction"]) and not row["empty_reference"]


def rightly_empty(row: Mapping[str, Any]) -> bool:
    """Return whether both masks of a row with the fields of `CaseMetrics` are empty."""
    return bool(row["empty_prediction"]) and bool(row["empty_reference"])


def evaluate_labelmap(
    pred: NDArray[np.integer], ref: NDArray[np.integer], num_classes: int, spacing: Sequence[float]
) -> list[CaseMetrics]:
    """Compare two label maps class by class.

    Args:
        pred: ``(*S)`` integer class per voxel, 0 background.
        ref: ``(*S)`` integer. Voxels of `IGNORE` are taken out of both masks, and the surfaces are
            those of what remains.
        num_classes: classes counting background.
        spacing: mm per voxel along each axis of the array.

    Returns:
        The metrics of the foreground classes ``1 .. num_classes - 1``, in that order.

    Raises:
        ValueError: the shapes differ, or the spacing does not fit.
    """
    ignored = np.asarray(ref) == IGNORE
    if ignored.any() and np.shape(pred) == ignored.shape:
        pred = np.where(ignored, 0, pred)
    return [evaluate_mask(pred == c, ref == c, spacing) for c in range(1, num_classes)]


def surface_dice(
    pred: BoolArray, ref: BoolArray, spacing: Sequence[float], tolerances: Sequence[float]
) -> tuple[float, ...]:
    """Return the part of both borders that is within each tolerance of the other border.

    Border voxels are counted, each of them alike. If exactly one mask is empty the part is 0, and
    if both are empty it is 1. Nikolov et al., "Clinically applicable segmentation of head and neck
    anatomy for radiotherapy", 2021, measure areas of the surface instead.

    Args:
        pred: ``(*S)`` boolean, two or three axes.
        ref: ``(*S)`` boolean.
        spacing: mm per voxel along each axis of the array.
        tolerances: in mm.

    Raises:
        ValueError: the shapes differ, or the spacing does not fit.
    """
    pred, ref, mm = _checked(pred, ref, spacing)
    if not (pred.any() and ref.any()):
        return (0.0 if pred.any() or ref.any() else 1.0,) * len(tolerances)
    pair = crop_pair(pred, ref)
    there = surface_distances(pair.pred_border, pair.ref_border, pair.shape, mm)
    back = surface_distances(pair.ref_border, pair.pred_border, pair.shape, mm)
    pooled = np.concatenate((there, back))
    # A distance of exactly a tolerance is within it, whatever its rounding.
    return tuple(float((pooled <= most * (1 + 1e-9)).mean()) for most in tolerances)


def largest_component(mask: BoolArray) -> BoolArray:
    """Return the largest component; voxels that share a face, edge or corner are connected.

    Of components of equal size the first in array order is kept. An empty mask stays empty.

    Args:
        mask: ``(*S)`` boolean.
    """
    mask = np.asarray(mask, dtype=np.bool_)
    kept = np.zeros_like(mask)
    if not mask.any():
        return kept
    box = bounding_box(mask)
    labels, count = ndimage.label(mask[box], structure=np.ones((3,) * mask.ndim))
    if count == 1:
        return mask.copy()
    sizes = np.bincount(labels.ravel())
    kept[box] = labels == 1 + int(np.argmax(sizes[1:]))
    return kept


def largest_components(labelmap: NDArray[np.uint8], classes: Iterable[int]) -> NDArray[np.uint8]:
    """Return a label map where some classes have their largest component only.

    The rest of these classes becomes background. Other classes stay as they are.

    Args:
        labelmap: ``(*S)`` integer class per voxel, 0 background.
        classes: of the foreground.
    """
    kept = labelmap.copy()
    for c in classes:
        mask = labelmap == c
        kept[mask & ~largest_component(mask)] = 0
    return kept


def classes_by_components(
    labelmaps: Iterable[NDArray[np.integer]], num_classes: int, axes: int | None = None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the foreground classes that are one component, and those that are several.

    A class is one component if it is in every label map that holds it. It may have up to 1 % of its
    voxels elsewhere, as drawn masks have stray voxels. A class that no label map holds is neither.

    Args:
        labelmaps: ``(*S)`` each, integer class per voxel, 0 background.
        num_classes: classes counting background.
        axes: of components; one less than those of a label map counts them in its slices along the
            last axis. ``None``: of the label map.
    """
    seen, several = set(), set()
    for labelmap in labelmaps:
        sliced = axes is not None and axes < labelmap.ndim
        for c in range(1, num_classes):
            mask = labelmap == c
            parts = np.moveaxis(mask, -1, 0) if sliced else mask[None]
            voxels = int(mask.sum())
            if voxels:
                seen.add(c)
                kept = sum(int(largest_component(part).sum()) for part in parts)
                if kept < (1 - _STRAY) * voxels:
                    several.add(c)
    return tuple(sorted(seen - several)), tuple(sorted(several))


def _checked(
    pred: BoolArray, ref: BoolArray, spacing: Sequence[float]
) -> tuple[BoolArray, BoolArray, tuple[float, ...]]:
    pred, ref = np.asarray(pred, dtype=np.bool_), np.asarray(ref, dtype=np.bool_)
    if pred.shape != ref.shape:
        raise ValueError(
            f"prediction and reference must have one shape, got {pred.shape} and {ref.shape}. "
            "Resample one onto the grid of the other."
        )
    if pred.ndim not in (2, 3) or pred.size == 0:
        raise ValueError(f"masks must have two or three non-empty axes, got shape {pred.shape}.")
    scale = tuple(float(s) for s in spacing)
    if len(scale) != pred.ndim or not all(0 < s < math.inf for s in scale):
        raise ValueError(
            f"spacing must be {pred.ndim} positive numbers, one per axis of the mask, got {scale}."
        )
    if pred.ndim == 3 and 1 in pred.shape:
        across = pred.shape.index(1)
        scale = scale[:across] + scale[across + 1 :]
        return pred.squeeze(across), ref.squeeze(across), scale
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


def _pair_metrics(pair: Pair, scale: tuple[float, ...]) -> SurfaceMetrics:
    both = int(np.count_nonzero(pair.pred & pair.ref))
    total = int(np.count_nonzero(pair.pred)) + int(np.count_nonzero(pair.ref))
    to_ref = surface_distances(pair.pred_border, pair.ref_border, pair.shape, scale)
    to_pred = surface_distances(pair.ref_border, pair.pred_border, pair.shape, scale)
    pooled = np.concatenate((to_ref, to_pred))
    return SurfaceMetrics(
        dice=2.0 * both / total,
        jaccard=both / (total - both),
        hd95=float(np.percentile(pooled, 95)),
        asd=float(to_ref.mean()),
        assd=float(pooled.mean()),
    )
