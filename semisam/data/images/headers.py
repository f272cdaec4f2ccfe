"""Image headers, and checks of their claims before a voxel is read.

A header of a few bytes may claim a petabyte, or name a data file anywhere on the disk. Both are
refused here, before memory is allocated or another file is opened.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import SimpleITK
from PIL import Image

from semisam.core.errors import InputError
from semisam.data.images.dicom import is_dicom, read_stack
from semisam.data.images.names import itk_name
from semisam.data.images.nifti import ENDINGS, read_nifti_header
from semisam.data.images.pictures import count_pages, is_picture, picture_size
from semisam.data.images.stacks import Stack

sitk: Any = SimpleITK  # its functions carry no types

_INFLATION = 1100  # deflate expands a byte to at most 1032 bytes
_DEFLATED = (".nii", ".nii.gz", ".hdr", ".mhd", ".mha")  # NRRD may use bzip2, which has no bound
_NRRD, _META = (".nrrd", ".nhdr"), (".mhd", ".mha")
_LONGEST_HEADER = 1 << 20
_GIPL_HEADER = 256  # bytes
_STRIPS, _STRIP_BYTES = 273, 279  # tags of a TIFF page

_READERS = {
    **dict.fromkeys(_NRRD, "NrrdImageIO"),
    **dict.fromkeys(_META, "MetaImageIO"),
    **dict.fromkeys((".gipl", ".gipl.gz"), "GiplImageIO"),
    **dict.fromkeys((".tif", ".tiff"), "TIFFImageIO"),
    **dict.fromkeys((".jpg", ".jpeg"), "JPEGImageIO"),
    ".png": "PNGImageIO",
    ".bmp": "BMPImageIO",
}
"""ITK's reader of each ending; chosen by content, a file could pass for another."""


@dataclass(frozen=True)
class Header:
    """Size and place of an image, without its voxels.

    Attributes:
        size: voxels per axis of the file.
        spacing: mm per axis.
        direction: row-major cosines whose columns are the axes.
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
        header = header_of_stack(read_stack(path, series)) if dicom else _file_header(path)
    except (RuntimeError, MemoryError) as error:
        raise unreadable(path, error) from error
    check_memory(path, header)
    return header


def check_memory(path: Path, header: Header) -> None:
    """Refuse an image that does not fit into the free memory.

    Raises:
        InputError: it does not fit.
    """
    need, free = 4 * header.values, psutil.virtual_memory().available  # read as float32
    if need > free:
        raise InputError(
            f"the image must fit into memory, got {path}, whose header claims "
            f"{_shape(header)} ({need / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free). Check "
            "the file, or crop or resample it."
        )


def unreadable(path: Path, error: Exception) -> InputError:
    """Return the `InputError` for an error of SimpleITK about a file."""
    reason = (str(error) or "out of memory").strip().splitlines()[-1].removeprefix("ITK ERROR: ")
    return InputError(
        f"the image must be readable, got {path}, which SimpleITK refuses ({reason}). It may be "
        "truncated or damaged: copy it again, or convert it to NIfTI."
    )


def image_reader(path: Path) -> Any:
    """Return a SimpleITK reader of a file that is neither NIfTI nor DICOM.

    Raises:
        InputError: the ending is not one of a known format, or the name is not UTF-8.
    """
    name = path.name.lower()
    ending = next((e for e in sorted(_READERS, key=len, reverse=True) if name.endswith(e)), None)
    if ending is None:
        remedy = "Convert it with mnc2nii." if name.endswith(".mnc") else "Convert it to NIfTI."
        known = ", ".join((*ENDINGS, *_READERS))
        raise InputError(f"an image must be DICOM or end in one of {known}, got {path}. {remedy}")
    reader = sitk.ImageFileReader()
    reader.SetImageIO(_READERS[ending])
    reader.SetFileName(itk_name(path))
    return reader


def _file_header(path: Path) -> Header:
    stored = path.stat().st_size + _detached_bytes(path)
    if path.name.lower().endswith(ENDINGS):
        found = read_nifti_header(path)
        size, spacing, direction = found.size, found.spacing, found.direction
        header = Header(size, spacing, direction, found.components, found.bytes_per_value)
    elif is_picture(path):
        pixels, channels, value = picture_size(path)
        header = Header(pixels, (1.0, 1.0), (1.0, 0.0, 0.0, 1.0), channels, value)
    else:
        reader = image_reader(path)
        reader.ReadImageInformation()
        header = _header_of(reader)
    claimed = header.values * header.bytes_per_value
    if path.name.lower().endswith(_DEFLATED) and claimed > stored * _INFLATION:
        raise InputError(
            f"the file must be complete, got {path}, whose header claims {_shape(header)}, more "
            f"than its {stored} bytes can hold. Copy or download it again."
        )
    if not _is_whole(path, claimed):
        raise InputError(
            f"the file must be complete, got {path}, which ends before its last voxel. Copy or "
            "download it again."
        )
    return header


def _is_whole(path: Path, claimed: int) -> bool:
    """Return whether a file holds its voxels, of the formats whose missing part ITK fills."""
    name = path.name.lower()
    if name.endswith((".tif", ".tiff")):
        return _has_all_pages(path)
    if name.endswith(".gipl"):
        return path.stat().st_size >= _GIPL_HEADER + claimed
    if name.endswith(".gipl.gz"):
        try:
            with gzip.open(path, "rb") as file:
                file.seek(_GIPL_HEADER + claimed - 1)
                return len(file.read(1)) == 1
        except (EOFError, OSError, zlib.error):
            return False
    return True


def _has_all_pages(path: Path) -> bool:
    """Return whether the chain of a TIFF's pages, and the pixels of each, lie inside the file."""
    size = path.stat().st_size
    try:
        pages = count_pages(path)
        with Image.open(path, formats=("TIFF",)) as opened:
            image: Any = opened
            for page in range(pages):
                image.seek(page)
                offsets, counts = (image.tag_v2.get(tag, ()) for tag in (_STRIPS, _STRIP_BYTES))
                if any(a + n > size for a, n in zip(offsets, counts, strict=False)):
                    return False
    except Exception:  # a damaged page may raise anything
        return False
    return True


def header_of_stack(stack: Stack) -> Header:
    """Return the header of the volume that the slices of a DICOM series are."""
    return Header(stack.size, stack.spacing, stack.direction, 1, stack.bytes_per_value)


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
        names = (f"{name[:-4]}.img", f"{name[:-4]}.img.gz")
        beside = [p for p in path.parent.iterdir() if p.name.lower() in names]
        return sum(_own_bytes(path, p) for p in beside)
    if not name.endswith((*_NRRD, *_META)):
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
    return _own_bytes(path, path.parent / data)


def _own_bytes(header: Path, data: Path) -> int:
    """Return the size of a data file, which must not be a link to another place."""
    if data.is_symlink():
        raise InputError(
            f"a header must name a file in its own folder, got {data.name}, a link, in {header}. "
            "Copy the data there."
        )
    return data.stat().st_size if data.is_file() else 0


def _data_file(path: Path) -> str | None:
    """Return the data file that a MetaImage or NRRD header names, or ``None`` for its own.

    Raises:
        InputError: the header has no end, or lines that ITK may end elsewhere.
    """
    with path.open("rb") as file:
        text = file.read(_LONGEST_HEADER)
    is_nrrd = path.name.lower().endswith(_NRRD)
    found, ended = None, False
    for whole in text.split(b"\n"):
        line = whole.removesuffix(b"\r")
        if is_nrrd and not line:
            ended = True  # the voxels begin here
            break
        if b"\r" in line:
            raise InputError(
                f"the lines of a header must end in a newline, got a carriage return in {path}. "
                "Write the file again, for example as NIfTI."
            )
        key = line.strip().lower().replace(b" ", b"").replace(b"\t", b"")
        if is_nrrd:
            _check_spacing(path, line, text)
        if key.startswith(b"datafile" if is_nrrd else b"elementdatafile"):
            _, _, rest = line.lower().partition(b"file")
            name = os.fsdecode(line[len(line) - len(rest) :].strip(b" \t=:"))
            if name.upper() != "LOCAL":
                found = name
            if not is_nrrd:
                ended = True  # MetaImage: the last line of a header
                break
    if not ended and len(text) == _LONGEST_HEADER:
        raise InputError(
            f"a header must be at most {_LONGEST_HEADER >> 20} MiB long, got {path}. Write the "
            "file again, for example as NIfTI."
        )
    return found


def _check_spacing(path: Path, line: bytes, header: bytes) -> None:
    """Refuse a spacing of NRRD that ITK replaces by 1 mm, or takes for mm.

    NaN is right for an axis that is not in space, for example one of channels.
    """
    key, _, value = line.lower().partition(b":")
    words = value.decode("latin-1").replace('"', " ").split()
    if key == b"spacings":
        outside = sum(kind not in ("domain", "space") for kind in _nrrd_kinds(header))
        odd = sum(not math.isfinite(float(word)) for word in words if _is_number(word))
        if odd > outside:
            raise InputError(
                f"the spacing of a scan must be finite, got {' '.join(words)} in {path}. Write the "
                "header again with the spacing in mm."
            )
    if key == b"space units" and set(words) - {"mm", "millimeters", "millimetres"}:
        raise InputError(
            f"the units of a scan must be mm, got {' '.join(words)} in {path}. Write the header "
            "again in mm."
        )


def _nrrd_kinds(header: bytes) -> list[str]:
    """Return what the axes of an NRRD file are; nothing if it does not say."""
    lines = header.lower().split(b"\n\n")[0].split(b"\n")
    found = next((line for line in lines if line.startswith(b"kinds:")), b"kinds:")
    return found.partition(b":")[2].decode("latin-1").split()


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _shape(header: Header) -> str:
    return " x ".join(map(str, header.size))
