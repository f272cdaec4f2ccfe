"""DICOM series: the headers are checked by pydicom before SimpleITK reads a voxel.

A folder of DICOM files is one volume only if its slices are one plain stack: parallel, of one size,
one at each position, evenly spaced along their normal. ITK reads any sorted list as if it were one.
Here everything else is refused with a sentence that names the files. Positions are in DICOM's
patient coordinates (LPS), which are ITK's.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK
from numpy.typing import NDArray
from pydicom.uid import UID, ImplicitVRLittleEndian

from semisam.core.errors import InputError, first_line
from semisam.data.images.names import itk_name
from semisam.data.images.stacks import APART, PARALLEL, Slice, Stack, count_of, stack_of

sitk: Any = SimpleITK  # its functions carry no types

_DEPTH = 6  # folders below a case's folder that are searched
_LOOKED_AT = 100  # files of a folder without DICOM that are opened
_HEAD = 132  # bytes of preamble and mark


_TAGS = [
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription"),
    *("PatientID", "Modality", "ImageType", "NumberOfFrames", "Rows", "Columns", "PixelSpacing"),
    *("ImagerPixelSpacing", "SpacingBetweenSlices", "SliceThickness", "SamplesPerPixel"),
    *("BitsAllocated", "ImagePositionPatient", "ImageOrientationPatient"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *(tag for tag, _ in APART),
]


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


def is_series(folder: Path, *, below: bool = True) -> bool:
    """Return whether a folder holds a DICOM file.

    Args:
        folder: to look into.
        below: look into folders below it, too.
    """
    return next(_files(folder, _DEPTH if below else 0), None) is not None


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
    with _readable(path):
        chosen = _chosen(path, slices, series)
        _check_files(chosen)
        return stack_of(path, chosen)


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
            image = sitk.ReadImage(itk_name(part.path), sitk.sitkFloat32, "GDCMImageIO")
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
    failed, found = 0, False
    for entry in entries:
        looks = found or failed < _LOOKED_AT
        if looks and entry.is_file() and entry.name.upper() != "DICOMDIR":
            if is_dicom(entry):
                found = True
                yield entry
            else:
                failed += 1
    for entry in entries if depth else ():
        if entry.is_dir() and not entry.is_symlink():
            yield from _files(entry, depth - 1)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn any error about the headers of a file or a folder into a sentence."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # a damaged header may raise anything
        reason = first_line(error)
        raise InputError(
            f"a DICOM file must have a readable header, got {path} ({reason}). Copy it again, or "
            "remove it from the folder."
        ) from error


def _slices(path: Path) -> list[Slice]:
    """Return the slices of a file; none if it is not an image."""
    with _readable(path):
        with path.open("rb") as file:
            header = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=_TAGS)
            left = path.stat().st_size - file.tell()
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
        return [_slice(path, n, header, groups, shared, left) for n in range(frames)]


def _slice(
    path: Path, frame: int, header: pydicom.Dataset, groups: Any, shared: Any, left: int
) -> Slice:
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
    between = None if spacing is None else (float(spacing[1]), float(spacing[0]))
    axes = None if cosines is None else cosines.reshape(2, 3).T
    if axes is not None and not np.allclose(axes.T @ axes, np.eye(2), atol=PARALLEL):
        raise ValueError(f"ImageOrientationPatient must be two unit vectors, got {cosines}")
    size = (int(header.Columns), int(header.Rows))
    return Slice(path, frame, header, last("ImagePositionPatient", 3), axes, size, between, left)


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
    return f"{name} ({count_of(len(group), 'slice')})"


def _check_files(slices: Sequence[Slice]) -> None:
    """Refuse a name that is not UTF-8, and a file that ends before its last pixel."""
    for path, group in itertools.groupby(slices, key=lambda part: part.path):
        itk_name(path)
        first = next(group)
        header = first.header
        values = int(header.Rows) * int(header.Columns) * int(header.get("SamplesPerPixel", 1) or 1)
        frames = int(header.get("NumberOfFrames", 1) or 1)
        syntax = getattr(header, "file_meta", pydicom.Dataset()).get("TransferSyntaxUID")
        known = UID(syntax) if syntax else ImplicitVRLittleEndian
        head = 8 if known.is_implicit_VR else 12  # of the element with the pixels
        packed = known.is_compressed or known.is_deflated
        need = head + frames * values * int(header.get("BitsAllocated", 16)) // 8
        if first.left < (head if packed else need):
            raise InputError(
                f"a DICOM file must be complete, got {path}, which ends before its last pixel. "
                "Copy or export it again."
            )
