"""From a scan as its file holds it to an image as the network sees it, and back.

One orientation, one spacing, intensities by modality, cut to the foreground of the image. All of it
is decided by the image alone, never by a label, and a `Placement` records it, so that a label map
finds its way back into the scan's own geometry.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from semisam.core.errors import InputError
from semisam.data.images.files import Geometry
from semisam.data.images.resampling import resample, resample_label, resampled_size

Modality = Literal["mr", "ct", "none"]
Crop = Literal["padding", "body", "none"]

SAME_SPACING = 1e-3
"""Relative difference below which two spacings are one: NIfTI stores them in float32."""

_BODY_CT = -500.0  # HU: between air and the rest
_BINS = 256


@dataclass(frozen=True)
class Placement:
    """How an image's grid lies in the file that it came from.

    Attributes:
        shape: ``S`` of the file.
        geometry: of the file.
        axes: axis ``a`` of the image is the file's axis ``axes[a]``.
        flips: per axis of the image, whether it runs against the file's.
        box: start and stop per axis, half-open, of the crop on the oriented file's voxels.
        size: ``S`` of the image, after resampling.
        spacing: mm per axis of the image.
    """

    shape: tuple[int, ...]
    geometry: Geometry
    axes: tuple[int, ...]
    flips: tuple[bool, ...]
    box: tuple[tuple[int, int], ...]
    size: tuple[int, ...]
    spacing: tuple[float, ...]

    @property
    def oriented_spacing(self) -> tuple[float, ...]:
        """Mm per axis after orienting, before resampling."""
        return tuple(self.geometry.spacing[axis] for axis in self.axes)

    def label(self, label: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Bring a label map ``(*S)`` of the file onto the image's grid.

        Raises:
            InputError: a labeled voxel lies outside the crop.
        """
        oriented = _oriented(label, self.axes, self.flips)
        cut = oriented[tuple(slice(a, b) for a, b in self.box)]
        if np.count_nonzero(cut) != np.count_nonzero(oriented):
            raise InputError(
                "the label must lie within the crop to the image's foreground, got labeled voxels "
                "outside of it: set the dataset's option crop to none"
            )
        own = tuple(b - a for a, b in self.box)
        if own == self.size:
            return np.ascontiguousarray(cut)
        return resample_label(cut, self.oriented_spacing, self.spacing, self.size)

    def restore(self, label: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], Geometry]:
        """Bring a label map of the image's grid back onto the file's, 0 outside the crop."""
        own = tuple(b - a for a, b in self.box)
        if own != self.size:
            label = resample_label(label, self.spacing, self.oriented_spacing, own)
        oriented = np.zeros([self.shape[axis] for axis in self.axes], np.uint8)
        oriented[tuple(slice(a, b) for a, b in self.box)] = label
        flipped = np.flip(oriented, tuple(a for a, flip in enumerate(self.flips) if flip))
        return np.ascontiguousarray(flipped.transpose(np.argsort(self.axes))), self.geometry

    def to_json(self) -> dict[str, Any]:
        """Return plain values, for a manifest."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Placement:
        """Read what `to_json` wrote."""
        return cls(
            shape=tuple(raw["shape"]),
            geometry=geometry_from_json(raw["geometry"]),
            axes=tuple(raw["axes"]),
            flips=tuple(bool(flip) for flip in raw["flips"]),
            box=tuple((int(a), int(b)) for a, b in raw["box"]),
            size=tuple(raw["size"]),
            spacing=tuple(raw["spacing"]),
        )


@dataclass(frozen=True)
class Recipe:
    """What makes an image of a scan; the same for every case of a dataset, and for a new scan.

    Attributes:
        spacing: mm per axis of the image; ``None``: each scan's own.
        modalities: per channel: ``mr`` is z-scored over the image, ``ct`` clipped to the window
            and scaled to [-1, 1], ``none`` left as it is.
        window: lower and upper end in HU.
        crop: ``padding`` cuts off what holds nothing but the scan's lowest value, ``body`` what
            is darker than tissue (CT: -500 HU, else Otsu's threshold), ``none`` nothing.
    """

    spacing: tuple[float, ...] | None
    modalities: tuple[Modality, ...]
    window: tuple[float, float] = (-160.0, 240.0)
    crop: Crop = "padding"

    def apply(
        self, array: NDArray[np.float32], geometry: Geometry
    ) -> tuple[NDArray[np.float32], Geometry, Placement]:
        """Make an image of a scan.

        Args:
            array: ``(C, *S)`` as the file holds it.
            geometry: of the file.

        Returns:
            The image ``(C, *S')`` float32, its geometry, and how to get back.

        Raises:
            InputError: the number of channels or axes does not fit.
        """
        if len(array) != len(self.modalities):
            raise InputError(
                f"a scan must have {len(self.modalities)} channel(s), got {len(array)}"
            )
        axes, flips = orientation(geometry)
        oriented = _oriented(array, axes, flips, leading=1)
        box = self._box(oriented)
        cut = oriented[(slice(None), *(slice(a, b) for a, b in box))]
        own = tuple(geometry.spacing[axis] for axis in axes)
        spacing = own if self.spacing is None else self.spacing
        if len(spacing) != len(own):
            raise InputError(f"a scan of {len(spacing)} axes is required, got {len(own)}")
        if all(abs(a / b - 1) <= SAME_SPACING for a, b in zip(own, spacing, strict=True)):
            spacing = own
        size = resampled_size(cut.shape[1:], own, spacing)
        if spacing != own:
            cut = np.stack([resample(c, own, spacing, size) for c in cut])
        image = np.empty(cut.shape, np.float32)
        for channel, modality in enumerate(self.modalities):
            image[channel] = self._normalised(cut[channel], modality)
        placement = Placement(array.shape[1:], geometry, axes, flips, box, size, spacing)
        return image, _placed(placement), placement

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Recipe:
        """Read the plain values of a recipe's fields.

        Raises:
            KeyError, TypeError, ValueError: they are none.
        """
        spacing, (low, high) = raw["spacing"], raw["window"]
        if not set(raw["modalities"]) <= {"mr", "ct", "none"} or not low < high:
            raise ValueError("known modalities and a window are required")
        if raw["crop"] not in ("padding", "body", "none"):
            raise ValueError(f"a known crop is required, got {raw['crop']}")
        return cls(
            None if spacing is None else tuple(float(s) for s in spacing),
            tuple(raw["modalities"]),
            (float(low), float(high)),
            raw["crop"],
        )

    def _normalised(self, channel: NDArray[np.float32], modality: Modality) -> NDArray[np.float32]:
        if modality == "none":
            return channel
        if modality == "ct":
            low, high = self.window
            scaled = (np.clip(channel, low, high) - low) * (2.0 / (high - low)) - 1.0
            return scaled.astype(np.float32)
        mean = float(channel.mean(dtype=np.float64))
        deviation = float(channel.std(dtype=np.float64))
        # An image of one value has no contrast to scale; it becomes 0.
        return ((channel - mean) / (deviation or 1.0)).astype(np.float32)

    def _box(self, array: NDArray[np.float32]) -> tuple[tuple[int, int], ...]:
        """Return the bounding box of the foreground over all channels; of none, everything."""
        everything = tuple((0, n) for n in array.shape[1:])
        if self.crop == "none" or not np.isfinite(array).all():
            return everything  # what is not finite is refused later, in a sentence of its own
        inside = np.zeros(array.shape[1:], bool)
        for channel, modality in zip(array, self.modalities, strict=True):
            inside |= channel > self._threshold(channel, modality)
        box = []
        for axis in range(inside.ndim):
            others = tuple(a for a in range(inside.ndim) if a != axis)
            places = np.flatnonzero(inside.any(axis=others))
            if not len(places):
                return everything
            box.append((int(places[0]), int(places[-1]) + 1))
        return tuple(box)

    def _threshold(self, channel: NDArray[np.float32], modality: Modality) -> float:
        if self.crop == "padding":
            return float(channel.min())
        return _BODY_CT if modality == "ct" else _otsu(channel)


def orientation(geometry: Geometry) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Return the axes and flips that turn an array as near to ITK's axes as whole turns can.

    The result runs to the left, the posterior and the superior (LPS, what SimpleITK calls ``LPS``
    in ``DICOMOrient``): an axial DICOM series stays as it is. An image of two axes is left alone.
    """
    ndim = len(geometry.spacing)
    if geometry.direction is None or ndim == 2:
        return tuple(range(ndim)), (False,) * ndim
    matrix = np.asarray(geometry.direction).reshape(ndim, ndim)
    axes = max(
        itertools.permutations(range(ndim)),
        key=lambda order: sum(abs(matrix[row, axis]) for row, axis in enumerate(order)),
    )
    return axes, tuple(bool(matrix[row, axis] < 0) for row, axis in enumerate(axes))


def geometry_to_json(geometry: Geometry) -> dict[str, Any]:
    """Return plain values, for a manifest."""
    return asdict(geometry)


def geometry_from_json(raw: Mapping[str, Any]) -> Geometry:
    """Read what `geometry_to_json` wrote."""
    return Geometry(
        tuple(raw["spacing"]),
        None if raw["origin"] is None else tuple(raw["origin"]),
        None if raw["direction"] is None else tuple(raw["direction"]),
    )


def _oriented(
    array: NDArray[Any], axes: tuple[int, ...], flips: tuple[bool, ...], leading: int = 0
) -> NDArray[Any]:
    """Return a view with the axes in order and direction, channels left in front."""
    order = (*range(leading), *(axis + leading for axis in axes))
    against = tuple(a + leading for a, flip in enumerate(flips) if flip)
    view: NDArray[Any] = np.flip(array.transpose(order), against)
    return view


def _placed(placement: Placement) -> Geometry:
    """Return the geometry of the image's own grid."""
    old = placement.geometry
    ndim = len(old.spacing)
    matrix = np.eye(ndim) if old.direction is None else np.reshape(old.direction, (ndim, ndim))
    origin = np.zeros(ndim) if old.origin is None else np.asarray(old.origin, float)
    columns = np.empty((ndim, ndim))
    parts = zip(placement.axes, placement.flips, placement.box, strict=True)
    for a, (axis, flip, (start, _)) in enumerate(parts):
        own, new = old.spacing[axis], placement.spacing[a]
        columns[:, a] = -matrix[:, axis] if flip else matrix[:, axis]
        first = placement.shape[axis] - 1 - start if flip else start
        # The outer face of the first voxel stays where it is, not its centre.
        origin = origin + matrix[:, axis] * own * first + columns[:, a] * (new - own) / 2
    return replace(
        old,
        spacing=placement.spacing,
        origin=tuple(float(x) for x in origin),
        direction=tuple(float(x) for x in columns.ravel()),
    )


def _otsu(channel: NDArray[np.float32]) -> float:
    """Return the threshold that parts the histogram with the largest variance between classes."""
    counts, edges = np.histogram(channel, bins=_BINS)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    total = np.cumsum(counts * centres)
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = total / below - (total[-1] - total) / above
        between = below.astype(float) * above * apart**2
    # The upper end of the bin: what fell into it is dark.
    return float(edges[int(np.nanargmax(between)) + 1]) if channel.size else 0.0
