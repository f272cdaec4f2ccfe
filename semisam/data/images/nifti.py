"""NIfTI files, read and written by nibabel.

A NIfTI header has two transforms from voxels to the patient, qform and sform, in RAS coordinates.
ITK reads one of them, makes NaN zero and fills a truncated file, all without a word. nibabel reads
the file as it is, and what is ambiguous is refused here.
"""

from __future__ import annotations

import itertools
import logging
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from semisam.core.errors import InputError, first_line

nib: Any = nibabel  # its functions carry no types
# It prints every field that it corrects. What matters is checked here, and said in one sentence.
logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)

ENDINGS = (".nii", ".nii.gz", ".hdr")

_APART = 0.1  # voxels, by which a corner may lie elsewhere by the other form
_SHEARED = 0.25  # voxels, by which a corner may move if the axes are made perpendicular
_SAME = 1e-4  # relative difference of a spacing and the form's
_MM = {"meter": 1e3, "mm": 1.0, "micron": 1e-3, "unknown": 1.0}
_DAMAGED = (
    *(ImageFileError, HeaderDataError, OSError, EOFError, zlib.error, ValueError, OverflowError),
)


@dataclass(frozen=True)
class NiftiSpace:
    """The transforms of a NIfTI file, so that a mask can be written with the same.

    Attributes:
        affine: 4 x 4, row-major, from voxels to RAS in the file's unit.
        qform: code of the quaternion transform, 0 if it is not set.
        sform: code of the matrix transform, 0 if it is not set.
        unit: of the affine.
    """

    affine: tuple[float, ...]
    qform: int
    sform: int
    unit: str


@dataclass(frozen=True)
class NiftiHeader:
    """Size and place of a NIfTI image.

    Attributes:
        size: voxels per axis; a vector image has its values as ``components``.
        components: values per voxel.
        bytes_per_value: as stored.
        spacing: mm per spatial axis, then the fourth axis's step if there is one.
        origin: mm in LPS.
        direction: row-major cosines in LPS.
        space: the transforms as they stand in the file.
    """

    size: tuple[int, ...]
    components: int
    bytes_per_value: int
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]
    space: NiftiSpace


def read_nifti_header(path: Path) -> NiftiHeader:
    """Read and check the header of a NIfTI file.

    Raises:
        InputError: it is unreadable, is not NIfTI, or its transforms are ambiguous or no geometry.
    """
    image = _opened(path)
    header = image.header
    shape = tuple(int(n) for n in image.shape)
    components = 1
    if len(shape) == 5 and shape[3] == 1:
        components, shape = shape[-1], shape[:3]
    kind = header.get_data_dtype()
    if kind.names:
        components = len(kind.names)
    if len(shape) not in (2, 3, 4) or min(shape) < 1 or kind.kind == "c":
        raise InputError(
            f"an image must be real and have 2 or 3 axes, got {kind} of size {image.shape} in "
            f"{path}. Write one file per time point or part."
        )
    per_value = kind.itemsize // (components if kind.names else 1)
    space = _space(path, image, shape)
    axes = min(len(shape), 3)
    spacing, origin, direction = _geometry(path, space, header.get_zooms(), shape[:axes])
    steps = tuple(float(step) for step in header.get_zooms()[3:4]) if len(shape) == 4 else ()
    return NiftiHeader(shape, components, per_value, (*spacing, *steps), origin, direction, space)


def read_nifti(path: Path, header: NiftiHeader) -> NDArray[np.float32]:
    """Read the voxels of a file, ``(*S)``, or ``(C, *S)`` with several values per voxel.

    Raises:
        InputError: the file ends before its last voxel or is damaged.
    """
    try:
        image = _opened(path)
        stored = image.dataobj
        if image.header.get_data_dtype().names:
            raw = np.asanyarray(stored)
            voxels = np.stack([raw[name] for name in raw.dtype.names], -1).astype(np.float32)
        else:
            voxels = image.get_fdata(caching="unchanged", dtype=np.float32)
    except _DAMAGED as error:
        raise InputError(
            f"the file must be complete, got {path}, which ends before its last voxel or is "
            f"damaged ({first_line(error)}). Copy or download it again."
        ) from error
    voxels = voxels.reshape(*header.size, header.components)
    voxels = np.moveaxis(voxels, -1, 0) if header.components > 1 else voxels[..., 0]
    return np.array(voxels, np.float32, order="C")


def write_nifti_image(
    path: Path, array: NDArray[Any], affine: NDArray[np.float64], space: NiftiSpace | None
) -> None:
    """Write an array as NIfTI with both transforms, those of the scan if it is known.

    Args:
        path: ends in ``.nii`` or ``.nii.gz``.
        array: ``(*S)`` or ``(C, *S)``, of a type that NIfTI has.
        affine: 4 x 4 from voxels to RAS in mm, used without ``space``.
        space: of the scan.
    """
    axes = 3 if array.ndim >= 3 else 2
    if array.ndim > axes:  # a vector per voxel is the fifth axis
        array = np.moveaxis(array, 0, -1)[..., None, :]
    known = space or NiftiSpace(tuple(affine.ravel()), 1, 1, "mm")
    matrix = np.reshape(known.affine, (4, 4))
    image = nib.Nifti1Image(array, matrix)
    image.header.set_xyzt_units(known.unit)
    image.set_qform(matrix if known.qform else None, known.qform)
    image.set_sform(matrix if known.sform else None, known.sform)
    if array.ndim == 5:
        image.header.set_intent("vector")
    nib.save(image, path)


def _opened(path: Path) -> Any:
    """Open a file without reading its voxels."""
    try:
        odd = path.name.lower().endswith(".nii.gz") and path.suffix not in (".gz", ".GZ")
        # nibabel knows endings in lower and in upper case, but none that is mixed.
        file = {"image": nib.FileHolder(str(path))}
        image: Any = nib.Nifti1Image.from_file_map(file) if odd else nib.load(path)
        if not isinstance(image, nib.Nifti1Pair):
            raise InputError(
                f"a .hdr or .nii file must be NIfTI, got {path}, which is {type(image).__name__} "
                "and does not state its orientation. Convert it to NIfTI with the right one."
            )
        header = image.header
        _ = image.affine, image.shape, header.get_qform(coded=True), header.get_xyzt_units()
        return image
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(
            f"a .hdr file must have an .img file next to it, got {path} without one. Copy it there."
        ) from error
    except Exception as error:  # a damaged header may raise anything
        raise InputError(
            f"the image must be readable, got {path}, which nibabel refuses "
            f"({first_line(error)}). It may be truncated or damaged: copy it again."
        ) from error


def _space(path: Path, image: Any, shape: tuple[int, ...]) -> NiftiSpace:
    """Return the transform of a file, on which its two forms must agree."""
    header = image.header
    qform, qcode = header.get_qform(coded=True) if int(header["qform_code"]) else (None, 0)
    sform, scode = header.get_sform(coded=True)
    unit = header.get_xyzt_units()[0]
    affine = np.asarray(image.affine, np.float64)
    if not np.isfinite(affine).all():
        raise InputError(
            f"the transform of a scan must be finite, got NaN or infinity in the header of {path}. "
            "Write it again with a valid spacing and orientation."
        )
    if qform is not None and sform is not None and scode:
        corners = _corners(shape)
        apart = np.linalg.norm((np.asarray(qform) - sform)[:3] @ corners, axis=0).max()
        voxel = np.linalg.norm(affine[:3, :3], axis=0).min()
        if not apart <= _APART * voxel:
            raise InputError(
                f"sform and qform must agree, got {path}, where they place a voxel up to "
                f"{apart * _MM.get(unit, 1.0):.3g} mm apart (codes {int(scode)} and {int(qcode)}). "
                "Decide which is right and set the code of the other to 0."
            )
    return NiftiSpace(tuple(float(x) for x in affine.ravel()), int(qcode), int(scode or 0), unit)


def _geometry(
    path: Path, space: NiftiSpace, zooms: Any, size: tuple[int, ...]
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
    """Return spacing and origin in mm and direction, in LPS, of the spatial axes."""
    axes, scale = len(size), _MM.get(space.unit, 1.0)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.reshape(space.affine, (4, 4))
    matrix, origin = affine[:axes, :axes], affine[:axes, 3] * scale
    lengths = np.linalg.norm(matrix, axis=0)
    if not (np.isfinite(lengths).all() and (lengths > 0).all()):
        raise InputError(
            f"the spacing of a scan must be positive, got {' x '.join(f'{x:g}' for x in lengths)} "
            f"in {path}. Write the header again with the spacing in mm."
        )
    cosines = matrix / lengths
    left, _, right = np.linalg.svd(cosines)
    rotation = left @ right  # the nearest orthonormal axes
    moved = (rotation - cosines) * lengths @ (_corners(size)[:axes] - np.array(size)[:, None] / 2)
    if np.linalg.norm(moved, axis=0).max() > _SHEARED * lengths.min():
        worst = max(
            abs(90 - math.degrees(math.acos(float(np.clip(a @ b, -1, 1)))))
            for a, b in itertools.combinations(cosines.T, 2)
        )
        raise InputError(
            f"the axes of a scan must be perpendicular, got {path}, whose axes are {worst:.2g} "
            "degrees off. Resample it onto perpendicular axes first."
        )
    stated = np.array([abs(float(z)) for z in zooms[:axes]])
    agree = np.isfinite(stated) & (np.abs(stated - lengths) <= _SAME * lengths)
    spacing = np.where(agree, stated, lengths) * scale
    return (
        tuple(round(float(s), 7) for s in spacing),
        tuple(float(x) for x in origin),
        tuple(float(x) for x in rotation.ravel()),
    )


def _corners(size: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the corners of a grid as homogeneous columns ``(4, n)``."""
    whole = (*size[:3], 1)[:3]
    return np.array([(*c, 1.0) for c in itertools.product(*((0, n - 1) for n in whole))]).T
