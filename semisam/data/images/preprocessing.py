"""Preprocessing of a scan to the network's input, and back.

It sets orientation, spacing and intensities and crops to the foreground. It depends only on the
image, never on a label. A `Placement` records it, so a label can be mapped back to the scan's own
geometry.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np
import psutil
from numpy.typing import NDArray
from scipy import ndimage

from semisam.core.errors import InputError, SemisamWarning
from semisam.core.masks import bounding_box
from semisam.core.types import IGNORE
from semisam.data.images.files import Geometry
from semisam.data.images.nifti import NiftiSpace
from semisam.data.images.resampling import (
    resample,
    resample_classes,
    resample_label,
    resampled_size,
)

T = TypeVar("T")

Modality = Literal["mr", "ct", "none"]
Crop = Literal["padding", "body", "none"]

SAME_SPACING = 1e-3
"""Relative difference below which two spacings are equal: NIfTI stores them in float32."""

LONGEST = 256
"""Pixels of the longest side above which a picture is shrunk, unless a user says otherwise."""

_BODY_CT = -500.0  # HU: between air and the rest
_BINS = 256


@dataclass(frozen=True)
class Placement:
    """The place of an image's grid in its source file.

    Attributes:
        shape: ``S`` of the file.
        geometry: geometry of the file.
        axes: axis ``a`` of the image is the file's axis ``axes[a]``.
        flips: per axis of the image, whether its direction is opposite to the file's.
        box: half-open start and stop per axis of the crop, in voxels of the oriented file.
        size: ``S`` of the image, after resampling.
        spacing: mm per axis of the image.
        flat: axis, after orienting, of which the scan has one voxel and the image none; ``None``:
            the image has all axes.
    """

    shape: tuple[int, ...]
    geometry: Geometry
    axes: tuple[int, ...]
    flips: tuple[bool, ...]
    box: tuple[tuple[int, int], ...]
    size: tuple[int, ...]
    spacing: tuple[float, ...]
    flat: int | None = None

    @property
    def oriented_spacing(self) -> tuple[float, ...]:
        """Spacing in mm per axis after orienting, before resampling."""
        return tuple(self.geometry.spacing[axis] for axis in self.axes)

    @property
    def resampled(self) -> bool:
        """True if the image has another spacing than its file: image, label and mask follow it."""
        return self._all_spacing != self.oriented_spacing

    def label(self, label: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Map a label ``(*S)`` of the file onto the image's grid.

        Raises:
            InputError: a labeled voxel is outside the crop.
        """
        oriented = _oriented(label, self.axes, self.flips)
        cut = oriented[self._crop]
        if _count_labeled(cut) != _count_labeled(oriented):
            raise InputError(
                "the label must be inside the crop to the image's foreground, got labeled voxels "
                "outside it. Set the dataset's option crop to none."
            )
        if self.resampled:
            cut = resample_label(cut, self.oriented_spacing, self._all_spacing, self._all_size)
        return np.ascontiguousarray(self.flattened(cut))

    def voxel(self, index: Sequence[int]) -> tuple[int, ...] | None:
        """Return the image's voxel nearest to a voxel of the file; ``None`` outside the crop."""
        sizes = self._all_spacing, self._all_size
        parts = zip(self.axes, self.flips, self.box, *sizes, strict=True)
        found = []
        for axis, flip, (start, stop), spacing, size in parts:
            at = self.shape[axis] - 1 - index[axis] if flip else index[axis]
            if not start <= at < stop:
                return None
            place = int((at - start + 0.5) * self.geometry.spacing[axis] / spacing)
            found.append(min(place, size - 1))  # the size of the image was rounded down
        return self.without_flat(tuple(found))

    def classes(self, probs: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Return the most probable class of each voxel of the file.

        Probabilities are resampled linearly before the class is taken, so the result has the
        file's resolution. Outside the crop every voxel is background.

        Args:
            probs: ``(K, *S)`` on the image's grid.

        Returns:
            ``(*S)`` on the file's grid.
        """
        oriented, probs = np.zeros(self._oriented_shape, np.uint8), self._whole(probs)
        oriented[self._crop] = (
            probs.argmax(0)
            if not self.resampled
            else resample_classes(probs, self._all_spacing, self.oriented_spacing, self._own)
        )
        return self._unoriented(oriented)

    def probabilities(self, probs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Resample probabilities ``(K, *S)`` of the image's grid to the file's, ``(K, *S)``."""
        oriented = np.zeros((len(probs), *self._oriented_shape), np.float32)
        oriented[0] = 1.0
        for row, channel in zip(oriented, self._whole(probs), strict=True):
            row[self._crop] = (
                channel
                if not self.resampled
                else resample(channel, self._all_spacing, self.oriented_spacing, self._own)
            )
        return self._unoriented(oriented, leading=1)

    def flattened(self, array: NDArray[Any], leading: int = 0) -> NDArray[Any]:
        """Return an array without the axis that the image lacks."""
        return array if self.flat is None else array.take(0, self.flat + leading)

    def without_flat(self, values: tuple[T, ...]) -> tuple[T, ...]:
        """Return values per axis of the scan without that of the axis that the image lacks."""
        return tuple(value for axis, value in enumerate(values) if axis != self.flat)

    def _whole(self, probs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return ``(K, *S)`` of the image with all axes of the scan."""
        return probs if self.flat is None else np.expand_dims(probs, self.flat + 1)

    @property
    def _all_spacing(self) -> tuple[float, ...]:
        """Spacing in mm of the image, with that of the axis that it lacks."""
        if self.flat is None:
            return self.spacing
        own = self.oriented_spacing[self.flat]
        return (*self.spacing[: self.flat], own, *self.spacing[self.flat :])

    @property
    def _all_size(self) -> tuple[int, ...]:
        """Size of the image, with the axis that it lacks."""
        if self.flat is None:
            return self.size
        return (*self.size[: self.flat], 1, *self.size[self.flat :])

    @property
    def _own(self) -> tuple[int, ...]:
        return tuple(stop - start for start, stop in self.box)

    @property
    def _crop(self) -> tuple[slice, ...]:
        return tuple(slice(start, stop) for start, stop in self.box)

    @property
    def _oriented_shape(self) -> tuple[int, ...]:
        return tuple(self.shape[axis] for axis in self.axes)

    def _unoriented(self, array: NDArray[Any], leading: int = 0) -> NDArray[Any]:
        flips = tuple(axis + leading for axis, flip in enumerate(self.flips) if flip)
        order = (*range(leading), *(int(a) + leading for a in np.argsort(self.axes)))
        return np.ascontiguousarray(np.flip(array, flips).transpose(order))

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a manifest."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Placement:
        """Read the values that `to_json` returned."""
        return cls(
            shape=tuple(raw["shape"]),
            geometry=geometry_from_json(raw["geometry"]),
            axes=tuple(raw["axes"]),
            flips=tuple(bool(flip) for flip in raw["flips"]),
            box=tuple((int(a), int(b)) for a, b in raw["box"]),
            size=tuple(raw["size"]),
            spacing=tuple(raw["spacing"]),
            flat=raw.get("flat"),
        )


@dataclass(frozen=True)
class Recipe:
    """The preprocessing of a scan, equal for all cases of a dataset and for a new scan.

    Attributes:
        spacing: mm per axis of the image; ``None`` is each scan's own.
        modalities: per channel: ``mr`` is z-scored over the image, ``ct`` clipped to the window
            and scaled to [-1, 1], ``none`` unchanged.
        window: lower and upper end in HU.
        crop: ``padding`` removes the margin that holds only the scan's lowest value, ``body`` the
            margin darker than tissue (CT: -500 HU, else Otsu's threshold), ``none`` nothing.
        longest: voxels of the longest axis above which an image is shrunk; ``None`` keeps its size.
        flat: axis (left, posterior, superior) of which every scan has one slice. The image lacks
            it, as that of a picture. ``None``: the image has all axes.
    """

    spacing: tuple[float, ...] | None
    modalities: tuple[Modality, ...]
    window: tuple[float, float] = (-160.0, 240.0)
    crop: Crop = "padding"
    longest: int | None = None
    flat: int | None = None

    def apply(
        self, array: NDArray[np.float32], geometry: Geometry
    ) -> tuple[NDArray[np.float32], Geometry, Placement]:
        """Preprocess a scan.

        Args:
            array: ``(C, *S)`` as in the file.
            geometry: geometry of the file.

        Returns:
            The image ``(C, *S')`` float32, its geometry, and its placement in the file.

        Raises:
            InputError: as of `place`.
        """
        placement = self.place(array, geometry)
        oriented = _oriented(array, placement.axes, placement.flips, leading=1)
        cut = oriented[(slice(None), *(slice(a, b) for a, b in placement.box))]
        cut = placement.flattened(cut, leading=1)
        own = placement.without_flat(placement.oriented_spacing)
        if placement.resampled:
            cut = self._smoothed(cut, own, placement.spacing)
            cut = np.stack([resample(c, own, placement.spacing, placement.size) for c in cut])
        image = np.empty(cut.shape, np.float32)
        for channel, modality in enumerate(self.modalities):
            image[channel] = self._normalised(cut[channel], modality)
        return image, _placed(placement), placement

    def place(self, array: NDArray[np.float32], geometry: Geometry) -> Placement:
        """Return the placement of a scan's image, without making the image.

        Args:
            array: ``(C, *S)`` as in the file.
            geometry: geometry of the file.

        Raises:
            InputError: the number of channels or axes does not fit, or the image does not fit into
                memory.
        """
        if len(array) != len(self.modalities):
            raise InputError(
                f"a scan must have {len(self.modalities)} channel(s), got {len(array)}."
            )
        for channel, modality in zip(array, self.modalities, strict=True):
            if modality == "mr" and channel.min() < _BODY_CT:
                warnings.warn(
                    "Scans hold values as low as those of air in CT, and are prepared as MR. CT "
                    "needs the dataset's option modality=ct (--set folder.modality=ct) before a "
                    "training, or --modality ct of click and serve; a model keeps its preparation.",
                    SemisamWarning,
                    stacklevel=2,
                )
        axes, flips = orientation(geometry)
        box = self._box(_oriented(array, axes, flips, leading=1))
        own = tuple(geometry.spacing[axis] for axis in axes)
        size, spacing = self.grid([b - a for a, b in box], own)
        if spacing != own:
            _check_memory(len(array), size, own, spacing)
        placement = Placement(array.shape[1:], geometry, axes, flips, box, size, spacing)
        if self.flat is None:
            return placement
        if size[self.flat] != 1:
            raise InputError(
                f"a scan must be a single slice, as the others are, got {array.shape[1:]} voxels. "
                "Move volumes to a folder of their own."
            )
        flat = replace(placement, flat=self.flat)
        return replace(flat, size=flat.without_flat(size), spacing=flat.without_flat(spacing))

    def grid(
        self, size: Sequence[int], own: tuple[float, ...]
    ) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Return size and spacing of the image of a scan.

        Args:
            size: voxels per axis of the oriented scan.
            own: its mm per axis.

        Raises:
            InputError: the number of axes does not fit.
        """
        spacing = own if self.spacing is None else self.spacing
        if len(spacing) != len(own):
            raise InputError(f"a scan must have {len(spacing)} axes, got {len(own)}.")
        if self.flat is not None:
            spacing = (*spacing[: self.flat], own[self.flat], *spacing[self.flat + 1 :])
        if self.longest is not None:
            most = max(resampled_size(size, own, spacing))
            spacing = tuple(mm * max(most / self.longest, 1.0) for mm in spacing)
        if all(abs(a / b - 1) <= SAME_SPACING for a, b in zip(own, spacing, strict=True)):
            spacing = own
        return resampled_size(size, own, spacing), spacing

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Recipe:
        """Read the plain values of a recipe's fields.

        Raises:
            KeyError, TypeError, ValueError: they are not such values.
        """
        spacing, (low, high) = raw["spacing"], raw["window"]
        if not set(raw["modalities"]) <= {"mr", "ct", "none"} or not low < high:
            raise ValueError("modalities and window must be valid")
        if raw["crop"] not in ("padding", "body", "none"):
            raise ValueError(f"crop must be padding, body or none, got {raw['crop']}")
        return cls(
            None if spacing is None else tuple(float(s) for s in spacing),
            tuple(raw["modalities"]),
            (float(low), float(high)),
            raw["crop"],
            None if raw.get("longest") is None else int(raw["longest"]),
            None if raw.get("flat") is None else int(raw["flat"]),
        )

    def _smoothed(
        self, array: NDArray[np.float32], own: tuple[float, ...], spacing: tuple[float, ...]
    ) -> NDArray[np.float32]:
        """Blur a picture that is shrunk, so that no pixel is skipped; scans stay as they are."""
        if self.longest is None:
            return array
        pairs = zip(own, spacing, strict=True)
        sigma = (0.0, *(max(new / old - 1, 0.0) / 2 for old, new in pairs))
        blurred: NDArray[np.float32] = ndimage.gaussian_filter(array, sigma, mode="nearest")
        return blurred

    def _normalised(self, channel: NDArray[np.float32], modality: Modality) -> NDArray[np.float32]:
        if modality == "none":
            return channel
        if modality == "ct":
            low, high = self.window
            scaled = (np.clip(channel, low, high) - low) * (2.0 / (high - low)) - 1.0
            return scaled.astype(np.float32)
        mean = float(channel.mean(dtype=np.float64))
        deviation = float(channel.std(dtype=np.float64))
        # A constant image has no contrast to scale: it becomes 0.
        return ((channel - mean) / (deviation or 1.0)).astype(np.float32)

    def _box(self, array: NDArray[np.float32]) -> tuple[tuple[int, int], ...]:
        """Return the bounding box of the foreground over all channels, or the whole image."""
        everything = tuple((0, n) for n in array.shape[1:])
        if self.crop == "none" or not np.isfinite(array).all():
            return everything  # a later check refuses values that are not finite
        inside = np.zeros(array.shape[1:], bool)
        for channel, modality in zip(array, self.modalities, strict=True):
            inside |= channel > self._threshold(channel, modality)
        if not inside.any():
            return everything
        return tuple((part.start, part.stop) for part in bounding_box(inside))

    def _threshold(self, channel: NDArray[np.float32], modality: Modality) -> float:
        if self.crop == "padding":
            return float(channel.min())
        return _BODY_CT if modality == "ct" else _otsu(channel)


def orientation(geometry: Geometry) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Return the axes and flips that orient an array as closely as possible to ITK's axes.

    The result runs to the left, the posterior and the superior (LPS, as ``LPS`` in SimpleITK's
    ``DICOMOrient``). An axial DICOM series and an image of two axes stay unchanged.
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
    """Return plain values for a manifest."""
    return asdict(geometry)


def geometry_from_json(raw: Mapping[str, Any]) -> Geometry:
    """Read the values that `geometry_to_json` returned."""
    nifti = raw["nifti"]
    return Geometry(
        tuple(raw["spacing"]),
        None if raw["origin"] is None else tuple(raw["origin"]),
        None if raw["direction"] is None else tuple(raw["direction"]),
        None if nifti is None else NiftiSpace(**{**nifti, "affine": tuple(nifti["affine"])}),
    )


def _check_memory(
    channels: int, size: Sequence[int], own: Sequence[float], spacing: Sequence[float]
) -> None:
    """Refuse an image ``(channels, *size)`` that does not fit into the free memory."""
    need = 4.0 * channels * math.prod(map(float, size))  # of float32; an int may be too large
    free = psutil.virtual_memory().available
    if need > free:
        voxels, old, new = (" x ".join(f"{x:.10g}" for x in part) for part in (size, own, spacing))
        raise InputError(
            f"the image must fit into memory at the training spacing, got {voxels} voxels at {new} "
            f"mm ({need / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free) of a scan at {old} mm. "
            "Check the unit and the spacing in the file's header, or choose a coarser spacing."
        )


def _oriented(
    array: NDArray[Any], axes: tuple[int, ...], flips: tuple[bool, ...], leading: int = 0
) -> NDArray[Any]:
    """Return a view with ordered and flipped axes; the leading axes (channels) stay in front."""
    order = (*range(leading), *(axis + leading for axis in axes))
    against = tuple(a + leading for a, flip in enumerate(flips) if flip)
    view: NDArray[Any] = np.flip(array.transpose(order), against)
    return view


def _placed(placement: Placement) -> Geometry:
    """Return the geometry of the image's own grid."""
    if placement.flat is not None:
        return Geometry(placement.spacing)
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
        # Resampling keeps the outer face of the first voxel in place, not its centre.
        origin = origin + matrix[:, axis] * own * first + columns[:, a] * (new - own) / 2
    return replace(
        old,
        spacing=placement.spacing,
        origin=tuple(float(x) for x in origin),
        direction=tuple(float(x) for x in columns.ravel()),
        nifti=None,
    )


def _count_labeled(label: NDArray[np.uint8]) -> int:
    """Return the number of foreground voxels; ignored ones do not count."""
    return int(np.count_nonzero((label != 0) & (label != IGNORE)))


def _otsu(channel: NDArray[np.float32]) -> float:
    """Return Otsu's threshold, which maximises the variance between the two classes."""
    if not channel.size or channel.min() == channel.max():
        return float(channel.max(initial=0.0))  # nothing is brighter
    counts, edges = np.histogram(channel, bins=_BINS)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    total = np.cumsum(counts * centres)
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = total / below - (total[-1] - total) / above
        between = below.astype(float) * above * apart**2
    # The upper end of the bin, because its values count as dark.
    return float(edges[int(np.nanargmax(between)) + 1])
