"""A folder of scans and their labels."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from semisam.core.errors import InputError
from semisam.core.files import read_text
from semisam.data.datasets.scans import (
    Layout,
    ScanDataset,
    ScanFiles,
    without_ending,
)
from semisam.data.datasets.splits import Fault
from semisam.data.datasets.survey import count_channels
from semisam.data.images.dicom import is_series
from semisam.data.images.preprocessing import Modality

LABEL_ENDING = "_label"
CLASSES = "classes.list"
_OTHERS = ("dataset.json", "manifest.json", "unfinished.json")
_OTHERS_PER_CASE = ("mri_norm2.h5", "lgemri.nrrd")


class ScanFolder(ScanDataset):
    """A folder in which the label of a case is named ``<case>_label``.

    An image is ``<folder>/<case>.<ending>``, or ``<folder>/<case>/`` with the slices of one DICOM
    series. Its label is ``<folder>/<case>_label.<ending>``. SimpleITK must read both formats, which
    may differ. A case without a label file is unlabeled. The names of the foreground classes are in
    ``classes.list``, one per line, or in the option ``classes``; without both there is one class.
    Several channels are several values per voxel in one file.
    """

    name: ClassVar[str] = "folder"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Return whether the folder holds an image and no file of another layout."""
        if any((path / other).exists() for other in _OTHERS):
            return False
        if any(any(path.glob(f"*/{name}")) for name in _OTHERS_PER_CASE):
            return False  # another layout with a picture in it
        return any(_case_of(entry) is not None for entry in path.iterdir())

    @classmethod
    def discover(cls, path: Path, classes: tuple[str, ...] = ()) -> Layout:
        """Pair images and labels by their names."""
        images: dict[str, Path] = {}
        labels: dict[str, Path] = {}
        faults: list[Fault] = []
        for entry in sorted(path.iterdir()):
            name = _case_of(entry)
            if name is None:
                continue
            kind = labels if name.endswith(LABEL_ENDING) else images
            case = name.removesuffix(LABEL_ENDING)
            if case in kind:
                faults.append(
                    Fault(
                        str(entry),
                        f"a case must have one image and one label, got also {kind[case].name}",
                        "remove one of them from the folder",
                    )
                )
                continue
            kind[case] = entry
        faults += [
            Fault(
                str(labels[case]),
                f"a label must have an image, got no {case} of any image format",
                "add the image or correct the name",
            )
            for case in sorted(set(labels) - set(images))
        ]
        if not images:
            raise InputError(
                f"{path}: a folder must hold images <case>.nii.gz (or .nrrd, .mha, a DICOM folder "
                f"...), got none. Their labels are <case>{LABEL_ENDING}.nii.gz."
            )
        cases = {case: ScanFiles((images[case],), labels.get(case)) for case in images}
        names = classes or _read_classes(path / CLASSES)
        channels = count_channels(images.values())
        usual: Modality = "mr"
        return Layout(cases, ("background", *names), (usual,) * channels, faults=tuple(faults))


def _case_of(entry: Path) -> str | None:
    """Return the name of an image or a label without its ending; ``None`` for other entries."""
    if entry.name.startswith("."):
        return None
    if entry.is_dir():
        return entry.name if is_series(entry) else None
    return without_ending(entry.name)


def _read_classes(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        return ("foreground",)
    names = tuple(line.strip() for line in read_text(path).splitlines())
    names = tuple(name for name in names if name)
    if not names or len(set(names)) != len(names) or "background" in names:
        raise InputError(
            f"{path}: it must name the foreground classes 1, 2, ..., one per line and each once, "
            f"got {', '.join(names) or 'none'}. Leave the background out."
        )
    return names
