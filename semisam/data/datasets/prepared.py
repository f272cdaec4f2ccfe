"""The output of ``semisam data prepare``, read by memory mapping."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from semisam.core.errors import InputError
from semisam.data.datasets.dataset import Dataset, Image, Split
from semisam.data.datasets.labels import own_values_of
from semisam.data.datasets.splits import load_json, stays_inside
from semisam.data.images.files import Geometry
from semisam.data.images.preprocessing import Placement, Recipe, geometry_from_json

FORMAT = "semisam-prepared-5"
MANIFEST, UNFINISHED, VOLUMES = "manifest.json", "unfinished.json", "volumes"


def is_unfinished(folder: Path) -> bool:
    """Return whether a preparation stopped before it wrote its manifest."""
    return (folder / UNFINISHED).is_file() and not (folder / MANIFEST).is_file()


class Prepared(Dataset):
    """A prepared copy of another dataset, which trains to the same weights.

    Volumes are memory-mapped: only the pages of a patch are read, and the system may drop them.

    Args:
        path: the folder that ``semisam data prepare`` wrote.

    Raises:
        InputError: the preparation is unfinished, or the manifest is damaged.
    """

    name: ClassVar[str] = "prepared"

    def __init__(self, path: Path | None = None) -> None:
        if path is None:
            raise InputError(
                "the path of a prepared dataset must be its folder, got no path. Give it with "
                "--data."
            )
        super().__init__(path)
        self.folder = path
        if is_unfinished(path):
            raise InputError(
                f"{path}: the preparation must be finished, got an unfinished one. Run the same "
                "`semisam data prepare` again: it resumes."
            )
        raw = load_json(path / MANIFEST)
        try:
            self._read(raw)
        except (KeyError, TypeError, ValueError, AttributeError, InputError) as error:
            raise InputError(
                f"{path / MANIFEST}: it must be a manifest of {FORMAT}, got a fault ({error!r}). "
                "Prepare the scans again."
            ) from error

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Return whether the folder holds a manifest of this format or an unfinished one."""
        if is_unfinished(path):
            return True
        if not (path / MANIFEST).is_file():
            return False
        try:
            raw = load_json(path / MANIFEST)
        except InputError:
            return False
        return isinstance(raw, dict) and raw.get("format") == FORMAT

    def split(self) -> Split:
        """Return the split of the source."""
        return self._split

    def image(self, case: str) -> Image:
        """Map one image without reading it."""
        entry = self._cases[case]
        geometry, placement = self._places[case]
        array = self._mapped(entry["image"], np.float32)
        return Image(array, geometry, bool(entry["has_geometry"]), placement)

    def label(self, case: str) -> NDArray[np.uint8]:
        """Map one label map."""
        entry = self._cases[case]["label"]
        if entry is None:
            raise InputError(
                f"{self.source(case)}: the case must have a label, got none. Prepare it."
            )
        label: NDArray[np.uint8] = self._mapped(entry, np.uint8)
        return label

    def drawn_label(self, case: str) -> NDArray[np.uint8]:
        """Map one label map of the file's grid."""
        entry = self._cases[case]["drawn"]
        if entry is None:
            return self.label(case)
        label: NDArray[np.uint8] = self._mapped(entry, np.uint8)
        return label

    def has_label(self, case: str) -> bool:
        """Return whether the source has a label."""
        return self._cases[case]["label"] is not None

    def source(self, case: str) -> str:
        """Return the path of the image's copy."""
        return str(self.folder / self._cases[case]["image"]["file"])

    def recorded_hash(self, case: str, part: str) -> str:
        """Return the manifest's SHA-256 of a case's ``image`` or ``label``."""
        return str(self._cases[case][part]["sha256"])

    def _read(self, raw: Mapping[str, Any]) -> None:
        if raw["format"] != FORMAT:
            raise ValueError(f"format {raw['format']}")
        self.class_names = tuple(str(name) for name in raw["class_names"])
        self.num_classes = len(self.class_names)
        self.label_values = own_values_of(raw.get("label_values"), self.num_classes)
        self.partial_labels = bool(raw.get("partial_labels", False))
        self.empty_labels = bool(raw.get("empty_labels", False))
        self.counts_patients = bool(raw.get("counts_patients", False))
        self.reversed_axes = bool(raw.get("reversed_axes", False))
        self.channels = int(raw["channels"])
        self.channel_names = tuple(str(name) for name in raw.get("channel_names", ()))
        self.note = str(raw["note"])
        self.recipe = None if raw["recipe"] is None else Recipe.from_json(raw["recipe"])
        suggested = raw["suggested"].items()
        self.suggested = {k: tuple(v) if isinstance(v, list) else v for k, v in suggested}
        self._cases: dict[str, Any] = dict(raw["cases"])
        split = raw["split"]
        train, test, left_out = (tuple(split[part]) for part in ("train", "test", "left_out"))
        self._split = Split(train, test, str(split["source"]), left_out)
        self.groups = {str(case): str(group) for case, group in raw["groups"].items()}
        self._places: dict[str, tuple[Geometry, Placement | None]] = {}
        for case in self._split.cases:
            entry = self._cases[case]
            placed = entry["placement"]
            placement = None if placed is None else Placement.from_json(placed)
            self._places[case] = (geometry_from_json(entry["geometry"]), placement)
            if not stays_inside(case):
                raise ValueError(f"the case {case!r} would be written outside its folder")
            for part in ("image", "label", "drawn"):
                if entry[part] is not None and not stays_inside(entry[part]["file"]):
                    raise ValueError(f"{entry[part]['file']} is outside the folder")

    def _mapped(self, entry: Mapping[str, Any], dtype: type) -> NDArray[Any]:
        path = self.folder / entry["file"]
        try:
            array: Any = np.load(path, mmap_mode="r", allow_pickle=False)
            if not isinstance(array, np.ndarray):
                raise ValueError("a zip archive")
        except FileNotFoundError as error:
            raise InputError(
                f"{path}: the file must exist, got none. Run the same `semisam data prepare` again."
            ) from error
        except (OSError, ValueError, EOFError) as error:
            raise InputError(
                f"{path}: it must be a complete .npy file, got '{error}'. Delete it and run the "
                "same `semisam data prepare` again."
            ) from error
        if array.dtype != dtype or list(array.shape) != entry["shape"]:
            raise InputError(
                f"{path}: it must hold {np.dtype(dtype).name} of shape {entry['shape']}, got "
                f"{array.dtype} of {list(array.shape)}. Run `semisam data prepare` again."
            )
        return array
