"""The contract of a dataset: all that an author of a dataset plugin must read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from semisam.core.errors import InputError
from semisam.data.images.files import Geometry
from semisam.data.images.preprocessing import Placement, Recipe


@dataclass(frozen=True)
class Image:
    """One volume as the network is to see it, intensities already normalised.

    Attributes:
        array: ``(C, *S)`` float32, z-scored or in whatever units the dataset trains on.
        geometry: spacing in mm per array axis, and origin and direction where known.
        has_geometry: False where the file carries nothing beyond the spacing.
        placement: how the grid lies in the file, where the dataset changed it: predictions are
            written back through it. ``None``: they are written on this grid.
    """

    array: NDArray[np.float32]
    geometry: Geometry
    has_geometry: bool
    placement: Placement | None = None


@dataclass(frozen=True)
class Split:
    """Names of the training and the test cases, in the order of the published lists.

    The first N training cases that have a label are the labeled ones unless a run draws a seeded
    subset.
    """

    train: tuple[str, ...]
    test: tuple[str, ...]


class Dataset(ABC):
    """A set of cases with a fixed split.

    A subclass takes a path (or none, where it makes its data) and keyword-only options, and sets
    the instance attributes below in its constructor, which is to be cheap: it may read lists and
    headers, never volumes. Every method can be called from several threads at once.

    ``image`` must not touch the label: the labels of unlabeled cases are never read.

    Attributes:
        num_classes: classes counting background, at least 2.
        channels: image channels C.
        class_names: one name per class, the background's first.
        suggested: run settings that fit the data, used where the user gives none; may be empty.
        recipe: what makes an image of a scan, where it is the same for every case: a new scan goes
            the same way. ``None``: the files are images already.
    """

    name: ClassVar[str]
    note: str = ""
    """What a table must say of it, for example that the crop is around the truth."""

    num_classes: int
    channels: int
    class_names: tuple[str, ...]
    suggested: Mapping[str, Any]
    recipe: Recipe | None = None

    def __init__(self, path: Path | None = None) -> None:
        self.path = path

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Return whether the folder looks like this dataset's layout; reads no volume."""
        return False

    @abstractmethod
    def split(self) -> Split:
        """Return the published (or made) split."""

    @abstractmethod
    def image(self, case: str) -> Image:
        """Read one image, and nothing of its label.

        Raises:
            InputError: the file is missing or unreadable.
        """

    @abstractmethod
    def label(self, case: str) -> NDArray[np.uint8]:
        """Read one label map ``(*S)`` on the image's grid.

        Raises:
            InputError: the file is missing or unreadable.
        """

    @abstractmethod
    def has_label(self, case: str) -> bool:
        """Return whether a label exists, without reading its voxels."""

    @abstractmethod
    def source(self, case: str) -> str:
        """Return the case's file name for error messages."""

    def files(self, case: str) -> tuple[Path, ...]:
        """Return the files (or DICOM folders) that a case is made of, its label's included.

        A prepared copy of the case is as new as these are.
        """
        path = Path(self.source(case))
        return (path,) if path.exists() else ()


def as_label(array: NDArray[Any], source: str) -> NDArray[np.uint8]:
    """Convert a label map as read to uint8 without a silent wrap-around.

    Args:
        array: ``(*S)`` of any numeric type.
        source: the file's name for the message.

    Raises:
        InputError: a value is no integer in 0..255 (256 would become background).
    """
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8)
    bad = ~((array >= 0) & (array <= 255))  # so written that NaN counts as bad
    if array.dtype.kind == "f":
        bad |= array != np.floor(array)
    if bad.any():
        raise InputError(
            f"{source}: a label must hold integers from 0 to 255, got {array[bad].flat[0]}; "
            "write the class numbers 0, 1, 2, ... as the label"
        )
    return array.astype(np.uint8)
