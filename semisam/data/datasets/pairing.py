"""Pairs of images and labels in a folder, by their names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from semisam.core.errors import InputError
from semisam.core.files import read_text
from semisam.data.datasets.faults import Fault
from semisam.data.datasets.scans import ENDINGS, without_ending
from semisam.data.images.dicom import is_series
from semisam.data.images.files import mask_ending
from semisam.data.images.pictures import PICTURES, is_picture

_LABEL = re.compile(
    r"(?P<case>.+)[-_. ](labels?|seg|segmentations?|masks?|gt)", re.IGNORECASE | re.DOTALL
)
_TRAINING = r"[-_]?(tr|train|training)?"
_IMAGES = re.compile(rf"(images?|imgs?){_TRAINING}", re.IGNORECASE)
_LABELS = re.compile(rf"(labels?|masks?|segs?|segmentations?|gts?){_TRAINING}", re.IGNORECASE)
_FIRST_CHANNEL = "_0000"
_SEPARATORS = "-_. "
_IN_CLASS_FOLDER = 3  # parts of masks/<class>/<file>
CLASSES = "classes.list"
ALL_ENDINGS = tuple(dict.fromkeys((*ENDINGS, *PICTURES)))
"""Endings of scans and of pictures."""


@dataclass(frozen=True)
class Pairs:
    """The images and labels of a folder.

    Attributes:
        images: files or DICOM folders by case.
        labels: files by case and class, with the class "" for a label of all classes; a case
            without one is unlabeled.
        strays: labels without an image, by the case that their name states.
        faults: second images and labels of a case.
        label_folder: of the labels of all classes; ``None``: labels are next to the images.
    """

    images: dict[str, Path]
    labels: dict[str, dict[str, Path]]
    strays: dict[str, Path]
    faults: tuple[Fault, ...]
    label_folder: Path | None = None

    def place(self, case: str) -> Path | None:
        """Return the path where a label belongs; ``None``: next to the image."""
        ending = mask_ending(self.images[case])
        return None if self.label_folder is None else self.label_folder / f"{case}{ending}"

    def classes(self) -> tuple[str, ...]:
        """Return the classes that have masks of their own, in alphabetical order."""
        return tuple(sorted({name for files in self.labels.values() for name in files if name}))


def has_image_folder(folder: Path) -> bool:
    """Return whether a folder holds one of images, such as ``images``."""
    images, _ = _folders(folder)
    return any(_entries(path, ENDINGS) for path in images)


def images_below(folder: Path) -> list[Path]:
    """Return the images in the folders of a folder and theirs, such as one folder per patient."""
    inside = _folders_in(folder)
    places = sorted([*inside, *(path for place in inside for path in _folders_in(place))])
    shown = [place for place in places if not is_series(place)]
    return [path for place in shown for _, path in _entries(place, ALL_ENDINGS)]


def unread_images(folder: Path) -> list[Path]:
    """Return the files in the folders of images of a folder if no reader knows one of them."""
    images, _ = _folders(folder)
    if any(_entries(place, ALL_ENDINGS) for place in images):
        return []
    files = (path for place in images for path in sorted(place.iterdir()) if path.is_file())
    return [path for path in files if not path.name.startswith(".")]


def holds_pictures(folder: Path) -> bool:
    """Return whether all images of a folder are pictures."""
    images, _ = list_files(folder, ALL_ENDINGS)
    known = all(path.is_file() and path.name.lower().endswith(PICTURES) for _, path in images)
    return bool(images) and known and is_picture(images[0][1])


def read_classes(folder: Path) -> tuple[str, ...]:
    """Return the foreground classes that ``classes.list`` names; empty without this file.

    Raises:
        InputError: it names no class, one twice or the background.
    """
    path = folder / CLASSES
    if not path.is_file():
        return ()
    names = tuple(line.strip() for line in read_text(path).splitlines())
    names = tuple(name for name in names if name)
    if not names or len(set(names)) != len(names) or "background" in names:
        raise InputError(
            f"{path}: it must name the foreground classes 1, 2, ..., one per line and each once, "
            f"got {', '.join(names) or 'none'}. Leave the background out."
        )
    return names


def pair_files(
    folder: Path, endings: Sequence[str] = ENDINGS, classes: Sequence[str] = ()
) -> Pairs:
    """Pair the images and labels of a folder and of the folders for images and labels in it.

    Args:
        folder: of the files.
        endings: of images.
        classes: names of classes, for masks of one class each.
    """
    images: dict[str, dict[str, Path]] = {}
    labels: dict[str, dict[str, Path]] = {}
    faults: list[Fault] = []
    for kind, files in zip((images, labels), list_files(folder, endings, classes), strict=True):
        for case, path in files:
            name, known = _class_of(path, case, folder, classes), kind.setdefault(case, {})
            others = [known[key] for key in known if key in ("", name) or not name]
            if others:
                other = others[0].relative_to(folder).as_posix()
                problem = f"a case must have one image and one label, got also {other}"
                remedy = "remove one of them from the folder"
                if kind is images:
                    remedy += f", or name the mask {case}_mask{mask_ending(path)}"
                faults.append(Fault(str(path), problem, remedy, case))
            else:
                known[name] = path
    faults += _channels(images, labels)
    strays = {case: labels.pop(case) for case in list(labels) if case not in images}
    return Pairs(
        {case: files[""] for case, files in images.items()},
        labels,
        {case: next(iter(files.values())) for case, files in strays.items()},
        tuple(faults),
        _label_folder(folder, labels),
    )


def holds_labels_of(scans: Path, folder: Path) -> bool:
    """Return whether the files of a folder would count as labels of scans, by their places.

    Args:
        scans: the file of one, the folder of its DICOM series, or a folder of scans.
        folder: of the files.
    """
    home = scans.parent
    if not scans.is_dir() or is_series(scans, below=False):
        home = home.parent if _IMAGES.fullmatch(home.name) else home
    elif not _IMAGES.fullmatch(scans.name):
        return False
    return folder.parent == home and _LABELS.fullmatch(folder.name) is not None


def _label_folder(folder: Path, labels: Mapping[str, Mapping[str, Path]]) -> Path | None:
    """Return the folder where labels of all classes are, or belong; ``None``: next to the images.

    Labels follow those that are there. A folder with folders of classes takes no other labels.
    """
    image_folders, label_folders = _folders(folder)
    if labels:
        used = {files[""].parent for files in labels.values() if "" in files}
        return next((place for place in label_folders if place in used), None)
    return next(iter(label_folders), folder / "labels" if image_folders else None)


def _channels(
    images: Mapping[str, Mapping[str, Path]], labels: Mapping[str, Mapping[str, Path]]
) -> list[Fault]:
    """Return a fault for each labeled case that is the first channel of a scan of several.

    The label of ``a_0000`` and ``a_0001`` is then ``a``, as nnU-Net names it.
    """
    faults = []
    for case, files in labels.items():
        scan = case.removesuffix(_FIRST_CHANNEL)
        other = images.get(f"{scan}_0001")
        if scan != case and other and without_ending(next(iter(files.values())).name) == scan:
            file = str(next(iter(other.values())))
            problem = (
                f"the channels of a scan must be declared, got two of {scan} and no declaration"
            )
            faults.append(Fault(file, problem, "write dataset.json as MSD or nnU-Net do", case))
    return faults


def list_files(
    folder: Path, endings: Sequence[str] = ENDINGS, classes: Sequence[str] = ()
) -> tuple[list[tuple[str, Path]], list[tuple[str, Path]]]:
    """Return all images and all labels of a folder, each with the name of its case.

    A name with a label's ending belongs to a label, unless another label has it as its case. So
    does the name of an image with a class.

    Args:
        folder: of the files.
        endings: of images.
        classes: names of classes, for masks of one class each.
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
        whole = _without_class(name, names, classes)
        if whole and name not in labeled:
            labels.append((whole, path))
        elif match and (match["case"] in names or name not in labeled):
            labels.append((match["case"], path))
        else:
            images.append((name, path))
    known = {name for name, _ in images}
    for place in label_folders:
        labels += [
            (_without_class(name, known, classes) or _case_of_label(name, known), path)
            for name, path in _masks(place, endings)
        ]
    return images, labels


def _masks(place: Path, endings: Sequence[str]) -> list[tuple[str, Path]]:
    """Return the entries of a folder of labels and of its folders, of one class each."""
    own = _entries(place, endings)
    known = {path for _, path in own}
    return own + [
        entry
        for folder in _folders_in(place)
        if folder not in known
        for entry in _entries(folder, endings)
    ]


def _folders_in(folder: Path) -> list[Path]:
    """Return the folders in a folder, without hidden ones."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")


def _class_of(path: Path, case: str, folder: Path, classes: Sequence[str]) -> str:
    """Return the class that a file shows by its folder or its name's end; empty: all."""
    parts = path.relative_to(folder).parts
    if len(parts) == _IN_CLASS_FOLDER:
        return parts[1]
    end = (without_ending(path.name, ALL_ENDINGS) or path.name)[len(case) + 1 :]
    return end if end in classes else ""


def _without_class(name: str, cases: set[str], classes: Sequence[str]) -> str | None:
    """Return the case of a mask with the name ``<case>_<class>``; ``None`` for another name."""
    ends = [separator + word for word in classes for separator in _SEPARATORS]
    found = (name.removesuffix(end) for end in ends if name.endswith(end))
    return next((case for case in found if case in cases), None)


def _case_of_label(name: str, cases: set[str]) -> str:
    """Return the case of a file in a folder of labels."""
    match = _LABEL.fullmatch(name)
    short = match["case"] if match else name
    for case in (name, short, name + _FIRST_CHANNEL, short + _FIRST_CHANNEL):
        if case in cases:
            return case
    return short


def _folders(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the folders of images and those of labels.

    Without labels, a folder such as ``images`` counts only if no image is next to it.
    """
    inside = sorted(path for path in folder.iterdir() if path.is_dir())
    labels = [path for path in inside if _LABELS.fullmatch(path.name)]
    images = [path for path in inside if _IMAGES.fullmatch(path.name)]
    return (images, labels) if labels or not _entries(folder, ALL_ENDINGS) else ([], [])


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
