"""The 2018 Atrial Segmentation Challenge as distributed by its organisers."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from semisam.core.errors import InputError
from semisam.data.datasets.dataset import Split
from semisam.data.datasets.faults import Fault
from semisam.data.datasets.scans import Layout, ScanDataset, ScanFiles

IMAGE, LABEL = "lgemri.nrrd", "laendo.nrrd"
_TRAINING, _TESTING = "Training Set", "Testing Set"
_FOREGROUND = 255


class RawLeftAtrium(ScanDataset):
    """Whole scans of the left atrium, without the published copy's crop around the truth.

    Layout: ``<path>/<case>/lgemri.nrrd`` and ``laendo.nrrd`` with 255 as the atrium, or the same
    in the folders ``Training Set`` and ``Testing Set``, which are then the split. The published
    ``train.list`` and ``test.list`` can be added to the folder unchanged.
    """

    name: ClassVar[str] = "la-raw"
    note: str = "LA 2018, whole scans"
    aligned_labels: bool = False  # the challenge's label files have no origin and direction

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Return whether the folder or its ``Training Set`` holds a ``<case>/lgemri.nrrd``."""
        return any(any(folder.glob(f"*/{IMAGE}")) for folder in (path, path / _TRAINING))

    @classmethod
    def discover(cls, path: Path, classes: tuple[str, ...] = ()) -> Layout:
        """Find the cases' folders."""
        parts = [sorted(p.glob(f"*/{IMAGE}")) for p in (path, path / _TRAINING, path / _TESTING)]
        if not any(parts):
            raise InputError(f"{path}: there must be <case>/{IMAGE}, got none. Give their folder.")
        cases: dict[str, ScanFiles] = {}
        faults: list[Fault] = []
        for image in (image for part in parts for image in part):
            case, label = image.parent.name, image.with_name(LABEL)
            if case in cases:
                faults.append(
                    Fault(
                        str(image), f"each case must be there once, got {case} twice", "remove one"
                    )
                )
            drawn = label if label.is_file() else None
            cases[case] = ScanFiles((image,), drawn, place=label)
        test = tuple(image.parent.name for image in parts[2])
        held_out = bool(test) and all(cases[case].label is not None for case in test)
        rest = tuple(case for case in cases if case not in set(test))
        names = ("background", *(classes or ("left atrium",)))
        split = Split(rest, test) if held_out else None
        return Layout(cases, names, ("mr",), split, tuple(faults), {_FOREGROUND: 1})
