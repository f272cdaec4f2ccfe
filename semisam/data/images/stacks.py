"""Slices of a DICOM series that are one plain stack, or a sentence that says why they are not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray

from semisam.core.errors import InputError, first_few

_EVEN = 0.01  # of the step, by which a step may differ; scanners round positions
_ROUNDED = 0.02  # mm, the same, but at most a twentieth of a step
_TOGETHER = 0.05  # of the step, below which two slices are at one position
_SAME = 1e-6  # of the stack's height, the same
PARALLEL = 1e-3  # difference of direction cosines
_SHIFT = 0.1  # pixels, by which slices may lie off their common normal
_MOST_NAMES = 3
APART = (
    ("ImageType", "image type"),
    ("EchoNumbers", "echo"),
    ("EchoTime", "echo time"),
    ("TemporalPositionIdentifier", "time point"),
    ("DiffusionBValue", "b-value"),
    ("DiffusionGradientOrientation", "diffusion direction"),
    ("TriggerTime", "trigger time"),
    ("AcquisitionNumber", "acquisition"),
    ("AcquisitionTime", "acquisition time"),
    ("ContentTime", "time"),
)
"""Attributes that may tell two slices at one position apart, with their names in a message."""


@dataclass(frozen=True)
class Slice:
    """A two-dimensional image of a series.

    Attributes:
        path: its file.
        frame: its number in the file.
        header: the file's attributes.
        position: ``(3,)`` mm, the centre of the first pixel; ``None`` if it is not stated.
        axes: ``(3, 2)`` direction cosines along a row and along a column; ``None`` likewise.
        size: columns and rows.
        spacing: mm between columns and between rows; ``None`` if it is not stated.
        left: bytes of the file from the element with its pixels on.
    """

    path: Path
    frame: int
    header: pydicom.Dataset
    position: NDArray[np.float64] | None
    axes: NDArray[np.float64] | None
    size: tuple[int, int]
    spacing: tuple[float, float] | None
    left: int


@dataclass(frozen=True)
class Stack:
    """Slices that are one evenly spaced volume, in the order of their positions.

    Attributes:
        slices: in order.
        spacing: mm per axis (column, row, slice).
        origin: mm, the centre of the first voxel.
        direction: row-major cosines, as of ITK.
    """

    slices: tuple[Slice, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]

    @property
    def size(self) -> tuple[int, int, int]:
        """Voxels per axis."""
        return (*self.slices[0].size, len(self.slices))

    @property
    def bytes_per_value(self) -> int:
        """Bytes of a voxel as stored."""
        return max(1, int(self.slices[0].header.get("BitsAllocated", 16)) // 8)


def stack_of(path: Path, slices: list[Slice]) -> Stack:
    """Return slices as one stack in the order of their positions.

    Args:
        path: their folder, for messages.
        slices: of one series.

    Raises:
        InputError: they are not parallel, of one size, evenly spaced and one at each position.
    """
    header = slices[0].header
    if any("MOSAIC" in _text(part, "ImageType") for part in slices):
        raise InputError(
            f"a DICOM file must hold one slice, got a mosaic of several in {slices[0].path}. "
            "Convert the series with dcm2niix and give the NIfTI file."
        )
    if int(header.get("SamplesPerPixel", 1) or 1) != 1:
        raise InputError(
            f"a DICOM image must have one value per pixel, got colours in {slices[0].path}. "
            "Export the grey images."
        )
    _agree(slices, "of one patient", lambda part: str(part.header.get("PatientID", "")))
    if len(slices) == 1 and (slices[0].position is None or slices[0].axes is None):
        plane = slices[0].spacing or (1.0, 1.0)
        return Stack((slices[0],), (*plane, 1.0), (0.0,) * 3, tuple(np.eye(3).ravel()))
    blind = [part for part in slices if part.position is None or part.axes is None]
    if blind:
        raise InputError(
            f"each slice must state its position and orientation, got none in {_names(blind)}. "
            "Export the original images, or give the volume as NIfTI."
        )
    unscaled = [part for part in slices if part.spacing is None]
    if unscaled:
        raise InputError(
            f"each slice must state its PixelSpacing, got none in {_names(unscaled)}. Export the "
            "original images, or give the volume as NIfTI."
        )
    seen: list[NDArray[np.float64]] = []
    _agree(slices, "parallel", lambda part: _alike(part.axes, seen))
    _agree(slices, "of one size", lambda part: f"{part.size[0]} x {part.size[1]}")
    _agree(slices, "of one pixel spacing", lambda part: _mm(part.spacing or ()))
    axes, pixel = slices[0].axes, slices[0].spacing
    assert axes is not None and pixel is not None
    normal = np.cross(axes[:, 0], axes[:, 1])
    points = np.stack([part.position for part in slices if part.position is not None])
    depths = points @ normal
    order = np.argsort(depths, kind="stable")
    ordered, depths, points = [slices[n] for n in order], depths[order], points[order]
    step = _step(path, ordered, depths)
    aside = (points - points[0]) @ axes / pixel
    if np.abs(aside).max() > _SHIFT:
        raise InputError(
            f"slices must lie one above the other, got {path}, whose slices are shifted by up to "
            f"{np.abs((points - points[0]) @ axes).max():.1f} mm, as by a tilted gantry. Convert "
            "the series with dcm2niix, which corrects the tilt, and give the NIfTI file."
        )
    matrix = np.column_stack([axes, normal])
    origin = tuple(float(x) for x in points[0])
    spacing = (*pixel, step)
    return Stack(tuple(ordered), spacing, origin, tuple(float(x) for x in matrix.ravel()))


def _step(path: Path, slices: Sequence[Slice], depths: NDArray[np.float64]) -> float:
    """Return the mm between slices, which must be even."""
    if len(slices) == 1:
        header = slices[0].header
        known = header.get("SpacingBetweenSlices") or header.get("SliceThickness")
        return float(known) if known and float(known) > 0 else 1.0
    steps = np.diff(depths)
    apart = steps[steps > _SAME * (depths[-1] - depths[0])]
    same = np.flatnonzero(steps < _TOGETHER * np.median(apart)) if len(apart) else [0]
    if len(same):
        raise _several(path, slices, depths, int(same[0]))
    # The smallest step that is usual: of a stack with gaps the median could be that of the gaps.
    step = float(np.median(steps))
    step = min((s for s in steps if np.sum(np.abs(steps - s) <= _EVEN * s) > 1), default=step)
    most = max(_EVEN * step, min(_ROUNDED, _TOGETHER * step))
    wrong = np.flatnonzero(np.abs(steps - step) > most)
    if len(wrong):
        n = int(wrong[np.abs(steps[wrong] - step).argmax()])
        raise InputError(
            f"slices must be evenly spaced, got {count_of(len(wrong), 'step')} other than "
            f"{step:.4g} mm in {path}, the largest of {steps[n]:.4g} mm between "
            f"{slices[n].path.name} and {slices[n + 1].path.name}. Copy the missing slices, or "
            "resample the scan to even steps."
        )
    return float(depths[-1] - depths[0]) / (len(slices) - 1)


def _several(
    path: Path, slices: Sequence[Slice], depths: NDArray[np.float64], first: int
) -> InputError:
    """Return the error of several slices at one position, with what tells them apart."""
    pair = f"{slices[first].path.name} and {slices[first + 1].path.name}"
    gap = (depths[first + 1] - depths[first]) + _SAME * (depths[-1] - depths[0])
    at = int(np.sum(np.abs(depths - depths[first]) <= gap))
    beginning = f"there must be one slice at each position, got {at} at one in {path}, {pair}"
    ids = Counter((_text(part, "SOPInstanceUID"), part.frame) for part in slices)
    if max(ids.values()) > 1:
        return InputError(f"{beginning}, which are copies of one image. Remove the copies.")
    for tag, name in APART:
        counts = Counter(_text(part, tag) for part in slices)
        if len(counts) > 1 and _text(slices[first], tag) != _text(slices[first + 1], tag):
            parts = [f"{value or 'none'}: {n}" for value, n in sorted(counts.items())]
            listed = first_few(parts, 6)
            return InputError(
                f"{beginning}, which differ in {name} (slices by {name}: {listed}). Put the "
                f"files of one {name} into a folder of their own."
            )
    return InputError(f"{beginning}. Put the files of one volume into a folder of their own.")


def _agree(slices: Sequence[Slice], rule: str, of: Callable[[Slice], str]) -> None:
    """Refuse slices that differ in something, and name those of the smaller group."""
    groups: dict[str, list[Slice]] = {}
    for part in slices:
        groups.setdefault(of(part), []).append(part)
    if len(groups) > 1:
        others = sorted(groups.values(), key=len)[:-1]
        odd = [part for group in others for part in group]
        raise InputError(
            f"all slices of a series must be {rule}, got {count_of(len(odd), 'slice')} that differ "
            f"from the other {len(slices) - len(odd)}: {_names(odd)}. Put them into a folder of "
            "their own or remove them."
        )


def _alike(axes: NDArray[np.float64] | None, seen: list[NDArray[np.float64]]) -> str:
    """Return the number of the first orientation seen that equals this one, and keep a new one."""
    assert axes is not None
    for number, known in enumerate(seen):
        if np.allclose(axes, known, atol=PARALLEL):
            return str(number)
    seen.append(axes)
    return str(len(seen) - 1)


def _text(part: Slice, tag: str) -> str:
    value = part.header.get(tag, "")
    if value is None:
        return ""
    many = not isinstance(value, str) and isinstance(value, Iterable)
    return "/".join(map(str, value)) if many else str(value)


def _names(slices: Sequence[Slice]) -> str:
    names = list(dict.fromkeys(part.path.name for part in slices))
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


def count_of(number: int, what: str) -> str:
    """Return ``1 slice`` or ``2 slices``."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def _mm(values: Sequence[float]) -> str:
    return " x ".join(f"{value:.4g}" for value in values)
