"""The contract of a dataset, for authors of dataset plugins."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from semisam.core.errors import InputError
from semisam.data.images.files import Geometry
from semisam.data.images.preprocessing import Placement, Recipe


@dataclass(frozen=True)
class Image:
    """One volume as input of the network, with normalised intensities.

    Attributes:
        array: ``(C, *S)`` float32, z-scored or in the units that the dataset trains on.
        geometry: spacing in mm per array axis, and origin and direction if known.
        has_geometry: False if the file has only the spacing.
        placement: the grid's place in the file, if the dataset changed the grid. Predictions are
            brought to the file's grid through it, scored and written there; ``None``: they have
            the file's grid.
    """

    array: NDArray[np.float32]
    geometry: Geometry
    has_geometry: bool
    placement: Placement | None = None


@dataclass(frozen=True)
class Split:
    """Names of the training and the test cases, in the order of the published lists.

    The labeled cases are the first N training cases with a label, unless a run draws a seeded
    subset.

    Attributes:
        train: training cases, with and without a label.
        test: test cases, all with a label.
        source: where the split comes from, for a message, e.g. ``test.list``.
        left_out: further scans of patients with a test case, which another split may use.
    """

    train: tuple[str, ...]
    test: tuple[str, ...]
    source: str = field(default="of the dataset", compare=False)
    left_out: tuple[str, ...] = field(default=(), compare=False)

    @property
    def cases(self) -> tuple[str, ...]:
        """All of them: training, test and left out."""
        return (*self.train, *self.test, *self.left_out)


class Dataset(ABC):
    """A set of cases with a fixed split.

    A subclass takes a path (unused if it makes its data) and keyword-only options. Its constructor
    sets the instance attributes below. It must be fast: it may read lists and headers, but no
    volume. All methods must be thread-safe.

    ``image`` must not read the label, because labels of unlabeled cases are never read.

    Attributes:
        name: of its entry point, for tables and results.
        num_classes: classes counting background, at least 2.
        channels: image channels C.
        channel_names: name of each channel, such as ``mr``, ``ct`` or ``T2``, for methods and
            backends that want it; empty if it is not known.
        class_names: one name per class, the background's first.
        suggested: run settings that fit the data, for options that the user does not give.
        label_values: values of the classes in the user's label files, background first. Masks of
            new scans are written with them. ``None``: the class numbers.
        empty_labels: True if a label without foreground is no fault, as of a picture without the
            object.
        counts_patients: True if the number of labeled cases of a run is one of patients.
        reversed_axes: True if its h5 files hold volumes ``(z, y, x)``.
        partial_labels: True if labels may hold `semisam.core.types.IGNORE` where nobody annotated.
        recipe: the preprocessing from scan to image, if it is the same for every case and for a
            new scan. ``None`` if the files already hold images.
        groups: the patient of each case, of datasets with several scans of a patient. The scans of
            one patient are never divided between training and test.
    """

    name: ClassVar[str]
    note: str = ""
    """A remark for every table, for example that the crop is around the truth."""

    num_classes: int
    channels: int
    channel_names: tuple[str, ...] = ()
    class_names: tuple[str, ...]
    suggested: Mapping[str, Any]
    label_values: tuple[int, ...] | None = None
    empty_labels: bool = False
    counts_patients: bool = False
    reversed_axes: bool = False
    partial_labels: bool = False
    recipe: Recipe | None = None
    groups: Mapping[str, str] = MappingProxyType({})

    def __init__(self, path: Path | None = None) -> None:
        self.path = path

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Return whether the folder has this dataset's layout, without reading a volume."""
        return False

    @abstractmethod
    def split(self) -> Split:
        """Return the published or drawn split, which must not depend on labels."""

    @abstractmethod
    def image(self, case: str) -> Image:
        """Read one image, but not its label.

        Raises:
            InputError: the file is missing or unreadable.
        """

    @abstractmethod
    def label(self, case: str) -> NDArray[np.uint8]:
        """Read one label map ``(*S)`` of classes on the image's grid.

        Raises:
            InputError: the file is missing or unreadable.
        """

    def drawn_label(self, case: str) -> NDArray[np.uint8]:
        """Read one label map on the grid of the case's file, where it was drawn.

        A dataset whose images have a placement overrides it, because scores are computed there.

        Raises:
            InputError: the file is missing or unreadable.
        """
        return self.label(case)

    @abstractmethod
    def has_label(self, case: str) -> bool:
        """Return whether a label exists, without reading its voxels."""

    @abstractmethod
    def source(self, case: str) -> str:
        """Return the case's file name for error messages."""

    def files(self, case: str) -> tuple[Path, ...]:
        """Return the files (or DICOM folders) of a case, including its label.

        A prepared copy of the case is outdated if one of them changes. A dataset whose label is in
        another file than ``source`` overrides it, or the copy keeps an old label.
        """
        path = Path(self.source(case))
        return (path,) if path.exists() else ()


def as_label(array: NDArray[Any], source: str) -> NDArray[np.uint8]:
    """Convert a label to uint8 without wrap-around.

    Args:
        array: ``(*S)`` of any numeric type.
        source: the file's name for the message.

    Raises:
        InputError: a value is not an integer from 0 to 255 (256 would become background).
    """
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8)
    bad = ~((array >= 0) & (array <= 255))  # in this form NaN counts as bad
    if array.dtype.kind == "f":
        bad |= array != np.floor(array)
    if bad.any():
        raise InputError(
            f"{source}: a label must hold integers from 0 to 255, got {array[bad].flat[0]}. "
            "Write the class numbers as the label."
        )
    return array.astype(np.uint8)
