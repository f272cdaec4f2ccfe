"""Image headers, and checks of their claims before a voxel is read.

A header of a few bytes may claim a petabyte, or name a data file anywhere on the disk. Both are
refused here, before memory is allocated or another file is opened.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import SimpleITK

from semisam.core.errors import InputError
from semisam.data.images.dicom import is_dicom, read_stack

sitk: Any = SimpleITK  # its functions carry no types

_INFLATION = 1100  # deflate expands a byte to at most 1032 bytes
_DEFLATED = (".nii", ".nii.gz", ".hdr", ".mhd", ".mha")  # NRRD may use bzip2, which has no bound
_TEXT_HEADERS = (".mhd", ".mha", ".nrrd", ".nhdr")
_LONGEST_HEADER = 1 << 20


@dataclass(frozen=True)
class Header:
    """Size and place of an image, without its voxels.

    Attributes:
        size: voxels per axis of the file.
        spacing: mm per axis.
        components: values per voxel.
        bytes_per_value: as stored.
    """

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    direction: tuple[float, ...]
    components: int
    bytes_per_value: int

    @property
    def values(self) -> int:
        """Numbers in the image."""
        return math.prod(self.size) * self.components


def read_header(path: Path, series: str = "") -> Header:
    """Read the header of an image file, or of a folder with a DICOM series.

    Args:
        path: the file or the folder.
        series: choice of a DICOM series, as of `dicom.read_stack`.

    Raises:
        InputError: the file is missing or unreadable, the header names data elsewhere, or it claims
            more voxels than the file or the memory can hold.
    """
    if not path.exists():
        raise InputError(
            f"the path must be an image file or a DICOM folder, got {path}, which does not exist."
        )
    try:
        dicom = path.is_dir() or is_dicom(path)
        header = _dicom_header(path, series) if dicom else _file_header(path)
    except RuntimeError as error:
        raise unreadable(path, error) from error
    need, free = 4 * header.values, psutil.virtual_memory().available  # read as float32
    if need > free:
        raise InputError(
            f"the image must fit into memory, got {path}, whose header claims "
            f"{_shape(header)} ({need / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free). Check "
            "the file, or crop or resample it."
        )
    return header


def unreadable(path: Path, error: Exception) -> InputError:
    """Return the `InputError` for an error of SimpleITK about a file."""
    reason = str(error).strip().splitlines()[-1].removeprefix("ITK ERROR: ")
    return InputError(
        f"the image must be readable, got {path}, which SimpleITK refuses ({reason}). It may be "
        "truncated or damaged: copy it again, or convert it to NIfTI."
    )


def _file_header(path: Path) -> Header:
    stored = path.stat().st_size + _detached_bytes(path)
    reader = _opened(str(path))
    header = _header_of(reader)
    claimed = header.values * header.bytes_per_value
    if path.name.lower().endswith(_DEFLATED) and claimed > stored * _INFLATION:
        raise InputError(
            f"the file must be complete, got {path}, whose header claims {_shape(header)}, more "
            f"than its {stored} bytes can hold. Copy or download it again."
        )
    return header


def _dicom_header(path: Path, series: str) -> Header:
    stack = read_stack(path, series)
    return Header(stack.size, stack.spacing, stack.direction, 1, stack.bytes_per_value)


def _opened(name: str) -> Any:
    reader = sitk.ImageFileReader()
    reader.SetFileName(name)
    reader.ReadImageInformation()
    return reader


def _header_of(reader: Any) -> Header:
    size = tuple(int(n) for n in reader.GetSize())
    kind = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    digits = "".join(c for c in kind if c.isdigit())
    spacing = tuple(float(s) for s in reader.GetSpacing())
    ndim, axes = len(size), min(len(size), 3)
    cosines = reader.GetDirection()
    direction = tuple(cosines[ndim * row + column] for row in range(axes) for column in range(axes))
    components = int(reader.GetNumberOfComponents())
    return Header(size, spacing, direction, components, int(digits or 32) // 8)


def _detached_bytes(path: Path) -> int:
    """Return the size of a header's data file, or 0 if the data follow the header.

    Raises:
        InputError: the header names something other than a file in its own folder.
    """
    name = path.name.lower()
    if name.endswith(".hdr"):
        beside = [path.with_suffix(end) for end in (".img", ".img.gz")]
        return sum(p.stat().st_size for p in beside if p.is_file())
    if not name.endswith(_TEXT_HEADERS):
        return 0
    data = _data_file(path)
    if data is None:
        return 0
    inside = data not in ("", ".", "..") and not any(c in data for c in "/\\:") and "%" not in data
    if not inside or data.split()[0].upper() == "LIST":
        raise InputError(
            f"a header must name one data file in its own folder, got '{data}' in {path}. Write "
            "header and data as one file, for example as NIfTI."
        )
    beside_it = path.parent / data
    return beside_it.stat().st_size if beside_it.is_file() else 0


def _data_file(path: Path) -> str | None:
    """Return the data file that a MetaImage or NRRD header names, or ``None`` for its own."""
    with path.open("rb") as file:
        text = file.read(_LONGEST_HEADER)
    is_nrrd = text.startswith(b"NRRD")
    for line in text.split(b"\n"):
        if is_nrrd and not line.strip():
            return None  # the voxels begin here
        key, mark, value = line.partition(b":" if is_nrrd else b"=")
        key = key.strip().lower().replace(b" ", b"")
        if mark and key in (b"datafile", b"elementdatafile"):
            name = os.fsdecode(value.strip())
            return None if name.upper() == "LOCAL" else name
    return None


def _shape(header: Header) -> str:
    return " x ".join(map(str, header.size))
