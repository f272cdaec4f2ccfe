"""Image files, read by nibabel, Pillow, pydicom and SimpleITK, and written as NIfTI or PNG.

Arrays are indexed ``(i, j, k)`` = (x, y, z), the order of the file's own axes. SimpleITK's arrays
are (z, y, x); that order stays inside this file.
"""

from __future__ import annotations

import glob
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from numpy.typing import NDArray

from semisam.core.errors import InputError
from semisam.core.files import replace_file
from semisam.data.images.dicom import is_dicom, read_stack, read_voxels
from semisam.data.images.headers import (
    check_memory,
    header_of_stack,
    image_reader,
    read_header,
    unreadable,
)
from semisam.data.images.nifti import (
    ENDINGS,
    NiftiSpace,
    read_nifti,
    read_nifti_header,
    write_nifti_image,
)
from semisam.data.images.pictures import is_picture, read_picture, write_mask

sitk: Any = SimpleITK  # its functions carry no types

_NIFTI = (".nii", ".nii.gz")


_HEADERS = {".mhd", ".nhdr", ".hdr", ".img"}  # of images whose voxels are in a further file


@dataclass(frozen=True)
class Geometry:
    """The place of an array's voxels in the patient, in ITK's (LPS) coordinates.

    Attributes:
        spacing: mm per voxel along each axis ``(i, j, k)`` of the array.
        origin: mm, the centre of voxel ``(0, 0, 0)``; ``None`` is zero.
        direction: row-major ``d * d`` cosines whose columns are the array axes; ``None`` is the
            identity.
        nifti: the transforms of the NIfTI file that it was read from, to write a mask with the
            same.
    """

    spacing: tuple[float, ...]
    origin: tuple[float, ...] | None = None
    direction: tuple[float, ...] | None = None
    nifti: NiftiSpace | None = None

    def __post_init__(self) -> None:
        ndim = len(self.spacing)
        if ndim not in (2, 3) or not all(0 < s < math.inf for s in self.spacing):
            raise InputError(f"spacing must be 2 or 3 positive mm, got {self.spacing}.")
        if self.origin is not None and len(self.origin) != ndim:
            raise InputError(f"origin must have {ndim} numbers as spacing has, got {self.origin}.")
        if self.direction is not None:
            _check_direction(self.direction, ndim)


PIXELS = Geometry((1.0, 1.0))
"""The place of a picture, whose unit of length is a pixel."""


def read_image(
    path: str | os.PathLike[str], *, stacked: bool = False, series: str = ""
) -> tuple[NDArray[np.float32], Geometry]:
    """Read a scan of any format that SimpleITK knows, a picture, or a folder of a DICOM series.

    Args:
        path: the file or the folder.
        stacked: treat a fourth axis as channels, as in the Medical Segmentation Decathlon.
        series: choice of a DICOM series, as of `dicom.read_stack`.

    Returns:
        ``(i, j, k)`` float32 (``(i, j)`` of a 2-D file), or ``(C, i, j, k)`` of an image with
        several values per voxel, and its geometry.

    Raises:
        InputError: the file does not exist, is not a readable 2-D or 3-D real image, or its header
            claims more than the file or the memory can hold.
    """
    path = Path(path)
    try:
        if path.is_dir() or is_dicom(path):
            stack = read_stack(path, series)
            check_memory(path, header_of_stack(stack))
            image = read_voxels(stack)
        else:
            read_header(path)
            if path.name.lower().endswith(ENDINGS):
                return _from_nifti(path, stacked)
            if is_picture(path):
                return read_picture(path), PIXELS
            image = image_reader(path).Execute()
    except (RuntimeError, MemoryError) as error:
        raise unreadable(path, error) from error
    ndim = image.GetDimension()
    if (ndim not in (2, 3) and not (stacked and ndim == 4)) or "complex" in (
        image.GetPixelIDTypeAsString()
    ):
        raise _odd_axes(path, image.GetSize(), image.GetPixelIDTypeAsString())
    try:
        return from_itk(image)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def from_itk(image: Any) -> tuple[NDArray[np.float32], Geometry]:
    """Return the voxels of a SimpleITK image and their place; a fourth axis becomes channels.

    Returns:
        ``(i, j, k)`` or ``(i, j)`` float32, or ``(C, *S)`` with several values per voxel, and the
        geometry.

    Raises:
        InputError: the geometry is not one of an image.
    """
    # Reversing every axis turns (z, y, x) into (x, y, z), and (z, y, x, C) into (C, x, y, z).
    array = sitk.GetArrayViewFromImage(image).T
    spacing, origin, direction = image.GetSpacing(), image.GetOrigin(), image.GetDirection()
    if image.GetDimension() == 4:
        array = np.moveaxis(array, -1, 0)
        spacing, origin = spacing[:3], origin[:3]
        direction = tuple(direction[4 * row + column] for row in range(3) for column in range(3))
    return np.array(array, np.float32, order="C"), Geometry(spacing, origin, direction)


def to_itk(array: NDArray[Any], geometry: Geometry) -> Any:
    """Return an array ``(*S)`` or ``(C, *S)`` with its place as a SimpleITK image.

    Raises:
        InputError: the shape does not fit the geometry.
    """
    values = _checked(np.asarray(array), geometry)
    channels = values.ndim > len(geometry.spacing)
    image = sitk.GetImageFromArray(np.ascontiguousarray(values.T), isVector=channels)
    image.SetSpacing([float(x) for x in geometry.spacing])
    if geometry.origin is not None:
        image.SetOrigin([float(x) for x in geometry.origin])
    if geometry.direction is not None:
        image.SetDirection([float(x) for x in geometry.direction])
    return image


def write_nifti(path: str | os.PathLike[str], array: NDArray[Any], geometry: Geometry) -> None:
    """Write a label or an image as NIfTI, atomically.

    Args:
        path: ends in ``.nii`` or ``.nii.gz`` (compressed); its folder exists.
        array: ``(i, j, k)`` or ``(i, j)``, or with channels ``(C, *S)``. Booleans and integers are
            stored in the smallest integer type that holds them, floats as float32.
        geometry: place of the voxels. NIfTI stores it in float32.

    Raises:
        InputError: the name, the folder, the shape or the type does not fit.
    """
    path = Path(path)
    suffix = next((s for s in reversed(_NIFTI) if path.name.endswith(s)), None)
    if suffix is None:
        raise InputError(f"the name must end in .nii or .nii.gz, got {path.name}.")
    if not path.parent.is_dir():
        raise InputError(f"the folder must exist, got {path.parent}. Create it first.")
    values = _checked(np.asarray(array), geometry)
    try:
        with replace_file(path, suffix) as temporary:  # nibabel compresses by the ending
            write_nifti_image(temporary, values, _ras(geometry), geometry.nifti)
    except OSError as error:
        raise InputError(f"the path must be writable, got {path} ({error}).") from error


def mask_ending(source: Path) -> str:
    """Return the ending of the mask of an image: PNG for a picture, else NIfTI."""
    return ".png" if is_picture(source) else ".nii.gz"


def write_label(
    path: str | os.PathLike[str], label: NDArray[np.integer], geometry: Geometry
) -> None:
    """Write a label map ``(*S)`` as a PNG if the name says so, and else as `write_nifti` does.

    Raises:
        InputError: the name, the folder, the shape or the type does not fit.
    """
    path = Path(path)
    if label.ndim == 2 and path.name.lower().endswith(".png"):
        write_mask(path, label)
    else:
        write_nifti(path, label, geometry)


def _ras(geometry: Geometry) -> NDArray[np.float64]:
    """Return the 4 x 4 transform from voxels to RAS in mm."""
    axes, affine = len(geometry.spacing), np.eye(4)
    matrix = (
        np.eye(axes) if geometry.direction is None else np.reshape(geometry.direction, (axes,) * 2)
    )
    affine[:axes, :axes] = matrix * geometry.spacing
    affine[:axes, 3] = 0.0 if geometry.origin is None else geometry.origin
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def _from_nifti(path: Path, stacked: bool) -> tuple[NDArray[np.float32], Geometry]:
    header = read_nifti_header(path)
    axes = len(header.size)
    if axes == 4 and not stacked:
        raise _odd_axes(path, header.size, "values")
    array = read_nifti(path, header)
    if axes == 4:
        array = np.ascontiguousarray(np.moveaxis(array, -1, 0))
    spacing = header.spacing[: min(axes, 3)]
    return array, Geometry(spacing, header.origin, header.direction, header.space)


def _odd_axes(path: Path, size: tuple[int, ...], kind: str) -> InputError:
    return InputError(
        f"an image must be real and have 2 or 3 axes, got {kind} of size {size} in {path}. Write "
        "one file per time point or part."
    )


def _check_direction(direction: tuple[float, ...], ndim: int) -> None:
    if len(direction) != ndim * ndim:
        raise InputError(f"direction must have {ndim * ndim} numbers, got {len(direction)}.")
    matrix = np.asarray(direction, dtype=np.float64).reshape(ndim, ndim)
    if not np.allclose(matrix.T @ matrix, np.eye(ndim), atol=1e-4):
        raise InputError(
            f"the columns of direction must be orthogonal unit vectors, got {direction}. "
            "Resample a sheared image first."
        )


def _checked(array: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    """Return an array in a type that files store, if its axes fit the geometry."""
    ndim = len(geometry.spacing)
    if array.ndim not in (ndim, ndim + 1) or array.size == 0:
        raise InputError(
            f"the array must have the {ndim} axes of the geometry, or channels before them, "
            f"got shape {array.shape}."
        )
    return _storable(array)


def _storable(array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype.kind == "f":
        return array.astype(np.float32, copy=False)
    if array.dtype.kind not in "biu":
        raise InputError(f"the array must be of bool, int or float, got {array.dtype}.")
    low, high = int(array.min()), int(array.max())
    for kind in (np.uint8, np.int16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return array.astype(kind, copy=False)
    raise InputError(f"integers must fit 32 bits, got values from {low} to {high}.")


def parts_of(paths: Iterable[Path]) -> list[Path]:
    """Return all files that hold an image: those of a folder, and the data next to a header."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(part for part in path.rglob("*") if part.is_file())
        elif path.suffix.lower() in _HEADERS:
            found += sorted(path.parent.glob(f"{glob.escape(path.stem)}.*"))
        else:
            found.append(path)
    return found
