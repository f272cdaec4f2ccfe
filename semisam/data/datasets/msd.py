"""The Medical Segmentation Decathlon and nnU-Net (versions 1 and 2): ``dataset.json``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from semisam.core.errors import InputError
from semisam.data.datasets.dataset import Split
from semisam.data.datasets.faults import Fault
from semisam.data.datasets.scans import Layout, ScanDataset, ScanFiles, without_ending
from semisam.data.datasets.splits import load_json, stays_inside
from semisam.data.images.preprocessing import Modality

DESCRIPTION = "dataset.json"
TRAIN, TRAIN_LABELS, TEST, TEST_LABELS = "imagesTr", "labelsTr", "imagesTs", "labelsTs"
_LISTS = ("training", "test")
_CHANNEL = re.compile(r"_(\d{4})$")
_MOST_CLASSES = 255
_KNOWN: Mapping[str, Modality] = {"ct": "ct", "nonorm": "none"}


class Decathlon(ScanDataset):
    """A folder with ``dataset.json``, ``imagesTr`` and ``labelsTr``, as in MSD and nnU-Net.

    An image is ``<case>.nii.gz`` with the channels along a fourth axis, or one file per channel,
    ``<case>_0000.nii.gz`` and so on. A label is ``<case>.nii.gz``. Any ending that SimpleITK reads
    is accepted. ``dataset.json`` names classes and channels; a channel named CT is windowed. Its
    regions without common values are classes, and voxels of ``ignore`` are not annotated. Cases of
    ``imagesTr`` without a label are unlabeled. Cases of ``imagesTs`` are the test cases if all of
    them have a label in ``labelsTs``, and unlabeled otherwise.
    """

    name: ClassVar[str] = "msd"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Return whether the folder holds ``dataset.json`` and ``imagesTr``."""
        return (path / DESCRIPTION).is_file() and (path / TRAIN).is_dir()

    @classmethod
    def discover(cls, path: Path, classes: tuple[str, ...] = ()) -> Layout:
        """Read ``dataset.json`` and the names in the folders."""
        about = path / DESCRIPTION
        raw = load_json(about)
        if not isinstance(raw, dict):
            raise InputError(
                f"{about}: the file must hold an object, got {type(raw).__name__}. Correct it."
            )
        channels = _channels(raw, about)
        modalities = tuple(_KNOWN.get(name.lower(), "mr") for name in channels)
        names, values, ignored = _classes(raw, about, classes)
        faults = [
            Fault(
                str(about), f"'{key}' must be a list of files, got {raw[key]!r:.60}", "correct it"
            )
            for key in _LISTS
            if raw.get(key) and not isinstance(raw[key], list)
        ]
        faults += [
            Fault(
                str(about),
                f"a listed file must be in the dataset's folder, got '{name}'",
                "give its path relative to dataset.json, without '..'",
            )
            for name in _names(raw)
            if not stays_inside(name)
        ]
        train, more = _cases(path / TRAIN, path / TRAIN_LABELS, len(modalities))
        test, others = _cases(path / TEST, path / TEST_LABELS, len(modalities))
        faults += more + others + _missing(raw, path, {**train, **test})
        faults += [
            Fault(
                str(path / TEST),
                f"a case must be in one of {TRAIN} and {TEST}, got {case} in both",
                "remove it from one of them",
            )
            for case in sorted(set(train) & set(test))
        ]
        if not train:
            raise InputError(f"{path / TRAIN}: there must be images, got none. Add them.")
        # Test images with labels are held out; without labels they are unlabeled training cases.
        held_out = bool(test) and all(files.label is not None for files in test.values())
        split = Split(tuple(train), tuple(test)) if held_out else None
        cases = {**test, **train}
        return Layout(cases, names, modalities, split, tuple(faults), values, ignored, channels)


def _cases(images: Path, labels: Path, channels: int) -> tuple[dict[str, ScanFiles], list[Fault]]:
    """Return the cases of a folder of images and a folder of labels, by name."""
    by_label = {name: path for path, name in _files(labels)}
    plain: dict[str, Path] = {}
    by_channel: dict[str, dict[int, Path]] = {}
    for path, name in _files(images):
        match = _CHANNEL.search(name)
        # If a label has the same name, the digits belong to the case's name.
        if match and name not in by_label:
            by_channel.setdefault(name[: match.start()], {})[int(match[1])] = path
        else:
            plain[name] = path
    places = {name: labels / f"{name}.nii.gz" for name in (*plain, *by_channel)}
    cases = {
        name: ScanFiles((path,), by_label.get(name), place=places[name])
        for name, path in plain.items()
    }
    faults = []
    for name, found in by_channel.items():
        if sorted(found) != list(range(channels)) or name in plain:
            faults.append(
                Fault(
                    str(images / name),
                    f"a case must have the channels _0000 to _{channels - 1:04d} that "
                    f"{DESCRIPTION} names, got {', '.join(f'_{n:04d}' for n in sorted(found))}",
                    "add the missing files or remove the case",
                )
            )
            continue
        files = tuple(found[n] for n in sorted(found))
        cases[name] = ScanFiles(files, by_label.get(name), place=places[name])
    faults += [
        Fault(
            str(by_label[name]),
            f"a label must have an image, got no image of its name in {images.name}",
            "add the image or remove the label",
        )
        for name in sorted(set(by_label) - set(plain) - set(by_channel))
    ]
    return dict(sorted(cases.items())), faults


def _files(folder: Path) -> list[tuple[Path, str]]:
    """Return the visible image files of a folder and their names without ending."""
    if not folder.is_dir():
        return []
    found = []
    for path in sorted(folder.iterdir()):
        name = without_ending(path.name)
        if name is not None and not name.startswith(".") and path.is_file():
            found.append((path, name))
    return found


def _missing(raw: Mapping[str, Any], folder: Path, cases: Mapping[str, ScanFiles]) -> list[Fault]:
    """Return a fault for each training case of ``dataset.json`` that is missing in the folders."""
    faults = []
    for entry in _listed(raw, "training"):
        image = entry.get("image") if isinstance(entry, dict) else entry
        label = entry.get("label") if isinstance(entry, dict) else None
        for kind, given in (("image", image), ("label", label)):
            name = None if given is None else without_ending(Path(str(given)).name)
            found = None if name is None else cases.get(name) or cases.get(_CHANNEL.sub("", name))
            missing = found is None or (kind == "label" and found.label is None)
            if name is not None and missing:
                faults.append(
                    Fault(
                        str(folder / DESCRIPTION),
                        f"every listed file must exist, got no {kind} '{given}'",
                        "copy it there or remove it from the list",
                    )
                )
    return faults


def _listed(raw: Mapping[str, Any], key: str) -> list[Any]:
    """Return a list of the description; an empty one if it is missing or no list."""
    found = raw.get(key)
    return found if isinstance(found, list) else []


def _names(raw: Mapping[str, Any]) -> Iterable[str]:
    for key in _LISTS:
        for entry in _listed(raw, key):
            values = entry.values() if isinstance(entry, dict) else (entry,)
            yield from (str(value) for value in values)


def _classes(
    raw: Mapping[str, Any], about: Path, given: tuple[str, ...]
) -> tuple[tuple[str, ...], dict[int, int], tuple[int, ...]]:
    """Return the names of the classes, the classes by value, and the ignored values.

    Numbers are values of the label files: ``{"1": "liver"}`` (MSD), ``{"liver": 1}`` (nnU-Net), or
    regions without a common value, ``{"kidney": [1, 2]}``. Values that are not 0, 1, 2, ... are
    classes in ascending order. The name ``ignore`` is nnU-Net's: these voxels are not annotated.

    Args:
        raw: the description.
        about: its path.
        given: names of the user, for which the description's labels are not read.
    """
    if given:
        return ("background", *given), {}, ()
    labels = raw.get("labels")
    try:
        by_name = _values_by_name(dict(labels or {}))
    except (TypeError, ValueError):
        by_name = {}
    ignored = by_name.pop("ignore", ())
    values = [value for region in by_name.values() for value in region]
    names = sorted(by_name, key=lambda name: min(by_name[name]))
    once = len({*values, *ignored}) == len(values) + len(ignored)
    if not (once and 2 <= len(names) <= _MOST_CLASSES and by_name[names[0]] == (0,)):
        raise InputError(
            f"{about}: 'labels' must name the classes 0 (background), 1, 2, ... once each, got "
            f"{labels}. Correct them, without regions that share a value."
        )
    mapping = {value: number for number, name in enumerate(names) for value in by_name[name]}
    same = all(value == number for value, number in mapping.items())
    return tuple(names), {} if same else mapping, ignored


def _values_by_name(labels: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the values of each class, from either form of the description.

    Raises:
        TypeError, ValueError: a value is not a whole number, or a name is there twice.
    """
    found: dict[str, tuple[int, ...]] = {}
    for key, value in labels.items():
        if isinstance(value, list):
            name, numbers = key, tuple(value)
        elif isinstance(value, int):
            name, numbers = key, (value,)
        else:
            name, numbers = str(value), (int(key),)
        if name in found or not numbers or not all(type(number) is int for number in numbers):
            raise ValueError(name)
        found[name] = numbers
    return found


def _channels(raw: Mapping[str, Any], about: Path) -> tuple[str, ...]:
    """Return the names of the channels, from ``channel_names`` or ``modality``."""
    channels = raw.get("channel_names", raw.get("modality"))
    if not isinstance(channels, dict) or not channels:
        raise InputError(
            f"{about}: 'channel_names' (or 'modality') must name the channels, got {channels}. "
            'Write for example {"0": "MRI"}.'
        )
    try:
        return tuple(str(channels[key]).strip() for key in sorted(channels, key=int))
    except ValueError:
        raise InputError(
            f"{about}: channels must be numbered 0, 1, ..., got {list(channels)}. Renumber them."
        ) from None
