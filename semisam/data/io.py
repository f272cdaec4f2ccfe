"""Reading and writing of scans with their geometry, through SimpleITK.

Arrays are indexed (i, j, k) = (x, y, z), as in the published h5 files; SimpleITK's own arrays are
the other way round.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from numpy.typing import NDArray

from semisam.errors import InputError
from semisam.files import replace_file

sitk: Any = SimpleITK  # its functions carry no types


@dataclass(frozen=True)
class Geometry:
    """Where a volume lies in space.

    Attributes:
        spacing: mm per array axis i, j, k.
        origin: position of voxel (0, 0, 0) in mm; ``None``: unknown.
        direction: row-major ``d x d``, its columns the directions of the array axes; ``None``:
            unknown.
    """

    spacing: tuple[float, ...]
    origin: tuple[float, ...] | None = None
    direction: tuple[float, ...] | None = None


def write_nifti(path: Path, array: NDArray[Any], geometry: Geometry) -> None:
    """Write a labelmap or a probability map ``(i, j, k)`` as NIfTI, beside and renamed.

    Args:
        path: ends in ``.nii`` or ``.nii.gz``.
        array: in index order.
        geometry: of the array; unknown parts are left at SimpleITK's defaults.
    """
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    image.SetSpacing([float(s) for s in geometry.spacing])
    if geometry.origin is not None:
        image.SetOrigin([float(x) for x in geometry.origin])
    if geometry.direction is not None:
        image.SetDirection([float(x) for x in geometry.direction])
    with replace_file(path) as temporary:
        # SimpleITK chooses the format by the ending, which a temporary name does not have.
        ending = ".nii.gz" if path.name.endswith(".gz") else ".nii"
        named = temporary.with_name(temporary.name + ending)
        try:
            sitk.WriteImage(image, str(named), useCompression=ending == ".nii.gz")
            named.replace(temporary)
        finally:
            named.unlink(missing_ok=True)


def read_image(path: Path) -> tuple[NDArray[np.float32], Geometry]:
    """Read any image that SimpleITK reads, or a folder with one DICOM series.

    Returns:
        The array, ``(i, j, k)`` float32, or ``(C, i, j, k)`` for an image of several components,
        and its geometry.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        image = sitk.ReadImage(_series(path) if path.is_dir() else str(path))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].split(": ", 1)[-1]
        raise InputError(
            f"an image that SimpleITK reads (NIfTI, NRRD, MHA, DICOM folder) is required, got "
            f"{path} ({reason}): check the file"
        ) from None
    array = sitk.GetArrayFromImage(image)
    if image.GetNumberOfComponentsPerPixel() > 1:
        array = np.moveaxis(array, -1, 0)
        array = array.transpose(0, *range(array.ndim - 1, 0, -1))
    else:
        array = array.T
    geometry = Geometry(image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    return np.ascontiguousarray(array, dtype=np.float32), geometry


def _series(folder: Path) -> tuple[str, ...]:
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    if not names:
        raise InputError(
            f"a folder must hold a DICOM series, got {folder} without one: name a file in it"
        )
    return tuple(names)
