"""The base of datasets of image files in any format that SimpleITK reads."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from semisam.core.errors import InputError
from semisam.core.files import printable
from semisam.data.datasets.dataset import Dataset, Image, Split
from semisam.data.datasets.faults import Fault, fault_of
from semisam.data.datasets.grids import (
    Grid,
    common_spacing,
    fitting_patch,
    flat_axis,
    grids_of,
)
from semisam.data.datasets.groups import find_groups
from semisam.data.datasets.labels import LabelValues
from semisam.data.datasets.lookalikes import label_fault
from semisam.data.datasets.splits import find_split
from semisam.data.images.alignment import misfit, same_place, with_flat_axis
from semisam.data.images.files import PIXELS, Geometry, mask_ending, read_image
from semisam.data.images.pictures import is_picture, read_mask
from semisam.data.images.preprocessing import LONGEST, Crop, Modality, Placement, Recipe

ENDINGS = (
    *(".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".hdr", ".gipl.gz", ".gipl", ".mnc"),
    *(".dcm", ".tiff", ".tif", ".png"),
)
"""Endings of image files; other files are ignored."""


@dataclass(frozen=True)
class ScanFiles:
    """The files of one case.

    Attributes:
        images: one file per channel, or one file with all channels.
        label: the label's (first) file, or ``None`` for an unlabeled case.
        classes: the label's files by class, if each class has a file of its own.
        place: the path where a label belongs; ``None``: next to the image as ``<case>_label``.
    """

    images: tuple[Path, ...]
    label: Path | None
    classes: Mapping[int, Path] = field(default_factory=dict)
    place: Path | None = None

    def labels(self) -> tuple[Path, ...]:
        """Return all files of the label."""
        return tuple(self.classes.values()) or ((self.label,) if self.label else ())

    def read_label(self) -> tuple[NDArray[np.float32], Geometry]:
        """Read the values of the label ``(*S)``: the class numbers, if each class has a file.

        Raises:
            InputError: a file is unreadable or has channels, or the masks of two classes overlap
                or have different grids.
        """
        if self.classes:
            return _read_by_class(self.classes)
        assert self.label is not None
        return read_values(self.label)


@dataclass(frozen=True)
class Layout:
    """The content of a folder by its names and lists, without opening an image.

    Attributes:
        cases: files by case, in the dataset's order.
        classes: names of the classes, background first.
        modalities: one modality per channel.
        split: the split that the dataset states, or ``None``.
        faults: the faults found so far.
        values: classes by value of a label file, for values that are not class numbers.
        ignored: values of voxels that nobody annotated.
        channels: names of the channels, if the folder states them.
    """

    cases: Mapping[str, ScanFiles]
    classes: tuple[str, ...]
    modalities: tuple[Modality, ...]
    split: Split | None = None
    faults: tuple[Fault, ...] = ()
    values: Mapping[int, int] = field(default_factory=dict)
    ignored: tuple[int, ...] = ()
    channels: tuple[str, ...] = ()

    def first_images(self) -> dict[str, Path]:
        """Return the first image of every case."""
        return {case: files.images[0] for case, files in self.cases.items()}

    def label_place(self, case: str) -> Path:
        """Return the path where a new label of a case belongs."""
        files = self.cases[case]
        image = files.images[0]
        return files.place or image.with_name(f"{case}_label{mask_ending(image)}")

    def without(self, cases: Sequence[str]) -> Layout:
        """Return the layout without some cases and the faults of their files.

        Args:
            cases: to leave out; of one that has a label only, that label is left out.

        Raises:
            InputError: a case does not exist.
        """
        known = {*self.cases, *(fault.case for fault in self.faults if fault.case)}
        unknown = [case for case in cases if case not in known]
        if unknown:
            raise InputError(
                f"without must name cases of the folder, got {', '.join(unknown)}. Correct the "
                "names."
            )
        gone = [self.cases[case] for case in cases if case in self.cases]
        files = {str(path) for case in gone for path in (*case.images, *case.labels())}
        kept = {case: files for case, files in self.cases.items() if case not in cases}
        faults = tuple(f for f in self.faults if f.file not in files and f.case not in cases)
        split = self.split
        if split is not None:
            train, test = (
                tuple(case for case in part if case not in cases)
                for part in (split.train, split.test)
            )
            split = replace(split, train=train, test=test)
        return replace(self, cases=kept, faults=faults, split=split)

    def odd_names(self) -> list[Fault]:
        """Return a fault for each name with characters that no terminal or table can show."""
        files = {case: str(found.images[0]) for case, found in self.cases.items()}
        names = {**dict.fromkeys(self.classes, "classes"), **files}
        return [
            Fault(
                printable(file),
                f"a name must be of printable characters, got {name!a}",
                "rename it",
            )
            for name, file in names.items()
            if not name.isprintable()
        ]


@dataclass(frozen=True)
class Contents:
    """The content of a folder for the options of its dataset.

    Attributes:
        layout: of the folder, without the cases that are left out.
        groups: the patient of each case, as of `find_groups`.
        split: into training and test; empty if it has an error.
        faults: of names and lists.
        errors: of names, lists and headers; a training is refused with the first.
        values: classes of a label's values.
        grids: of the training scans; empty if a header is unreadable.
        recipe: preprocessing, without a spacing if there are no grids.
        series: choice of a DICOM series.
    """

    layout: Layout
    groups: Mapping[str, str]
    split: Split
    faults: list[Fault]
    errors: list[InputError]
    values: LabelValues
    grids: list[Grid]
    recipe: Recipe
    series: str


class ScanDataset(Dataset):
    """A dataset of scan files with a common orientation, spacing and intensity range.

    Args:
        path: the folder.
        spacing: mm per axis of the images (left, posterior, superior), or one number for all axes;
            the default is the median of the training scans.
        modality: mr (z-score over the image), ct (window, then [-1, 1]) or none (unchanged), for
            every channel; auto is the dataset's own statement, or else mr.
        window: lower and upper end in HU for ct.
        crop: padding removes the margin that holds only the scan's lowest value, body the margin
            that is darker than tissue, none nothing. The label has no influence.
        classes: names of the foreground classes 1, 2, ..., if the dataset states no names.
        labels: classes by value of the label files, for example 255=1 or 4=3. Several values of one
            class are a region: 1=1,2=1. Other values keep their number, and 0 is background. If
            another value takes their number, they must be named too.
        ignore: values of voxels that nobody annotated; no loss and no score reads them.
        test_share: share of the labeled cases to draw for the test if no split is given.
        split_seed: seed of that draw.
        fold: fold of nnU-Net's splits_final.json, if that file exists.
        series: number, UID or begin of the description of the DICOM series to read, of folders
            with several.
        groups: regular expression whose first group in a case's name is its patient, e.g.
            ``^([^_]+)_``; without it, groups.csv in the folder, if that file exists.
        without: cases to leave out, for example because their files are damaged.

    Raises:
        InputError: an option is out of range, or names, lists or headers of the folder are wrong.
    """

    recipe: Recipe
    fixed: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """Options below that a subclass sets and does not offer."""
    _added: Mapping[str, Any] = MappingProxyType({})
    """Options that only the subclass has; its constructor sets them first."""
    aligned_labels: bool = True
    """True if a label's file has a valid geometry; otherwise its image's geometry is used."""

    def __init__(
        self,
        path: Path | None = None,
        *,
        spacing: tuple[float, ...] | None = None,
        modality: Literal["auto", "mr", "ct", "none"] = "auto",
        window: tuple[float, float] = (-160.0, 240.0),
        crop: Crop = "padding",
        classes: tuple[str, ...] = (),
        labels: dict[int, int] | None = None,
        ignore: int | tuple[int, ...] = (),
        test_share: float = 0.2,
        split_seed: int = 0,
        fold: int = 0,
        series: str = "",
        groups: str = "",
        without: tuple[str, ...] = (),
    ) -> None:
        if path is None:
            raise InputError(
                f"the path of the dataset {self.name} must be a folder, got no path. Give it with "
                "--data."
            )
        super().__init__(path)
        options = {
            **self._added,
            "spacing": spacing,
            "modality": modality,
            "window": window,
            "crop": crop,
            "classes": classes,
            "labels": labels,
            "ignore": ignore,
            "test_share": test_share,
            "split_seed": split_seed,
            "fold": fold,
            "series": series,
            "groups": groups,
            "without": without,
        }
        found = self.contents(path, options)
        if found.errors:
            raise found.errors[0]
        self.layout, self.groups, self._split = found.layout, found.groups, found.split
        self._series, self.values, self.recipe = found.series, found.values, found.recipe
        self.label_values = self.values.own_values()
        self.partial_labels = bool(self.values.ignored)
        self.class_names = self.layout.classes
        self.num_classes = len(self.class_names)
        self.channels = len(self.layout.modalities)
        self.channel_names = self.layout.channels or self.recipe.modalities
        self.suggested = {"patch": fitting_patch(found.grids, self.recipe)}
        self._placements: dict[str, Placement] = {}

    @classmethod
    @abstractmethod
    def discover(cls, path: Path, classes: tuple[str, ...] = ()) -> Layout:
        """Return the folder's layout by its names, without opening an image.

        Args:
            path: the folder.
            classes: names of the foreground classes, which override those that it states.

        Raises:
            InputError: the folder does not have this layout.
        """

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """Refuse options that are out of range for every folder.

        Args:
            options: every option of the constructor.

        Raises:
            InputError: an option is out of range.
        """
        spacing, window, share = options["spacing"], options["window"], options["test_share"]
        if spacing is not None and (len(spacing) not in (1, 2, 3) or min(spacing) <= 0):
            raise InputError(
                f"spacing must be one positive number of mm or one per axis, got {spacing}. Leave "
                "it out for the median of the scans."
            )
        if window[0] >= window[1]:
            raise InputError(
                f"window must be a lower and an upper end in HU, got {window}. Swap them."
            )
        if not 0 < share < 1:
            raise InputError(f"test_share must be between 0 and 1, got {share}. Choose 0.2.")

    @classmethod
    def contents(cls, path: Path, options: Mapping[str, Any]) -> Contents:
        """Return the content of a folder by its names, lists and headers, with its faults.

        Args:
            path: the folder.
            options: every option of the constructor.

        Raises:
            InputError: an option is wrong, or the folder does not have this layout.
        """
        cls.check_options(options)
        layout = cls.discover(path, tuple(options["classes"])).without(options["without"])
        faults, errors = [*layout.odd_names(), *layout.faults], list[InputError]()
        labeled = {case: files.label is not None for case, files in layout.cases.items()}
        groups, split, grids = dict[str, str](), Split((), ()), list[Grid]()
        try:
            groups = find_groups(path, labeled, options["groups"])
            split, wrong = find_split(
                path,
                labeled,
                layout.split,
                fold=options["fold"],
                test_share=options["test_share"],
                seed=options["split_seed"],
                groups=groups,
            )
            faults += wrong
        except InputError as error:
            faults.append(fault_of(str(path), error))
            errors.append(error)
        if faults:
            more = len(faults) - 1
            hint = f" `semisam data check` lists {more} more." if more else ""
            errors.append(InputError(f"{faults[0]}{hint}"))
        images = layout.first_images()
        try:
            grids = grids_of((images[c] for c in split.train if c in images), options["series"])
        except InputError as error:
            errors.append(error)
        spacing = common_spacing(options["spacing"], grids) if grids else None
        kind, own, ignored = options["modality"], layout.modalities, options["ignore"]
        modalities = own if kind == "auto" else (kind,) * len(own)
        window, crop = tuple(options["window"]), options["crop"]
        flat = flat_axis(grid.size for grid in grids)
        longest = LONGEST if flat is not None and options["spacing"] is None else None
        usual = Recipe(spacing, modalities, window, crop, longest, flat)
        mapping = layout.values if options["labels"] is None else options["labels"]
        ignored = ((ignored,) if isinstance(ignored, int) else tuple(ignored)) or layout.ignored
        values = LabelValues(cls.name, layout.classes, mapping, ignored)
        recipe, series = cls.recipe_from(usual, options), options["series"]
        return Contents(layout, groups, split, faults, errors, values, grids, recipe, series)

    @classmethod
    def recipe_from(cls, usual: Recipe, options: Mapping[str, Any]) -> Recipe:
        """Return the preprocessing; a subclass may change the usual one.

        Args:
            usual: that of scan files.
            options: every option of the constructor.
        """
        return usual

    def split(self) -> Split:
        """Return the given or drawn split."""
        return self._split

    def image(self, case: str) -> Image:
        """Read one image and resample it onto the dataset's grid."""
        array, geometry = read_channels(self.layout.cases[case].images, self._series, self.channels)
        try:
            image, own, placement = self.recipe.apply(array, geometry)
        except InputError as error:
            raise InputError(f"{self.source(case)}: {error}") from error
        self._placements[case] = placement
        if self.layout.cases[case].label is None:
            fault = label_fault(case, self.layout.cases, array)
            if fault is not None:
                raise InputError(str(fault))
        return Image(image, own, has_geometry=True, placement=placement)

    def label(self, case: str) -> NDArray[np.uint8]:
        """Read one label and resample it onto its image's grid."""
        label = self.drawn_label(case)
        try:
            return self._placement(case).label(label)
        except InputError as error:
            raise InputError(f"{self.label_file(case)}: {error}") from error

    def drawn_label(self, case: str) -> NDArray[np.uint8]:
        """Read one label on the grid of its file."""
        path, placement = self.label_file(case), self._placement(case)
        raw, geometry = with_flat_axis(
            *self.layout.cases[case].read_label(), placement.shape, placement.geometry
        )
        label = self.values.classes(raw, str(path))
        where = geometry if self.aligned_labels else placement.geometry
        fault = misfit(label.shape, where, placement.shape, placement.geometry)
        if fault:
            raise InputError(f"{path}: {fault}")
        return label

    def _placement(self, case: str) -> Placement:
        if case not in self._placements:  # the crop depends on the image
            self.image(case)
        return self._placements[case]

    def has_label(self, case: str) -> bool:
        """Return whether there is a label file."""
        return self.layout.cases[case].label is not None

    def source(self, case: str) -> str:
        """Return the path of the case's (first) image."""
        return str(self.layout.cases[case].images[0])

    def files(self, case: str) -> tuple[Path, ...]:
        """Return the case's image and label files."""
        files = self.layout.cases[case]
        return (*files.images, *files.labels())

    def label_file(self, case: str) -> Path:
        """Return the label's (first) path.

        Raises:
            InputError: the case has no label.
        """
        path = self.layout.cases[case].label
        if path is None:
            raise InputError(f"{self.source(case)}: the case must have a label, got none. Add it.")
        return path


def read_channels(
    paths: Sequence[Path], series: str = "", channels: int = 1
) -> tuple[NDArray[np.float32], Geometry]:
    """Read the channels of one scan, ``(C, *S)``, which must have one grid.

    Args:
        paths: one file per channel, or one file or DICOM folder with all channels.
        series: choice of a DICOM series.
        channels: of the dataset; among coloured pictures a grey one has three equal channels.

    Raises:
        InputError: a channel is unreadable or has another grid.
    """
    arrays: list[NDArray[np.float32]] = []
    first: Geometry | None = None
    for path in paths:
        array, geometry = read_image(path, stacked=True, series=series)
        arrays.append(array if array.ndim > len(geometry.spacing) else array[None])
        first = first or geometry
        if arrays[-1].shape[1:] != arrays[0].shape[1:] or not same_place(
            geometry, first, array.shape[-len(geometry.spacing) :]
        ):
            raise InputError(
                f"{path}: all channels of a scan must have one grid, got another grid than that of "
                "the first channel. Resample it onto the first."
            )
    assert first is not None
    array = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    if len(array) == 1 and channels == 3 and is_picture(paths[0]):
        array = np.repeat(array, 3, 0)
    return array, first


def read_values(path: Path) -> tuple[NDArray[np.float32], Geometry]:
    """Read the values of a label file ``(*S)``.

    Raises:
        InputError: it is unreadable or has channels.
    """
    if is_picture(path):
        return read_mask(path), PIXELS
    array, geometry = read_image(path, stacked=True)
    if array.ndim > len(geometry.spacing):
        if len(array) != 1:
            raise InputError(
                f"{path}: a label must have one value per voxel, got {len(array)}. Write the class "
                "numbers 0, 1, 2, ... into one channel."
            )
        array = array[0]
    return array, geometry


def _read_by_class(files: Mapping[int, Path]) -> tuple[NDArray[np.float32], Geometry]:
    """Read masks of one class each as one label ``(*S)``."""
    (number, first), *others = files.items()
    mask, geometry = read_values(first)
    label = number * (mask != 0).astype(np.float32)
    for number, path in others:
        mask, where = read_values(path)
        if mask.shape != label.shape or not same_place(where, geometry, mask.shape):
            raise InputError(
                f"the masks of a case must have one grid, got two in {first} and {path}. Resample "
                "one of them."
            )
        inside = mask != 0
        shared = label[inside & (label != 0)]
        if len(shared):
            count = np.count_nonzero(shared == shared[0])
            raise InputError(
                f"the masks of two classes must not overlap, got {count} voxels that are in both "
                f"{files[int(shared[0])]} and {path}. Remove them from one mask."
            )
        label[inside] = number
    return label, geometry


def without_ending(name: str, endings: Sequence[str] = ENDINGS) -> str | None:
    """Return a file's name without its image ending; ``None`` for other files."""
    low = name.lower()
    for ending in endings:
        if low.endswith(ending) and len(name) > len(ending):
            return name[: -len(ending)]
    return None
