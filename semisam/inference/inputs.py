"""The scans that a command line names: files, DICOM folders, folders of these, channel files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from semisam.core.errors import InputError, first_few
from semisam.data.datasets.folder import ScanFolder
from semisam.data.datasets.la import FILE_NAME
from semisam.data.datasets.pairing import ALL_ENDINGS, holds_pictures, list_files, read_classes
from semisam.data.datasets.scans import ENDINGS, without_ending
from semisam.data.images.dicom import is_series
from semisam.data.images.files import mask_ending
from semisam.inference.masks import outputs_of
from semisam.plugins import registry

_CHANNEL = re.compile(r"_(\d{4})$")
_TEXTS = {".csv", ".json", ".list", ".md", ".toml", ".tsv", ".txt", ".xml", ".yaml", ".yml"}
_WHOLE = -1  # in place of a channel's number: the file holds all channels


def gather_scans(inputs: Sequence[Path], channels: int) -> dict[str, tuple[Path, ...]]:
    """Return the files of each scan by the name of its mask.

    An input is an image file, a folder of one DICOM series, or a folder of these. A folder whose
    DICOM files are all in one folder below it is one scan. Labels in a folder are left out. For a
    model of several channels, ``<scan>_0000.nii.gz``, ``<scan>_0001.nii.gz`` ... are one scan, as
    nnU-Net names them. A file without such a number holds all channels. The published layout names
    every file ``mri_norm2.h5``, so the scan has the name of its folder.

    Args:
        inputs: paths as the user gave them.
        channels: number of channels that the model needs.

    Raises:
        InputError: an input does not exist or is not a scan, channels are missing, or two scans
            have one name and would overwrite each other.
    """
    missing = [str(path) for path in inputs if not path.exists()]
    if missing:
        raise InputError(f"every input must exist, got {', '.join(missing)}. Check the path.")
    paths = [_absolute(path) for given in inputs for path in _expanded(given)]
    scans: dict[str, tuple[Path, ...]] = {}
    for stem, group in _grouped(dict.fromkeys(paths), channels).items():
        if stem.name in scans:
            raise _same_name(stem.name, scans[stem.name][0], group[0])
        scans[stem.name] = group
    return scans


def left_out(inputs: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Return what `gather_scans` leaves out of folders: labels, and what no reader knows.

    Texts are neither. Several files of one scan, such as ``a.mhd`` and ``a.raw``, have one name
    before the first dot.
    """
    every: list[Path] = []
    unread: list[Path] = []
    for given in inputs:
        scans, labels = _contents(given)
        every += labels
        if given in scans:
            continue
        known = {*scans, *labels}
        folders = {given, *(path.parent for path in scans)}
        names = {path.name.split(".")[0] for path in known if not path.is_dir()}
        unread += [
            entry
            for folder in sorted(folders)
            for entry in sorted(folder.iterdir())
            if entry.name[0] != "." and entry.suffix.lower() not in _TEXTS
            if entry not in known and not any(entry in path.parents for path in known)
            if entry.is_dir() or entry.name.split(".")[0] not in names
        ]
    return every, unread


def unread_entries(folder: Path, dataset: str) -> list[Path]:
    """Return the entries of a folder of scans that its dataset leaves out, apart from texts.

    Args:
        folder: of the scans.
        dataset: name of its plugin. Plugins other than ``folder`` and ``images`` leave out nothing.
    """
    kind = registry.load("dataset", dataset)
    any_images = isinstance(kind, type) and issubclass(kind, ScanFolder)
    return left_out([folder])[1] if any_images else []


def describe_left_out(what: str, paths: Sequence[Path]) -> list[str]:
    """Return a sentence that names what is left out; none if there is nothing."""
    names = [f"{path.name}/" if path.is_dir() else path.name for path in paths]
    return [f"Left out, {what} ({len(names)}): {first_few(names)}"] if names else []


def check_outputs(
    folder: Path,
    scans: Mapping[str, tuple[Path, ...]],
    labels: Iterable[Path] = (),
    *,
    preview: bool = False,
    titles: Iterable[str] = (),
    others: Iterable[str] = (),
) -> None:
    """Refuse an output folder where a file would overwrite a scan, a label or another output.

    Args:
        folder: of the outputs.
        scans: files by name, as of `gather_scans`.
        labels: further files that must stay.
        preview: a preview of each mask is written, too.
        titles: of the classes whose probabilities are written, too.
        others: names of further outputs.

    Raises:
        InputError: a file would overwrite another, which it names.
    """
    given = {path.resolve() for group in (*scans.values(), tuple(labels)) for path in group}
    taken = {folder / name for name in others}
    for name, group in scans.items():
        for target in outputs_of(name, group[0], folder, preview=preview, titles=titles):
            if target.resolve() in given:
                raise InputError(
                    f"no mask may overwrite a scan or a label, got {folder} as the output of "
                    f"{target.resolve()}. Name another folder with -o."
                )
            if target in taken:
                raise InputError(
                    f"each output must have a name of its own, got {target.name} twice, once for "
                    f"the scan {name}. Rename that scan."
                )
            taken.add(target)


def _listed(folder: Path) -> tuple[list[tuple[str, Path]], list[tuple[str, Path]]]:
    endings = ALL_ENDINGS if holds_pictures(folder) else ENDINGS
    return list_files(folder, endings, read_classes(folder))


def _absolute(path: Path) -> Path:
    """Return a path with a name; a link keeps its own."""
    whole = path.absolute()
    return path.resolve() if whole.name in ("", "..") else whole


def _expanded(path: Path) -> list[Path]:
    found, _ = _contents(path)
    if not found:
        raise InputError(
            f"a folder must hold one DICOM series or image files, got neither in {path}. Name the "
            "scans themselves."
        )
    return found


def _contents(path: Path) -> tuple[list[Path], list[Path]]:
    """Return the scans and the labels of an input.

    A folder whose DICOM files are in it, or all in one folder below it, is one scan.
    """
    if not path.is_dir() or is_series(path, below=False):
        return [path], []
    scans, labels = ([file for _, file in files] for files in _listed(path))
    nested = not labels and len(scans) == 1 and scans[0].is_dir()
    return ([path] if nested else scans), labels


def _grouped(paths: Iterable[Path], channels: int) -> dict[Path, tuple[Path, ...]]:
    """Return the files of each scan by folder and name."""
    groups: dict[Path, dict[int, Path]] = {}
    for path in paths:
        stem, number = path.parent / _stem(path), _WHOLE
        match = _CHANNEL.search(stem.name) if channels > 1 else None
        if match is not None:
            stem, number = stem.with_name(stem.name[: match.start()]), int(match[1])
        group = groups.setdefault(stem, {})
        if group and (number in group or number == _WHOLE or _WHOLE in group):
            raise _same_name(stem.name, next(iter(group.values())), path)
        group[number] = path
    for stem, group in groups.items():
        if _WHOLE not in group and sorted(group) != list(range(channels)):
            got = ", ".join(f"_{number:04d}" for number in sorted(group))
            raise InputError(
                f"a scan must have {channels} channels, {stem.name}_0000 to "
                f"{stem.name}_{channels - 1:04d}, got {got}. Name all files of the scan."
            )
    return {stem: tuple(group[n] for n in sorted(group)) for stem, group in groups.items()}


def _same_name(name: str, one: Path, other: Path) -> InputError:
    return InputError(
        f"each scan must have a name of its own, got {one} and {other}, which would both be "
        f"written as {name}{mask_ending(one)}. Predict them into different folders."
    )


def _stem(path: Path) -> str:
    if path.name == FILE_NAME:
        return path.parent.name
    if path.is_dir():
        return path.name
    return without_ending(path.name) or (path.stem or path.name)
