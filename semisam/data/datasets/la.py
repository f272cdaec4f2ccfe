"""Left atrium scans in the layout published with UA-MT and used in most later work."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from semisam.core.errors import InputError
from semisam.data.datasets.canvas import check_canvas, on_canvas
from semisam.data.datasets.dataset import Dataset, Image, Split, as_label
from semisam.data.datasets.splits import read_list
from semisam.data.images.files import Geometry
from semisam.data.images.hdf5 import find_volume, has_volume, open_hdf5, read_volume, stated_spacing

FILE_NAME = "mri_norm2.h5"
PUBLISHED_SPACING = 0.625
HALF_DEPTH = 44  # the published volumes have 88 slices; 44 is the half-resolution copy


class LeftAtrium(Dataset):
    """The 2018 Atrial Segmentation Challenge as published with UA-MT (Yu et al., MICCAI 2019).

    Layout: ``<path>/<case>/mri_norm2.h5`` with the keys ``image``, float32 ``(W, H, D)``, z-scored,
    and ``label``, 0 or 1; the lists ``train.list`` and ``test.list`` have one case per line. The
    published files, those of test cases too, are cropped in the plane around the truth. So the
    results are not those of a full scan; `note` adds this to every table.

    Args:
        path: the folder with the lists.
        spacing: isotropic voxel size in mm. An attribute ``spacing`` of the h5 file has priority.
            The default is 0.625 mm, or 1.25 mm for 44 slices (the published volumes all have 88
            slices of 0.625 mm).
        canvas: places each scan at a random place of a canvas so many times as large, a control:
            the published crops hold the atrium in their middle.

    Raises:
        InputError: a list is missing, empty, names a case twice or one outside the folder.
    """

    name: ClassVar[str] = "la"
    note: str = "LA 2018, published crop around the truth"

    def __init__(
        self, path: Path | None = None, *, spacing: float | None = None, canvas: float = 1.0
    ) -> None:
        if path is None:
            raise InputError(
                "the path of the dataset la must be a folder with train.list, test.list and "
                f"<case>/{FILE_NAME}, got no path. Give it with --data."
            )
        if spacing is not None and not (math.isfinite(spacing) and spacing > 0):
            raise InputError(
                f"spacing must be a positive number of mm, got {spacing}. Leave it out for "
                f"{PUBLISHED_SPACING}."
            )
        check_canvas(canvas)
        super().__init__(path)
        self.folder = path
        self.spacing = spacing
        self.canvas = canvas
        self.num_classes = 2
        self.channels, self.channel_names = 1, ("mr",)
        self.class_names = ("background", "left atrium")
        self._split = _read_split(path)
        self.suggested = self._suggest()

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Return whether the folder holds ``train.list`` and a ``<case>/mri_norm2.h5``."""
        return (path / "train.list").is_file() and any(path.glob(f"*/{FILE_NAME}"))

    def split(self) -> Split:
        """Return the cases of ``train.list`` and ``test.list``."""
        return self._split

    def image(self, case: str) -> Image:
        """Read the ``image`` of one file, ``(1, W, H, D)``, but not its ``label``."""
        with open_hdf5(self._file(case)) as file:
            array = read_volume(file, "image").astype(np.float32, copy=False)
            given = stated_spacing(file)
        if array.ndim != 3:
            raise InputError(
                f"{self.source(case)}: 'image' must be a volume (W, H, D), got shape "
                f"{array.shape}. Write the file again."
            )
        spacing = given or self._spacing(array.shape[2])
        placed = on_canvas(array[None], case, self.canvas)
        return Image(placed, Geometry(spacing=spacing), has_geometry=False)

    def label(self, case: str) -> NDArray[np.uint8]:
        """Read the ``label`` of one file, ``(W, H, D)``."""
        with open_hdf5(self._file(case)) as file:
            label = as_label(read_volume(file, "label"), self.source(case))
        return on_canvas(label, case, self.canvas, 0)

    def has_label(self, case: str) -> bool:
        """Return whether the file has the key ``label``."""
        with open_hdf5(self._file(case)) as file:
            return has_volume(file, "label")

    def source(self, case: str) -> str:
        """Return the path of the case's file."""
        return str(self._file(case))

    def _file(self, case: str) -> Path:
        return self.folder / case / FILE_NAME

    def _suggest(self) -> dict[str, Any]:
        """Return the paper's 80 mm patch and a laptop's schedule for half-resolution scans.

        Full-resolution volumes need no suggestion: the paper's settings fit them.
        """
        try:
            with open_hdf5(self._file(self._split.train[0])) as file:
                depth = int(find_volume(file, "image").shape[2])
        except (InputError, IndexError):
            return {}  # the check of the volumes reports the fault
        return {"patch": (64, 64, 48), "iterations": 1000} if depth == HALF_DEPTH else {}

    def _spacing(self, depth: int) -> tuple[float, ...]:
        """Return the spacing of a file that states none."""
        by_depth = 2 * PUBLISHED_SPACING if depth == HALF_DEPTH else PUBLISHED_SPACING
        return (by_depth if self.spacing is None else self.spacing,) * 3


def _read_split(path: Path) -> Split:
    train, test = (read_list(path / name, f"/{FILE_NAME}") for name in ("train.list", "test.list"))
    both = sorted(set(train) & set(test))
    if both:
        raise InputError(
            f"{path}: no case may be in both train.list and test.list, got {both[0]}. Remove it "
            "from one of them."
        )
    return Split(train, test)
