"""HDF5 files, opened so that they read nothing but themselves."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psutil
from numpy.typing import NDArray

from semisam.core.errors import InputError, first_line

_INFLATION = 1100  # deflate expands a byte to at most 1032 bytes
_LARGEST_VALUE = 16  # bytes


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open a file for reading, without a lock, so that other programs and file systems do not care.

    Raises:
        InputError: the file is missing, truncated, or not HDF5; also for an error while it is open.
    """
    if not path.is_file():
        raise InputError(
            f"{path}: the file must exist, got none. Copy it there or remove its case from the "
            "list."
        )
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except InputError:
        raise
    except Exception as error:  # a damaged file may raise anything
        reason = first_line(error)
        raise InputError(
            f"{path}: the file must be a complete HDF5 file, got '{reason}'. It may be truncated: "
            "copy it again."
        ) from error


def has_volume(file: h5py.File, key: str) -> bool:
    """Return whether an open file has a key, without following a link."""
    return key in set(file)


def find_volume(file: h5py.File, key: str) -> h5py.Dataset:
    """Return a dataset of an open file, after checks of its header.

    Raises:
        InputError: the key is missing, the voxels lie outside the file or are no numbers, or the
            header claims more of them than the file or the memory can hold.
    """
    path = Path(file.filename)
    if not has_volume(file, key):
        keys = ", ".join(sorted(file)[:10]) or "none"
        raise InputError(
            f"{path}: the file must have the key '{key}', got the keys: {keys}. Write it again "
            "with 'image' and 'label'."
        )
    if not isinstance(file.get(key, getlink=True), h5py.HardLink):
        raise InputError(
            f"{path}: the voxels must be in the file itself, got a link as '{key}'. Write the "
            "volume into the file."
        )
    node = file[key]
    if not isinstance(node, h5py.Dataset):
        raise InputError(
            f"{path}: '{key}' must be a volume, got a {type(node).__name__.lower()}. Write the "
            "file again with 'image' and 'label'."
        )
    if node.external or node.is_virtual:
        raise InputError(
            f"{path}: the voxels must be in the file itself, got '{key}', which is stored in other "
            "files. Write the volume into the file."
        )
    kind = node.dtype
    if kind.kind not in "biuf" or kind.itemsize > _LARGEST_VALUE or node.shape in (None, ()):
        raise InputError(
            f"{path}: '{key}' must be a volume of numbers, got {kind} of shape {node.shape}. Write "
            "it as float32 or uint8."
        )
    claimed = int(np.prod([int(n) for n in node.shape], dtype=object)) * kind.itemsize
    stored, free = path.stat().st_size, psutil.virtual_memory().available
    if claimed > stored * _INFLATION or claimed > free:
        raise InputError(
            f"{path}: the file must be complete, got '{key}' of shape {node.shape}, more than its "
            f"{stored} bytes or the memory can hold. Copy or download it again."
        )
    return node


def read_volume(file: h5py.File, key: str) -> NDArray[Any]:
    """Read a dataset that `find_volume` accepts."""
    array: NDArray[Any] = find_volume(file, key)[()]
    return array


def stated_spacing(file: h5py.File) -> tuple[float, float, float] | None:
    """Return the mm per axis that the attribute ``spacing`` of a file or its image states.

    Raises:
        InputError: they are not one or three positive numbers.
    """
    given = file.attrs.get("spacing", find_volume(file, "image").attrs.get("spacing"))
    if given is None:
        return None
    try:
        values = tuple(float(v) for v in np.ravel(given))
    except (TypeError, ValueError):
        values = ()
    if len(values) not in (1, 3) or not all(math.isfinite(v) and v > 0 for v in values):
        raise InputError(
            f"{file.filename}: the attribute 'spacing' must be one or three positive numbers of "
            f"mm, got {given}. Correct or remove it."
        )
    return (values[0], values[len(values) // 2], values[-1])
