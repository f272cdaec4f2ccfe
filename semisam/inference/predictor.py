"""Segment new scans with a trained model, on the scans' own grids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from semisam.core.errors import InputError
from semisam.data.datasets.dataset import Image
from semisam.data.datasets.scans import read_channels
from semisam.data.images.files import Geometry, to_itk, write_label
from semisam.data.images.hdf5 import open_hdf5, read_volume, stated_spacing
from semisam.data.images.preprocessing import Placement
from semisam.data.loading.store import check_contrast, check_image
from semisam.inference.card import Card
from semisam.inference.evaluation import class_map, predict_probabilities
from semisam.networks.precision import Precision


@dataclass(frozen=True)
class Deployed:
    """A trained model with the settings that it needs to segment a new scan.

    Attributes:
        network: maps windows ``(B, C, *patch)`` to probabilities ``(B, K, *patch)``.
        card: of the images that it was trained on.
        patch: voxels of the sliding window; ``None``: the whole scan.
        stride: voxels between windows.
        precision: of the network's computation.
        others: models whose probabilities are averaged with its own.
    """

    network: nn.Module
    card: Card
    patch: tuple[int, ...] | None
    stride: tuple[int, ...] | None
    precision: Precision
    others: tuple[Deployed, ...] = ()


@dataclass(frozen=True)
class Scan:
    """A scan on its file's grid and as the network's image.

    Attributes:
        array: ``(C, *S)`` float32 of the file.
        geometry: of the file.
        image: the network's input.
        placement: of the image in the file; ``None`` if both have the same grid.
    """

    array: NDArray[np.float32]
    geometry: Geometry
    image: Image
    placement: Placement | None


@dataclass(frozen=True)
class Prediction:
    """A model's segmentation of a scan, on the scan's own grid.

    Attributes:
        labelmap: ``(*S)``, the class numbers.
        geometry: of the scan.
        mask: ``(*S)``, the values of the user's label files, which are written.
        on_image: ``(K, *S')`` float32, the probabilities on the grid of the network's image.
        placement: of that image in the scan; ``None`` if both have the same grid.
    """

    labelmap: NDArray[np.uint8]
    geometry: Geometry
    mask: NDArray[np.integer]
    on_image: NDArray[np.float32]
    placement: Placement | None

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """Probabilities ``(K, *S)`` float32, resampled to the scan's grid when they are read."""
        if self.placement is None:
            return self.on_image
        return self.placement.probabilities(self.on_image)

    def image(self) -> Any:
        """Return the mask as a SimpleITK image with the scan's geometry."""
        return to_itk(self.mask, self.geometry)

    def save(self, path: str | Path) -> None:
        """Write the mask as NIfTI, or as a PNG if it has two axes and the name ends in .png.

        Raises:
            InputError: the path cannot be written.
        """
        write_label(path, self.mask, self.geometry)


def ensemble(models: Mapping[str, Deployed]) -> Deployed:
    """Return one model with the mean of the probabilities of several.

    Args:
        models: at least one, by the name of its run.

    Raises:
        InputError: the models have other classes or another preparation of scans.
    """
    (name, first), *others = models.items()
    ours = first.card.to_json()
    kept = set(first.card.one_component)
    for title, other in others:
        theirs = other.card.to_json()
        kept &= set(other.card.one_component)
        free = {"one_component", "surest_component", "left_out"}
        if first.card.recipe is not None and len(ours["spacing"]) == len(theirs["spacing"]):
            free |= {"spacing"}  # of one of the training scans; the recipe says how all were made
        unlike = [k for k in ours if k not in free and theirs[k] != ours[k]]
        if unlike:
            raise InputError(
                "the runs of an ensemble must have the same classes and preparation of scans, got "
                f"another {' and '.join(unlike)} in {title} than in {name}. Predict with one of "
                "them."
            )
    card = replace(first.card, one_component=tuple(sorted(kept)))
    return replace(first, card=card, others=tuple(model for _, model in others))


def read_scan(paths: tuple[Path, ...], card: Card, series: str = "") -> Scan:
    """Read a scan and prepare it as the model's training scans were prepared.

    An h5 file of the published Left Atrium is already normalised and has the training grid, so it
    fits models of such files only. Any other file is brought to the orientation, spacing and
    intensities of the training scans.

    Args:
        paths: one file per channel, or one file with all channels: a file that SimpleITK reads, a
            folder of one DICOM series, or ``mri_norm2.h5``.
        card: of the model.
        series: choice of a DICOM series.

    Raises:
        InputError: if the scan cannot be read, or does not fit the model.
    """
    name, ndim = ", ".join(map(str, paths)), len(card.spacing)
    if paths[0].suffix == ".h5":
        if card.recipe is not None and not card.reversed_axes:
            raise InputError(
                f"an h5 file must be given to a model that was trained on h5 files, got {name} for "
                "one of scans with a geometry. Convert it to NIfTI."
            )
        with open_hdf5(paths[0]) as file:
            array = read_volume(file, "image").astype(np.float32, copy=False)
            stated = None if card.reversed_axes else stated_spacing(file)
        if card.reversed_axes:  # raw values, unlike those of the published Left Atrium
            whole = np.ascontiguousarray(array.T)[None]
            return prepared_scan(whole, Geometry(card.spacing), card, name)
        array = array[None] if array.ndim == ndim else array
        _check(array, array.ndim - 1, card, name)
        geometry = Geometry(stated or card.spacing)
        return Scan(array, geometry, Image(array, geometry, has_geometry=False), None)
    return prepared_scan(*read_channels(paths, series, card.channels), card, name)


def prepared_scan(
    array: NDArray[np.float32], geometry: Geometry, card: Card, name: str = "the scan"
) -> Scan:
    """Prepare a scan in memory as the model's training scans were prepared.

    Args:
        array: ``(C, *S)``.
        geometry: of the array.
        card: of the model.
        name: of the scan, for messages.

    Raises:
        InputError: the scan does not fit the model.
    """
    _check(array, len(geometry.spacing), card, name)
    try:
        made, _, placement = card.preparation().apply(array, geometry)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    axes, flips = card.axes_of_lps()
    turned = np.flip(
        made.transpose(0, *(axis + 1 for axis in axes)),
        tuple(axis + 1 for axis, flip in enumerate(flips) if flip),
    )
    spacing = tuple(placement.spacing[axis] for axis in axes)
    image = Image(np.ascontiguousarray(turned), Geometry(spacing), has_geometry=False)
    return Scan(array, geometry, image, placement)


def segment(model: Deployed, scan: Scan, device: str = "cpu") -> Prediction:
    """Segment a scan.

    Probabilities are first resampled linearly to the scan's grid. The class with the largest
    probability is taken there, so the mask has the resolution of the scan.
    """
    on_image = _mean_probabilities((model, *model.others), scan.image, torch.device(device))
    if scan.placement is not None:
        axes, flips = model.card.axes_of_lps()
        straight = np.flip(on_image, tuple(axis + 1 for axis, flip in enumerate(flips) if flip))
        on_image = straight.transpose(0, *(int(a) + 1 for a in np.argsort(axes)))
    labelmap = class_map(on_image, scan.placement, model.card.kept)
    mask = model.card.own_values(labelmap)
    return Prediction(labelmap, scan.geometry, mask, on_image, scan.placement)


def on_input(found: Prediction, card: Card) -> NDArray[np.float32]:
    """Return the probabilities ``(K, *S)`` on the grid and axes of the network's input."""
    if found.placement is None:
        return found.on_image
    axes, flips = card.axes_of_lps()
    turned = found.on_image.transpose(0, *(axis + 1 for axis in axes))
    return np.flip(turned, tuple(axis + 1 for axis, flip in enumerate(flips) if flip))


def _mean_probabilities(
    models: Sequence[Deployed], image: Image, device: torch.device
) -> NDArray[np.float32]:
    """Return the mean of the probabilities ``(K, *S)`` of models."""
    total: torch.Tensor | None = None
    for model in models:
        probs = predict_probabilities(
            model.network,
            image,
            model.patch,
            model.stride,
            device=device,
            precision=model.precision,
        )
        total = probs if total is None else total + probs
    assert total is not None
    mean = total if len(models) == 1 else total / len(models)
    found: NDArray[np.float32] = mean.cpu().numpy()
    return found


def class_file_names(card: Card) -> Mapping[int, str]:
    """Return each foreground class's name as a unique part of a file name."""
    names: dict[int, str] = {}
    for number, title in enumerate(card.class_names[1:], start=1):
        plain = "".join(c if c.isalnum() or c in "-_" else "-" for c in title)
        names[number] = plain if plain and plain not in names.values() else f"class-{number}"
    return names


def _check(array: NDArray[np.float32], ndim: int, card: Card, name: str) -> None:
    flat = card.recipe is not None and card.recipe.flat is not None
    needed = len(card.spacing) + flat
    size = " x ".join(map(str, array.shape[1:]))
    if ndim != needed:
        raise InputError(
            f"the image must have {needed} axes, as the model needs, got {name} with {ndim} "
            f"({size}). {'Give the whole volume' if ndim < needed else 'Give single slices'}."
        )
    if needed == 3 and not flat and 1 in array.shape[1:]:
        raise InputError(
            f"the image must be a volume, as the model needs, got {name} with a single slice "
            f"({size}). Give the folder of the whole series, or the volume."
        )
    if len(array) != card.channels:
        raise InputError(
            f"the image must have {card.channels} channel(s), as the model needs, got {name} with "
            f"{len(array)}. Give one file with all of them, or one file each named <scan>_0000, "
            "<scan>_0001, ..."
        )
    check_image(array, card.channels, name)
    check_contrast(array, name)
