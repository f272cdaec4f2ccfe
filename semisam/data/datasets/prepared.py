"""What ``semisam data prepare`` wrote, read a patch at a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from semisam.core.errors import InputError
from semisam.data.datasets.dataset import Dataset, Image, Split
from semisam.data.datasets.splits import read_json, stays_inside
from semisam.data.images.preprocessing import Placement, Recipe, geometry_from_json
from semisam.data.tools.prepare import FORMAT, MANIFEST, is_unfinished


class Prepared(Dataset):
    """A prepared copy of another dataset, which trains to the very same weights.

    Volumes are memory-mapped: what is not touched is not read, and what was read is the system's
    to forget.

    Args:
        path: the folder that ``semisam data prepare`` wrote.

    Raises:
        InputError: its preparation was not finished, or its manifest is damaged.
    """

    name: ClassVar[str] = "prepared"

    def __init__(self, path: Path | None = None) -> None:
        if path is None:
            raise InputError("a prepared dataset requires its folder, got no path; give one")
        super().__init__(path)
        self.folder = path
        if is_unfinished(path):
            raise InputError(
                f"{path}: the preparation must be finished, got one that was stopped; run the "
                "same `semisam data prepare` again, it goes on"
            )
        raw = read_json(path / MANIFEST)
        try:
            self._read(raw)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{path / MANIFEST}: a manifest of {FORMAT} is required, got a fault ({error!r}); "
                "prepare the scans again"
            ) from error

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Return whether there is a manifest of this format, or one is to come."""
        if is_unfinished(path):
            return True
        if not (path / MANIFEST).is_file():
            return False
        try:
            raw = read_json(path / MANIFEST)
        except InputError:
            return False
        return isinstance(raw, dict) and raw.get("format") == FORMAT

    def split(self) -> Split:
        """Return the split of the source."""
        return self._split

    def image(self, case: str) -> Image:
        """Map one image; nothing of it is read yet."""
        entry = self._cases[case]
        placement = entry["placement"]
        return Image(
            self._mapped(entry["image"], np.float32),
            geometry_from_json(entry["geometry"]),
            bool(entry["has_geometry"]),
            None if placement is None else Placement.from_json(placement),
        )

    def label(self, case: str) -> NDArray[np.uint8]:
        """Map one label map."""
        entry = self._cases[case]["label"]
        if entry is None:
            raise InputError(f"{self.source(case)}: a label is required, got none; prepare it")
        label: NDArray[np.uint8] = self._mapped(entry, np.uint8)
        return label

    def has_label(self, case: str) -> bool:
        """Return whether the source had a label."""
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
        self.channels = int(raw["channels"])
        self.note = str(raw["note"])
        self.recipe = None if raw["recipe"] is None else Recipe.from_json(raw["recipe"])
        suggested = raw["suggested"].items()
        self.suggested = {k: tuple(v) if isinstance(v, list) else v for k, v in suggested}
        self._cases: dict[str, Any] = dict(raw["cases"])
        self._split = Split(tuple(raw["split"]["train"]), tuple(raw["split"]["test"]))
        for case in (*self._split.train, *self._split.test):
            entry = self._cases[case]
            if not stays_inside(case):
                raise ValueError(f"the case {case!r} would be written outside its folder")
            for part in ("image", "label"):
                if entry[part] is not None and not stays_inside(entry[part]["file"]):
                    raise ValueError(f"{entry[part]['file']} lies outside the folder")

    def _mapped(self, entry: Mapping[str, Any], dtype: type) -> NDArray[Any]:
        path = self.folder / entry["file"]
        try:
            array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError as error:
            raise InputError(
                f"{path}: the file is missing; run the same `semisam data prepare` again"
            ) from error
        except (OSError, ValueError, EOFError) as error:
            raise InputError(
                f"{path}: a whole .npy file is required, got '{error}'; delete it and run the "
                "same `semisam data prepare` again"
            ) from error
        if array.dtype != dtype or list(array.shape) != entry["shape"]:
            raise InputError(
                f"{path}: {np.dtype(dtype).name} of shape {entry['shape']} is required, got "
                f"{array.dtype} of {list(array.shape)}; run `semisam data prepare` again"
            )
        return array
