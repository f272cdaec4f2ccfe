"""DICOM series: the headers are checked by pydicom before SimpleITK reads a voxel.

A folder of DICOM files is one volume only if its slices are one plain stack: parallel, of one size,
one at each position, evenly spaced along their normal. ITK reads any sorted list as if it were one.
Here everything else is refused with a sentence that names the files. Positions are in DICOM's
patient coordinates (LPS), which are ITK's.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK
from numpy.typing import NDArray
from pydicom.uid import UID, ImplicitVRLittleEndian

from semisam.core.errors import InputError

sitk: Any = SimpleITK  # its functions carry no types

_DEPTH = 6  # folders below a case's folder that are searched
_LOOKED_AT = 100  # files of a folder without DICOM that are opened
_EVEN = 0.01  # of the step, by which a step may differ; scanners round positions
_ROUNDED = 0.02  # mm, the same, but at most a twentieth of a step
_TOGETHER = 0.05  # of the step, below which two slices are at one position
_SAME = 1e-6  # of the stack's height, the same
_PARALLEL = 1e-3  # difference of direction cosines
_SHIFT = 0.1  # pixels, by which slices may lie off their common normal
_HEAD = 132  # bytes of preamble and mark
_MOST_NAMES = 3

_APART = (
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

_TAGS = [
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription"),
    *("PatientID", "Modality", "ImageType", "NumberOfFrames", "Rows", "Columns", "PixelSpacing"),
    *("ImagerPixelSpacing", "SpacingBetweenSlices", "SliceThickness", "SamplesPerPixel"),
    *("BitsAllocated", "ImagePositionPatient", "ImageOrientationPatient"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *(tag for tag, _ in _APART),
]


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
        spacing: mm between columns and between rows.
    """

    path: Path
    frame: int
    header: pydicom.Dataset
    position: NDArray[np.float64] | None
    axes: NDArray[np.float64] | None
    size: tuple[int, int]
    spacing: tuple[float, float]


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


def is_dicom(path: Path) -> bool:
    """Return whether a file is DICOM, with or without the preamble and its mark."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return False
    if head[128:] == b"DICM":
        return True
    # Without a preamble, a file begins with an element of group 2 or 8 and its length or type.
    if len(head) < 8 or head[:2] not in (b"\x02\x00", b"\x08\x00"):
        return False
    try:
        found = pydicom.dcmread(path, force=True, specific_tags=["SOPClassUID"], defer_size=1024)
    except Exception:  # any bytes may be here
        return False
    return "SOPClassUID" in found


def is_series(folder: Path) -> bool:
    """Return whether a folder holds a DICOM file, also in folders below it."""
    return next(_files(folder), None) is not None


def read_stack(path: Path, series: str = "") -> Stack:
    """Read and check the headers of a DICOM file or of a folder of them.

    Args:
        path: a file, or a folder whose files may lie in folders of their own.
        series: number, UID, or begin of the description of the series to read; empty if there is
            only one.

    Raises:
        InputError: there is no such series, or its slices are not one evenly spaced stack.
    """
    files = list(_files(path)) if path.is_dir() else [path]
    slices = [part for file in files for part in _slices(file)]
    if not slices:
        raise InputError(
            f"the folder must hold DICOM images, got none in {path}. Name the folder of the series."
        )
    chosen = _chosen(path, slices, series)
    _check_complete(chosen)
    return _stack(path, chosen)


def read_voxels(stack: Stack) -> Any:
    """Read the voxels of a stack as a SimpleITK image of float32.

    Each file is scaled by its own slope and intercept.

    Raises:
        RuntimeError: SimpleITK cannot decode a file.
    """
    columns, rows, depth = stack.size
    voxels = np.empty((depth, rows, columns), np.float32)
    known: tuple[Path, NDArray[np.float32]] | None = None
    for place, part in zip(voxels, stack.slices, strict=True):
        if known is None or known[0] != part.path:
            image = sitk.ReadImage(str(part.path), sitk.sitkFloat32, "GDCMImageIO")
            planes = sitk.GetArrayFromImage(image).reshape(-1, rows, columns)
            known = (part.path, planes)
        place[:] = known[1][part.frame]
    result = sitk.GetImageFromArray(voxels)
    result.SetSpacing(stack.spacing)
    result.SetOrigin(stack.origin)
    result.SetDirection(stack.direction)
    return result


def _files(folder: Path, depth: int = _DEPTH) -> Iterator[Path]:
    """Yield the DICOM files of a folder and of those below it, but follow no link to a folder."""
    try:
        entries = [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]
    except OSError:
        return
    failed = 0
    for entry in entries:
        if entry.is_file() and entry.name.upper() != "DICOMDIR" and failed < _LOOKED_AT:
            if is_dicom(entry):
                failed = 0
                yield entry
            else:
                failed += 1
    for entry in entries if depth else ():
        if entry.is_dir() and not entry.is_symlink():
            yield from _files(entry, depth - 1)


def _slices(path: Path) -> list[Slice]:
    """Return the slices of a file; none if it is not an image."""
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=_TAGS)
        if "Rows" not in header or "Columns" not in header:
            return []  # a report, a presentation state, a structure set
        frames = int(header.get("NumberOfFrames", 1) or 1)
        groups = header.get("PerFrameFunctionalGroupsSequence")
        shared = header.get("SharedFunctionalGroupsSequence")
        if frames > 1 and (groups is None or len(groups) != frames):
            raise InputError(
                f"a DICOM file of several frames must state the position of each, got {frames} "
                f"frames in {path}. Convert it with dcm2niix and give the NIfTI file."
            )
        return [_slice(path, n, header, groups, shared) for n in range(frames)]
    except InputError:
        raise
    except Exception as error:  # a damaged header may raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"a DICOM file must have a readable header, got {path} ({reason}). Copy it again, or "
            "remove it from the folder."
        ) from error


def _slice(path: Path, frame: int, header: pydicom.Dataset, groups: Any, shared: Any) -> Slice:
    sources = [header]
    for group in (shared[0] if shared else None, groups[frame] if groups else None):
        for name in ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence"):
            if group is not None and group.get(name):
                sources.append(group[name].value[0])

    def last(name: str, count: int) -> NDArray[np.float64] | None:
        for source in reversed(sources):
            value = source.get(name)
            if value is not None and value != "":
                numbers = np.asarray(value, float)
                if numbers.shape != (count,) or not np.isfinite(numbers).all():
                    raise ValueError(f"{name} must be {count} numbers, got {value}")
                return numbers
        return None

    cosines, spacing = last("ImageOrientationPatient", 6), last("PixelSpacing", 2)
    if spacing is None:
        spacing = last("ImagerPixelSpacing", 2)
    if spacing is not None and not (spacing > 0).all():
        raise ValueError(f"PixelSpacing must be positive, got {list(spacing)}")
    between = (1.0, 1.0) if spacing is None else (float(spacing[1]), float(spacing[0]))
    axes = None if cosines is None else cosines.reshape(2, 3).T
    if axes is not None and not np.allclose(axes.T @ axes, np.eye(2), atol=_PARALLEL):
        raise ValueError(f"ImageOrientationPatient must be two unit vectors, got {cosines}")
    size = (int(header.Columns), int(header.Rows))
    return Slice(path, frame, header, last("ImagePositionPatient", 3), axes, size, between)


def _chosen(path: Path, slices: Sequence[Slice], series: str) -> list[Slice]:
    """Return the slices of the chosen series, or of the only one."""
    groups: dict[str, list[Slice]] = {}
    for part in slices:
        groups.setdefault(str(part.header.get("SeriesInstanceUID", "")), []).append(part)
    if not series and len(groups) == 1:
        return list(slices)
    fitting = [group for uid, group in groups.items() if series and _fits(group[0], uid, series)]
    if len(fitting) == 1:
        return fitting[0]
    known = "; ".join(_described(group) for group in itertools.islice(groups.values(), 12))
    more = f"; and {len(groups) - 12} more" if len(groups) > 12 else ""
    got = f"{len(fitting)} that fit '{series}' of" if series else "these"
    raise InputError(
        f"a folder must hold one DICOM series or one must be chosen, got {got} {len(groups)} in "
        f"{path}: {known}{more}. Choose one by number, UID or begin of its description: option "
        "folder.series, or --series of `semisam predict`."
    )


def _fits(part: Slice, uid: str, series: str) -> bool:
    header = part.header
    number = str(header.get("SeriesNumber", "") or "")
    description = str(header.get("SeriesDescription", "") or "")
    return series in (uid, number) or description.casefold().startswith(series.casefold())


def _described(group: Sequence[Slice]) -> str:
    header = group[0].header
    number = header.get("SeriesNumber", "") or ""
    description = header.get("SeriesDescription", "") or ""
    name = f"{number} {description}".strip() or str(header.get("SeriesInstanceUID", "without UID"))
    return f"{name} ({_count(len(group), 'slice')})"


def _check_complete(slices: Sequence[Slice]) -> None:
    """Refuse a file that ends before its last pixel, which would be filled."""
    for path, group in itertools.groupby(slices, key=lambda part: part.path):
        header = next(group).header
        values = int(header.Rows) * int(header.Columns) * int(header.get("SamplesPerPixel", 1) or 1)
        frames = int(header.get("NumberOfFrames", 1) or 1)
        with path.open("rb") as file:
            whole = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=[])
            left = path.stat().st_size - file.tell()
        syntax = getattr(whole, "file_meta", pydicom.Dataset()).get("TransferSyntaxUID")
        known = UID(syntax) if syntax else ImplicitVRLittleEndian
        head = 8 if known.is_implicit_VR else 12  # of the element with the pixels
        packed = known.is_compressed or known.is_deflated
        need = head + frames * values * int(header.get("BitsAllocated", 16)) // 8
        if left < (head if packed else need):
            raise InputError(
                f"a DICOM file must be complete, got {path}, which ends before its last pixel. "
                "Copy or export it again."
            )


def _stack(path: Path, slices: list[Slice]) -> Stack:
    """Check that slices are one plain stack, and sort them."""
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
        return Stack((slices[0],), (*slices[0].spacing, 1.0), (0.0,) * 3, tuple(np.eye(3).ravel()))
    blind = [part for part in slices if part.position is None or part.axes is None]
    if blind:
        raise InputError(
            f"each slice must state its position and orientation, got none in {_names(blind)}. "
            "Export the original images, or give the volume as NIfTI."
        )
    seen: list[NDArray[np.float64]] = []
    _agree(slices, "parallel", lambda part: _alike(part.axes, seen))
    _agree(slices, "of one size", lambda part: f"{part.size[0]} x {part.size[1]}")
    _agree(slices, "of one pixel spacing", lambda part: _mm(part.spacing))
    axes = slices[0].axes
    assert axes is not None
    normal = np.cross(axes[:, 0], axes[:, 1])
    points = np.stack([part.position for part in slices if part.position is not None])
    depths = points @ normal
    order = np.argsort(depths, kind="stable")
    ordered, depths, points = [slices[n] for n in order], depths[order], points[order]
    step = _step(path, ordered, depths)
    aside = (points - points[0]) @ axes / slices[0].spacing
    if np.abs(aside).max() > _SHIFT:
        raise InputError(
            f"slices must lie one above the other, got {path}, whose slices are shifted by up to "
            f"{np.abs((points - points[0]) @ axes).max():.1f} mm, as by a tilted gantry. Convert "
            "the series with dcm2niix, which corrects the tilt, and give the NIfTI file."
        )
    matrix = np.column_stack([axes, normal])
    origin = tuple(float(x) for x in points[0])
    spacing = (*slices[0].spacing, step)
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
            f"slices must be evenly spaced, got {_count(len(wrong), 'step')} other than "
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
    for tag, name in _APART:
        counts = Counter(_text(part, tag) for part in slices)
        if len(counts) > 1 and _text(slices[first], tag) != _text(slices[first + 1], tag):
            parts = [f"{value or 'none'}: {n}" for value, n in sorted(counts.items())]
            listed = ", ".join(parts[:6]) + (", ..." if len(parts) > 6 else "")
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
            f"all slices of a series must be {rule}, got {_count(len(odd), 'slice')} that differ "
            f"from the other {len(slices) - len(odd)}: {_names(odd)}. Put them into a folder of "
            "their own or remove them."
        )


def _alike(axes: NDArray[np.float64] | None, seen: list[NDArray[np.float64]]) -> str:
    """Return the number of the first orientation seen that equals this one, and keep a new one."""
    assert axes is not None
    for number, known in enumerate(seen):
        if np.allclose(axes, known, atol=_PARALLEL):
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


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _mm(values: Sequence[float]) -> str:
    return " x ".join(f"{value:.4g}" for value in values)
