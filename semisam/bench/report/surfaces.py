"""Masks as shaded surfaces, and their outlines on slices of the scan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mpl_toolkits.mplot3d.art3d import Poly3DCollection  # type: ignore[import-untyped]
from numpy.typing import NDArray
from scipy import ndimage
from skimage import measure

from semisam.inference.preview import displayed

Labels = NDArray[np.uint8]

marching_cubes: Any = measure.marching_cubes  # it has no types

_MOST_FACES = 30_000
_LIGHT = np.array([-0.4, -0.55, 0.75]) / np.linalg.norm([-0.4, -0.55, 0.75])
_SHADES = (1.0, 0.72, 0.5, 0.35)
"""Shades of the classes 1, 2, ... of one mask, whose colour darkens with the class."""


def draw_surface(ax: Any, mask: Labels, spacing: Sequence[float], color: str, bounds: Any) -> None:
    """Draw each class of a mask ``(*S)`` as a shaded surface in mm.

    Args:
        ax: of a 3-D projection.
        mask: class numbers.
        spacing: mm per axis.
        color: of class 1; further ones are darker.
        bounds: ``(2, 3)`` mm, shown in every picture of a case so that their scale is the same.
    """
    for value in range(1, int(mask.max(initial=0)) + 1):
        found = _surface(mask == value, spacing)
        if found is None:
            continue
        vertices, faces = found
        triangles = vertices[faces]
        normals = np.cross(triangles[:, 2] - triangles[:, 0], triangles[:, 1] - triangles[:, 0])
        length = np.linalg.norm(normals, axis=1, keepdims=True)
        normals = normals / np.maximum(length, 1e-12)
        light = 0.5 + 0.5 * np.clip(normals @ _LIGHT, -0.4, 1.0)
        base = _rgb(color) * _SHADES[(value - 1) % len(_SHADES)]
        colors = np.concatenate([np.clip(light[:, None] * base, 0, 1), np.ones((len(light), 1))], 1)
        surface = Poly3DCollection(triangles, facecolors=colors, edgecolors=colors, linewidths=0.1)
        surface.set_clip_on(False)  # a corner may be outside the axes
        surface.set_rasterized(True)
        ax.add_collection3d(surface)
    for axis, name in enumerate("xyz"):
        getattr(ax, f"set_{name}lim")(bounds[0][axis], bounds[1][axis])
    ax.set_box_aspect(np.maximum(bounds[1] - bounds[0], 1e-6), zoom=1.5)
    ax.view_init(elev=22, azim=-62)
    ax.set_axis_off()


def common_bounds(masks: Sequence[Labels], spacing: Sequence[float]) -> NDArray[np.float64]:
    """Return the box ``(2, 3)`` in mm that holds the foreground of all masks, with a margin."""
    whole = np.any([mask > 0 for mask in masks], axis=0)
    if not whole.any():
        return np.array([np.zeros(3), np.array(whole.shape) * spacing])
    voxels = np.argwhere(whole)
    bounds: NDArray[np.float64] = np.array([voxels.min(0) - 1.5, voxels.max(0) + 1.5])
    return bounds * np.asarray(spacing, dtype=np.float64)


def _surface(mask: NDArray[np.bool_], spacing: Sequence[float]) -> Any:
    if not mask.any():
        return None
    # A margin of background closes the surface at the border of the volume.
    soft = ndimage.gaussian_filter(np.pad(mask, 2).astype(np.float32), 0.7)
    level = 0.5 if soft.max() > 0.5 else float(soft.max()) * 0.5
    for step in (1, 2, 3, 4):
        if step < 4 and mask.sum() / step**2 > 40 * _MOST_FACES:
            continue
        vertices, faces, _, _ = marching_cubes(
            soft, level, spacing=tuple(map(float, spacing)), step_size=step, allow_degenerate=False
        )
        if len(faces) <= _MOST_FACES:
            break
    return vertices - 2 * np.asarray(spacing), faces


def _rgb(color: str) -> NDArray[np.float64]:
    return np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])


def draw_slice(
    ax: Any,
    image: NDArray[np.float32],
    masks: Sequence[tuple[Labels, str, float]],
    spacing: tuple[float, float],
    window: tuple[float, float],
) -> None:
    """Draw a slice ``(right, down)`` in mm with the outlines of several masks.

    Args:
        ax: the axes to draw on.
        image: grey levels, or colours ``(3, right, down)``.
        masks: each with the colour and the width of its outline.
        spacing: mm per axis.
        window: grey levels that are black and white.
    """
    size = image.shape[-2:]
    width, height = (n * s for n, s in zip(size, spacing, strict=True))
    ax.imshow(
        (image if image.ndim == 2 else displayed(image, window)).T,
        cmap="gray",
        vmin=window[0],
        vmax=max(window[1], window[0] + 1e-6),
        extent=(0, width, height, 0),
        interpolation="bilinear",
    )
    x, y = ((np.arange(n) + 0.5) * s for n, s in zip(size, spacing, strict=True))
    for mask, color, line_width in masks:
        for value in np.unique(mask[mask > 0]):
            inside = (mask == value).T.astype(float)
            if min(inside.shape) > 1 and inside.min() == 0:
                ax.contour(x, y, inside, levels=[0.5], colors=[color], linewidths=line_width)
    ax.set_anchor("N")  # titles of slices of different heights are in one line
    ax.set_axis_off()
