"""New scans through a trained model, and back onto their own grid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from semisam.data.dataset import Image
from semisam.data.io import Geometry, read_image
from semisam.data.store import check_image
from semisam.errors import InputError


def output_names(inputs: Sequence[Path]) -> dict[str, Path]:
    """Return the output's name of each input; no two scans may overwrite each other.

    The published layout calls every file ``mri_norm2.h5``: there the folder is the name.

    Raises:
        InputError: if two inputs would have the same.
    """
    names: dict[str, Path] = {}
    for path in inputs:
        stem = path.resolve().name
        for ending in (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".h5", ".dcm"):
            stem = stem.removesuffix(ending)
        name = path.resolve().parent.name if stem == "mri_norm2" else stem
        if name in names:
            raise InputError(
                f"each input needs a name of its own, got {names[name]} and {path}, which would "
                f"both be written as {name}.nii.gz: predict them into different folders"
            )
        names[name] = path
    return names


def read_scan(path: Path, channels: int, spacing: Sequence[float]) -> Image:
    """Read a scan to predict.

    An h5 of the published layout is already normalised and lies on the training grid; any other
    file is z-scored as those were.

    Args:
        path: a file that SimpleITK reads, a DICOM folder, or ``mri_norm2.h5``.
        channels: that the model needs.
        spacing: of the training scans, taken for an h5, which carries none.

    Raises:
        InputError: if it cannot be read or used.
    """
    if path.suffix == ".h5":
        array, geometry, known = _read_h5(path), Geometry(tuple(spacing)), False
    else:
        raw, geometry = read_image(path)
        known = True
        array = (raw - raw.mean()) / max(float(raw.std()), 1e-6)
    array = array[None] if array.ndim == len(geometry.spacing) else array
    check_image(array, channels, str(path))
    return Image(array.astype(np.float32, copy=False), geometry, known)


def to_spacing(image: Image, spacing: Sequence[float], tolerance: float = 0.05) -> Image:
    """Return the image on a grid of the model's spacing, or itself if its own is within 5 %."""
    own = image.geometry.spacing
    if all(abs(a / b - 1) <= tolerance for a, b in zip(own, spacing, strict=True)):
        return image
    size = [
        max(1, round(n * a / b))
        for n, a, b in zip(image.array.shape[1:], own, spacing, strict=True)
    ]
    array = _resize(torch.tensor(image.array), size).numpy()
    return Image(array, Geometry(tuple(spacing)), False)


def to_grid(probs: Tensor, size: Sequence[int]) -> Tensor:
    """Return probabilities ``(K, *S)`` resized to another number of voxels of the same volume."""
    return probs if tuple(probs.shape[1:]) == tuple(size) else _resize(probs, size)


def _resize(values: Tensor, size: Sequence[int]) -> Tensor:
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(size)]
    resized: Tensor = F.interpolate(values[None], size=list(size), mode=mode)[0]
    return resized


def _read_h5(path: Path) -> NDArray[np.float32]:
    try:
        with h5py.File(path) as file:
            array: NDArray[np.float32] = file["image"][()]
    except (OSError, KeyError) as error:
        raise InputError(
            f"an h5 file with the key 'image' is required, got {path} "
            f"({str(error).splitlines()[0]}): check the file"
        ) from None
    return array
