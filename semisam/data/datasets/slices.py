"""Slices of cardiac scans in the layout published with SSL4MIS, scored as volumes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from semisam.core.errors import InputError
from semisam.data.datasets.dataset import Dataset, Image, Split, as_label
from semisam.data.datasets.groups import find_groups
from semisam.data.datasets.splits import read_list
from semisam.data.images.files import Geometry
from semisam.data.images.hdf5 import has_volume, open_hdf5, read_volume
from semisam.data.images.preprocessing import Recipe

TRAIN, TESTS, FOLDER = "train_slices.list", ("test.list", "val.list"), "data"
_SLICE = re.compile(r"(?P<case>.+)_slice_(?P<number>\d+)")
_PATCH = (256, 256)


class PublishedSlices(Dataset):
    """ACDC as published with SSL4MIS (Luo et al.): slices for training, volumes for the test.

    Layout: ``train_slices.list`` names the slices ``data/slices/<case>_slice_<n>.h5``, and
    ``test.list`` the volumes ``data/<case>.h5``. Each file has the keys ``image`` ``(y, x)``, or
    ``(z, y, x)`` of a volume, and ``label``. Without ``test.list`` the volumes of ``val.list`` are
    the test cases. Otherwise nothing uses them, because the last weights are deployed.

    A case is a volume ``(x, y, z)``. A training case is the stack of its listed slices. The number
    of labeled cases of a run counts patients: all volumes of a patient are labeled or none. Their
    order is that of the list, so that 7 patients are the published 136 slices. Images are z-scored
    over the volume (published: as in the files, from 0 to 1), so that new scans can be prepared
    alike.

    Args:
        path: the folder with the lists.
        classes: names of the foreground classes 1, 2, ... .
        spacing: mm per axis of volumes whose file has no attribute ``spacing``. The published
            files have lost it, so distances in mm are only as good as this option.
        groups: regular expression whose first group in a case's name is its patient.

    Raises:
        InputError: a list is missing, empty, or names something outside the folder.
    """

    name: ClassVar[str] = "slices"
    note: str = "slices as published, scored as volumes"
    counts_patients: bool = True
    reversed_axes: bool = True
    recipe: Recipe

    def __init__(
        self,
        path: Path | None = None,
        *,
        classes: tuple[str, ...] = ("right ventricle", "myocardium", "left ventricle"),
        spacing: tuple[float, ...] = (1.0, 1.0, 10.0),
        groups: str = "^([^_]+)",
    ) -> None:
        if path is None:
            raise InputError(
                f"the path of the dataset slices must be a folder with {TRAIN}, {TESTS[0]} and "
                f"{FOLDER}/slices, got no path. Give it with --data."
            )
        super().__init__(path)
        self.folder = path
        self._spacing = _checked(spacing, "the option")
        self.num_classes, self.channels = len(classes) + 1, 1
        self.class_names = ("background", *classes)
        self.suggested = {"patch": _PATCH}
        self.recipe = Recipe(None, ("mr",), crop="none")
        self.channel_names = self.recipe.modalities
        self._slices = _by_case(path / TRAIN, read_list(path / TRAIN, ".h5"))
        known = [name for name in TESTS if (path / name).is_file()]
        test = read_list(path / (known or TESTS)[0], ".h5")
        self.groups = find_groups(path, (*self._slices, *test), groups)
        tested = {self.groups[case] for case in test}
        both = sorted({self.groups[case] for case in self._slices} & tested)
        if both:
            raise InputError(
                f"{path}: no patient may be in both {TRAIN} and {known[0]}, got {both[0]}. Remove "
                "the cases of the patient from one of them."
            )
        self._split = Split(tuple(self._slices), test, known[0])

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Return whether the folder holds ``train_slices.list`` and ``data/slices``."""
        return (path / TRAIN).is_file() and (path / FOLDER / "slices").is_dir()

    def split(self) -> Split:
        """Return the cases of ``train_slices.list`` and those of ``test.list``."""
        return self._split

    def image(self, case: str) -> Image:
        """Read one volume ``(1, x, y, z)``, but not its label."""
        with open_hdf5(self.files(case)[0]) as file:
            given = file.attrs.get("spacing")
        spacing = self._spacing if given is None else _checked(given, self.source(case))
        array = self._read(case, "image").astype(np.float32, copy=False)
        image, _, _ = self.recipe.apply(array[None], Geometry(spacing))
        return Image(image, Geometry(spacing), has_geometry=False)

    def label(self, case: str) -> NDArray[np.uint8]:
        """Read one label ``(x, y, z)``."""
        return as_label(self._read(case, "label"), self.source(case))

    def has_label(self, case: str) -> bool:
        """Return whether the first file of the case has the key ``label``."""
        with open_hdf5(self.files(case)[0]) as file:
            return has_volume(file, "label")

    def source(self, case: str) -> str:
        """Return the path of the case's (first) file."""
        return str(self.files(case)[0])

    def files(self, case: str) -> tuple[Path, ...]:
        """Return the file of a volume, or those of its slices."""
        slices = self._slices.get(case)
        if slices is None:
            return (self.folder / FOLDER / f"{case}.h5",)
        return tuple(self.folder / FOLDER / "slices" / f"{name}.h5" for name in slices)

    def _read(self, case: str, key: str) -> NDArray[Any]:
        """Read the volume ``(x, y, z)`` of a key."""
        parts, axes = [], 2 if case in self._slices else 3
        for path in self.files(case):
            with open_hdf5(path) as file:
                parts.append(read_volume(file, key))
            if parts[-1].ndim != axes or parts[-1].shape != parts[0].shape:
                raise InputError(
                    f"{path}: '{key}' must have {axes} axes and the size of the case's other "
                    f"slices, got shape {parts[-1].shape}. Write the file again."
                )
        volume = np.stack(parts) if axes == 2 else parts[0]
        return np.ascontiguousarray(volume.T)


def _by_case(path: Path, names: Iterable[str]) -> dict[str, list[str]]:
    """Return the slices of each case in the order of their numbers, cases as in the list."""
    found: dict[str, dict[int, str]] = {}
    for name in names:
        match = _SLICE.fullmatch(name)
        if match is None:
            raise InputError(
                f"{path}: a slice must be named <case>_slice_<n>, got '{name}'. Correct the list."
            )
        found.setdefault(match["case"], {})[int(match["number"])] = name
    return {case: [slices[n] for n in sorted(slices)] for case, slices in found.items()}


def _checked(spacing: Any, source: str) -> tuple[float, ...]:
    values = tuple(float(value) for value in np.ravel(spacing))
    if len(values) != 3 or not all(math.isfinite(v) and v > 0 for v in values):
        raise InputError(
            f"{source}: spacing must be three positive numbers of mm (x, y, z), got {values}. "
            "Correct it."
        )
    return values
