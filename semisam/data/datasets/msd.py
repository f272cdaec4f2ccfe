"""The Medical Segmentation Decathlon and nnU-Net (versions 1 and 2): ``dataset.json``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from semisam.core.errors import InputError
from semisam.data.datasets.dataset import Split
from semisam.data.datasets.scans import Layout, ScanDataset, ScanFiles, without_ending
from semisam.data.datasets.splits import Fault, read_json, stays_inside
from semisam.data.images.preprocessing import Modality

DESCRIPTION = "dataset.json"
TRAIN, TRAIN_LABELS, TEST, TEST_LABELS = "imagesTr", "labelsTr", "imagesTs", "labelsTs"
_CHANNEL = re.compile(r"_(\d{4})$")
_MOST_CLASSES = 255


class Decathlon(ScanDataset):
    """A folder with ``dataset.json``, ``imagesTr`` and ``labelsTr``, as in MSD and nnU-Net.

    An image is ``<case>.nii.gz`` with the channels along a fourth axis, or one file per channel,
    ``<case>_0000.nii.gz`` and so on. A label is ``<case>.nii.gz``. Any ending that SimpleITK reads
    is accepted. ``dataset.json`` names classes and channels; a channel named CT is windowed. Cases
    of ``imagesTr`` without a label are unlabeled. Cases of ``imagesTs`` are the test cases if all
    of them have a label in ``labelsTs``, and unlabeled otherwise.
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
        raw = read_json(about)
        if not isinstance(raw, dict):
            raise InputError(
                f"{about}: the file must hold an object, got {type(raw).__name__}. Correct it."
            )
        modalities = _modalities(raw, about)
        names = ("background", *classes) if classes else _class_names(raw, about)
        faults = [
            Fault(
                str(about),
                f"a listed file must be in the dataset's folder, got '{name}'",
                "give its path relative to dataset.json, without '..'",
            )
            for name in _listed(raw)
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
        return Layout({**test, **train}, names, modalities, split, tuple(faults))


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
    cases = {name: ScanFiles((path,), by_label.get(name)) for name, path in plain.items()}
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
        cases[name] = ScanFiles(tuple(found[n] for n in sorted(found)), by_label.get(name))
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
    for entry in raw.get("training") or ():
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


def _listed(raw: Mapping[str, Any]) -> Iterable[str]:
    for key in ("training", "test"):
        for entry in raw.get(key) or ():
            values = entry.values() if isinstance(entry, dict) else (entry,)
            yield from (str(value) for value in values)


def _class_names(raw: Mapping[str, Any], about: Path) -> tuple[str, ...]:
    """Return names by number, from ``{"1": "liver"}`` (MSD) or ``{"liver": 1}`` (nnU-Net)."""
    labels = raw.get("labels")
    by_number: dict[int, str] = {}
    try:
        for key, value in dict(labels or {}).items():
            number, name = (int(value), key) if isinstance(value, int) else (int(key), str(value))
            by_number[number] = name
    except (TypeError, ValueError):
        by_number = {}
    count = len(by_number)
    names = tuple(by_number[n] for n in sorted(by_number))
    whole = sorted(by_number) == list(range(count)) and 2 <= count <= _MOST_CLASSES
    if not whole or len(set(names)) != count or "ignore" in names:
        raise InputError(
            f"{about}: 'labels' must name the classes 0 (background), 1, 2, ... once each, got "
            f"{labels}. Renumber them, without regions of several classes and without 'ignore'."
        )
    return names


def _modalities(raw: Mapping[str, Any], about: Path) -> tuple[Modality, ...]:
    """Return one modality per channel, from ``channel_names`` or ``modality``."""
    channels = raw.get("channel_names", raw.get("modality"))
    if not isinstance(channels, dict) or not channels:
        raise InputError(
            f"{about}: 'channel_names' (or 'modality') must name the channels, got {channels}. "
            'Write for example {"0": "MRI"}.'
        )
    try:
        ordered = [str(channels[key]) for key in sorted(channels, key=int)]
    except ValueError:
        raise InputError(
            f"{about}: channels must be numbered 0, 1, ..., got {list(channels)}. Renumber them."
        ) from None
    known: dict[str, Modality] = {"ct": "ct", "nonorm": "none"}
    return tuple(known.get(name.strip().lower(), "mr") for name in ordered)
