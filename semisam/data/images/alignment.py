"""Comparison of the places of two grids in the patient."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from semisam.data.images.files import Geometry

_SAME_PLACE = 0.5  # voxels: a label shifted by less still covers its voxels


def misfit(
    shape: tuple[int, ...], geometry: Geometry, image_shape: tuple[int, ...], image: Geometry
) -> str:
    """Return how a label's grid differs from its image's, with a remedy; empty if it does not."""
    if shape != image_shape:
        if len(shape) == 2 and shape == image_shape[::-1]:
            return (
                f"image and label must have one shape, got {image_shape} and {shape}. Turn the "
                "label as viewers show the image."
            )
        return (
            f"image and label must have one shape, got {image_shape} and {shape}. Resample the "
            "label onto the image's grid."
        )
    if not same_place(geometry, image, shape):
        return (
            "image and label must be at one place, got a label with another spacing, origin or "
            f"direction (spacing {_mm(image.spacing)} and {_mm(geometry.spacing)} mm, origin "
            f"{_mm(image.origin)} and {_mm(geometry.origin)}). Resample the label onto the image, "
            "or copy the image's header if the voxels correspond."
        )
    return ""


def with_flat_axis(
    label: NDArray[Any], place: Geometry, shape: tuple[int, ...], image: Geometry
) -> tuple[NDArray[Any], Geometry]:
    """Return a label at its image's place, with the axis of one voxel that only the image has.

    So the mask of an X-ray image in DICOM may be a picture. Other labels are returned as they are.

    Args:
        label: ``(*S)``.
        place: of the label.
        shape: of the image.
        image: its place.
    """
    for axis in reversed(range(len(shape))):
        if shape[:axis] + shape[axis + 1 :] == label.shape and shape[axis] == 1:
            return np.expand_dims(label, axis), image
    return label, place


def same_place(one: Geometry, other: Geometry, shape: tuple[int, ...]) -> bool:
    """Return whether all corners of two grids are within half a voxel of each other."""
    if len(one.spacing) != len(other.spacing):
        return False
    near = _SAME_PLACE * min(other.spacing)
    return bool(np.all(np.abs(_corners(one, shape) - _corners(other, shape)) <= near))


def _corners(geometry: Geometry, shape: tuple[int, ...]) -> NDArray[np.float64]:
    ndim = len(shape)
    ends = np.array(np.meshgrid(*[(0, n - 1) for n in shape])).reshape(ndim, -1)
    matrix = (
        np.eye(ndim) if geometry.direction is None else np.reshape(geometry.direction, (ndim,) * 2)
    )
    origin = np.zeros(ndim) if geometry.origin is None else np.asarray(geometry.origin, float)
    placed: NDArray[np.float64] = origin[:, None] + matrix @ (
        np.array(geometry.spacing)[:, None] * ends
    )
    return placed


def _mm(values: tuple[float, ...] | None) -> str:
    return "unknown" if values is None else " x ".join(f"{v:.4g}" for v in values)
