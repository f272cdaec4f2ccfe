"""Labels that pass for unlabeled scans, because their names are not those of labels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import SequenceMatcher
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from semisam.core.errors import InputError
from semisam.data.datasets.faults import Fault
from semisam.data.images.files import read_image
from semisam.data.images.headers import read_header

if TYPE_CHECKING:
    from semisam.data.datasets.scans import ScanFiles

_FEW = 32  # values of a label; even a dark 8-bit scan has more
_SAMPLE = 20_000  # voxels that show most scans to be none
_TOKEN = re.compile(
    r"(?<![a-z])(labels?|lbl|seg|segm|segmentations?|masks?|gt|ground_?truth|annotations?|rois?)"
    r"(?![a-z])",
    re.IGNORECASE,
)
_SEPARATORS = "-_. "


def label_fault(
    case: str, cases: Mapping[str, ScanFiles], array: NDArray[Any] | None = None
) -> Fault | None:
    """Return a fault if an unlabeled image looks like the label of another one.

    It does if it holds a few whole numbers, and the other image does not. In addition, its name
    must be related to the other's, or it must be mostly 0 on the other's grid.

    Args:
        case: name of the unlabeled image.
        cases: the files of every case.
        array: its voxels; ``None``: they are read only if the name suggests a label and the header
            allows one, and an unreadable file has no fault here.
    """
    images = {name: files.images[0] for name, files in cases.items()}
    path = images[case]
    try:
        other = related(case, images)
        if array is None:
            suggests = other is not None or _TOKEN.search(case) is not None
            if not suggests or path.is_dir() or read_header(path).bytes_per_value > 2:
                return None
            array = read_image(path, stacked=True)[0]
        if not has_few_values(array):
            return None
        if other is None and 2 * np.count_nonzero(array) <= array.size:
            other = _on_the_same_grid(case, images)
        if other is None or has_few_values(read_image(images[other], stacked=True)[0]):
            return None
    except InputError:
        return None
    place, label = cases[other].place, cases[other].label
    known = f"name it {other}_label" if place is None else f"save it as {place}"
    if label is not None:
        known = f"merge it into {label}"
    return Fault(
        str(path),
        f"every image must be a scan, got one that looks like a label of {other}",
        f"{known}, or remove it from the folder",
    )


def related(case: str, names: Mapping[str, Any]) -> str | None:
    """Return the longest other name that is a case's name without its first or last part."""
    parts = [i for i, letter in enumerate(case) if letter in _SEPARATORS and i]
    found = [name for i in parts for name in (case[:i], case[i + 1 :]) if name in names]
    return max(found, key=len, default=None)


def has_few_values(array: NDArray[Any]) -> bool:
    """Return whether all voxels are whole numbers, of which there are only a few and at least 2."""
    flat = array.ravel()
    for voxels in (flat[:: max(1, flat.size // _SAMPLE)], flat):
        if not np.array_equal(voxels, np.floor(voxels)) or len(np.unique(voxels)) > _FEW:
            return False
    return len(np.unique(flat)) > 1


def _on_the_same_grid(case: str, images: Mapping[str, Path]) -> str | None:
    """Return the case with the most similar name among those of the same size and spacing."""

    def grid(path: Path) -> tuple[Any, ...]:
        header = read_header(path)
        return header.size, tuple(round(mm, 3) for mm in header.spacing)

    own, found = grid(images[case]), []
    for name, path in images.items():
        try:
            if name != case and grid(path) == own:
                found.append(name)
        except InputError:
            continue
    numbers = re.findall(r"\d+", case)
    return max(
        found,
        key=lambda name: (
            re.findall(r"\d+", name) == numbers,
            SequenceMatcher(None, case, name).ratio(),
        ),
        default=None,
    )
