"""Masks of many scans in one folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semisam.core.errors import InputError, first_few
from semisam.core.files import replace_file
from semisam.data.datasets.pairing import holds_labels_of
from semisam.data.datasets.scans import read_values
from semisam.data.images.files import mask_ending, write_label, write_nifti
from semisam.inference.card import Card
from semisam.inference.predictor import (
    Deployed,
    Prediction,
    Scan,
    class_file_names,
    read_scan,
    segment,
)
from semisam.inference.preview import write_preview
from semisam.inference.volumes import Volume, volumes


@dataclass(frozen=True)
class Written:
    """The mask of one scan.

    Attributes:
        name: of the scan.
        file: of the mask.
        volumes: of each foreground class; empty with a fault.
        fault: the reason why no mask was written.
        scan: that was segmented; ``None`` with a fault, and for a mask that was there before.
        found: in that scan.
    """

    name: str
    file: Path
    volumes: tuple[Volume, ...] = ()
    fault: str = ""
    scan: Scan | None = None
    found: Prediction | None = None


def write_masks(
    model: Deployed,
    scans: Mapping[str, tuple[Path, ...]],
    folder: Path,
    device: str = "cpu",
    *,
    series: str = "",
    probabilities: bool = False,
    preview: bool = False,
    skip_existing: bool = False,
    on_mask: Callable[[str, Path], None] | None = None,
) -> Iterator[Written]:
    """Segment scans, write their masks into a folder, and yield each.

    A scan that cannot be read is yielded with its fault, and the others are still segmented.

    Args:
        model: of `semisam.run.model.load_models`.
        scans: files by the name of the mask, as of `semisam.inference.inputs.gather_scans`.
        folder: exists.
        device: on which the model computes.
        series: choice of a DICOM series.
        probabilities: also write the probability of each class.
        preview: also write a picture of the mask.
        skip_existing: take a mask that is in the folder as it is.
        on_mask: called with the name of each mask and its temporary file, directly before that
            gets its name; an error keeps what is there.

    Raises:
        InputError: a mask cannot be written, or one that is in the folder cannot be read.
    """
    for name, paths in scans.items():
        ending = mask_ending(paths[0])
        file = folder / f"{name}{ending}"
        if skip_existing and file.is_file():
            yield Written(name, file, tuple(volumes_of_file(name, file, model.card)))
            continue
        try:
            scan = read_scan(paths, model.card, series)
        except InputError as error:
            yield Written(name, file, fault=str(error))
            continue
        found = segment(model, scan, device)
        file.parent.mkdir(exist_ok=True, parents=True)  # a case may be named with a folder
        with replace_file(file, ending) as temporary:
            write_label(temporary, found.mask, scan.geometry)
            if on_mask is not None:
                on_mask(name, temporary)
        if probabilities:
            whole = found.probabilities
            for k, title in class_file_names(model.card).items():
                write_nifti(probability_file(folder, name, title), whole[k], scan.geometry)
        names = model.card.class_names
        if preview:
            write_preview(preview_file(file), scan.array, found.labelmap, scan.geometry, names)
        sizes = volumes(name, found.labelmap, scan.geometry, names)
        yield Written(name, file, tuple(sizes), scan=scan, found=found)


def check_outside(scans: Path, masks: Path, flag: str = "-o", *, lone: bool = False) -> None:
    """Refuse a folder of masks where a mask would count as a label.

    Args:
        scans: a folder of them, or one scan.
        masks: the folder.
        flag: that names it.
        lone: it is one scan and no other, which is no data set.

    Raises:
        InputError: it is in the folder of scans, or is the folder of their labels.
    """
    inner, outer = masks.resolve(), scans.resolve()
    if not lone and holds_labels_of(outer, inner):
        raise InputError(
            "the folder of masks must be another than the one where labels of these scans belong, "
            f"got {masks}. A mask there would count as one of yours. Name another folder with "
            f"{flag}."
        )
    if inner == outer or outer in inner.parents:
        raise InputError(
            f"the folder of masks must be outside the folder of scans, got {masks}. A mask there "
            f"would count as one of yours. Name another folder with {flag}."
        )


def check_saved(data: Path | None, cases: Iterable[str], folder: Path) -> None:
    """Refuse a folder where the mask of a scored case would replace a file or count as a label.

    Args:
        data: folder of the scans; ``None``: they are in no folder.
        cases: to score.
        folder: of the masks, ``<case>.nii.gz``.

    Raises:
        InputError: it is in the folder of scans, or a file of that name is there.
    """
    flag = "--save-predictions"
    if data is not None:
        check_outside(data, folder, flag)
    there = [name for case in cases if (folder / (name := f"{case}.nii.gz")).exists()]
    if there:
        raise InputError(
            f"{flag} must be a folder without files of these cases, got {folder} with "
            f"{first_few(there)}. Name another folder."
        )


def check_new(
    scans: Mapping[str, tuple[Path, ...]],
    folder: Path,
    *,
    preview: bool = False,
    titles: Iterable[str] = (),
) -> None:
    """Refuse to write over an existing file, such as a mask that a person may have corrected.

    Args:
        scans: files by the name of the mask.
        folder: of the masks.
        preview: a preview of each mask is written, too.
        titles: of the classes whose probabilities are written, too.

    Raises:
        InputError: a file is there.
    """
    there = [
        file.name
        for name, paths in scans.items()
        for file in outputs_of(name, paths[0], folder, preview=preview, titles=titles)
        if file.exists()
    ]
    if there:
        raise InputError(
            f"-o must be a folder without outputs of these scans, got {folder} with "
            f"{first_few(there)}. Name another, keep the masks with --skip-existing, or replace "
            "them with --overwrite."
        )


def outputs_of(
    name: str, source: Path, folder: Path, *, preview: bool = False, titles: Iterable[str] = ()
) -> list[Path]:
    """Return the files that `write_masks` writes of a scan, the mask first.

    Args:
        name: of the scan.
        source: its first file.
        folder: of the masks.
        preview: with that of the mask.
        titles: of the classes whose probabilities are written, as of `class_file_names`.
    """
    mask = folder / f"{name}{mask_ending(source)}"
    pictures = [preview_file(mask)] if preview else []
    return [mask, *pictures, *(probability_file(folder, name, title) for title in titles)]


def probability_file(folder: Path, name: str, title: str) -> Path:
    """Return the file of the probability of a class."""
    return folder / f"{name}.{title}.probability.nii.gz"


def preview_file(mask: Path) -> Path:
    """Return the file of the picture of a mask."""
    if mask.suffix == ".png":
        return mask.with_suffix(".preview.png")
    return mask.with_name(f"{mask.name.removesuffix('.nii.gz')}.png")


def volumes_of_file(name: str, file: Path, card: Card) -> list[Volume]:
    """Return the volumes in the file of a mask, whose values are those of the model.

    Raises:
        InputError: the file cannot be read, or holds a value of no class.
    """
    values, geometry = read_values(file)
    own = card.label_values or tuple(range(len(card.class_names)))
    labelmap: NDArray[np.uint8] = np.zeros(values.shape, np.uint8)
    for number, value in enumerate(own):
        labelmap[values == value] = number
    if not np.isin(values, own).all():
        wrong = values[~np.isin(values, own)].flat[0]
        raise InputError(
            f"{file}: a mask must hold the values of the model's classes, "
            f"{', '.join(map(str, own))}, got {wrong:g}. Correct it, or name "
            "another folder with -o."
        )
    return volumes(name, labelmap, geometry, card.class_names)
