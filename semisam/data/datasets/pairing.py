"""Pairs of images and labels in a folder, by their names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from semisam.data.datasets.scans import ENDINGS, without_ending
from semisam.data.datasets.splits import Fault
from semisam.data.images.dicom import is_series
from semisam.data.images.pictures import PICTURES, is_picture

_LABEL = re.compile(
    r"(?P<case>.+)[-_. ](labels?|seg|segmentations?|masks?|gt)", re.IGNORECASE | re.DOTALL
)
_TRAINING = r"[-_]?(tr|train|training)?"
_IMAGES = re.compile(rf"(images?|imgs?){_TRAINING}", re.IGNORECASE)
_LABELS = re.compile(rf"(labels?|masks?|segs?|segmentations?|gts?){_TRAINING}", re.IGNORECASE)
_FIRST_CHANNEL = "_0000"
ALL_ENDINGS = tuple(dict.fromkeys((*ENDINGS, *PICTURES)))
"""Endings of scans and of pictures."""


@dataclass(frozen=True)
class Pairs:
    """The images and labels of a folder.

    Attributes:
        images: files or DICOM folders by case.
        labels: files by case; a case without one is unlabeled.
        strays: labels without an image, by the case that their name states.
        faults: second images and labels of a case.
    """

    images: dict[str, Path]
    labels: dict[str, Path]
    strays: dict[str, Path]
    faults: tuple[Fault, ...]


def has_image_folder(folder: Path) -> bool:
    """Return whether a folder holds one of images, such as ``images``, and one of labels."""
    images, labels = _folders(folder)
    return any(_entries(path, ENDINGS) for path in images) and bool(labels)


def holds_pictures(folder: Path) -> bool:
    """Return whether all images of a folder are pictures."""
    images, _ = list_files(folder, ALL_ENDINGS)
    known = all(path.is_file() and path.name.lower().endswith(PICTURES) for _, path in images)
    return bool(images) and known and is_picture(images[0][1])


def pair_files(folder: Path, endings: Sequence[str] = ENDINGS) -> Pairs:
    """Pair the images and labels of a folder and of the folders for images and labels in it."""
    images: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    faults: list[Fault] = []
    for kind, files in zip((images, labels), list_files(folder, endings), strict=True):
        for case, path in files:
            if case in kind:
                other = kind[case].relative_to(folder).as_posix()
                problem = f"a case must have one image and one label, got also {other}"
                faults.append(Fault(str(path), problem, "remove one of them from the folder"))
            else:
                kind[case] = path
    strays = {case: labels.pop(case) for case in list(labels) if case not in images}
    return Pairs(images, labels, strays, tuple(faults))


def list_files(
    folder: Path, endings: Sequence[str] = ENDINGS
) -> tuple[list[tuple[str, Path]], list[tuple[str, Path]]]:
    """Return all images and all labels of a folder, each with the name of its case.

    A name with a label's ending belongs to a label, unless another label has it as its case.
    """
    image_folders, label_folders = _folders(folder)
    loose = [
        (name, path)
        for place in (folder, *image_folders)
        for name, path in _entries(place, endings)
        if path not in (*image_folders, *label_folders)
    ]
    names = {name for name, _ in loose}
    labeled = {match["case"] for name in names if (match := _LABEL.fullmatch(name))}
    images, labels = [], []
    for name, path in loose:
        match = _LABEL.fullmatch(name)
        if match and (match["case"] in names or name not in labeled):
            labels.append((match["case"], path))
        else:
            images.append((name, path))
    known = {name for name, _ in images}
    for place in label_folders:
        labels += [(_case_of_label(name, known), path) for name, path in _entries(place, endings)]
    return images, labels


def _case_of_label(name: str, cases: set[str]) -> str:
    """Return the case of a file in a folder of labels."""
    match = _LABEL.fullmatch(name)
    short = match["case"] if match else name
    for case in (name, short, name + _FIRST_CHANNEL, short + _FIRST_CHANNEL):
        if case in cases:
            return case
    return short


def _folders(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the folders of images and those of labels; both empty without the latter."""
    inside = sorted(path for path in folder.iterdir() if path.is_dir())
    labels = [path for path in inside if _LABELS.fullmatch(path.name)]
    images = [path for path in inside if _IMAGES.fullmatch(path.name)]
    return (images, labels) if labels else ([], [])


def _entries(folder: Path, endings: Sequence[str]) -> list[tuple[str, Path]]:
    """Return the image files and DICOM folders of a folder, with their names without ending."""
    found = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            name = path.name if is_series(path) else None
        else:
            name = without_ending(path.name, endings)
        if name is not None:
            found.append((name, path))
    return found
