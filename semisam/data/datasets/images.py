"""A folder of pictures and their masks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from semisam.core.errors import InputError
from semisam.data.datasets.faults import Fault
from semisam.data.datasets.folder import ScanFolder, is_other_layout
from semisam.data.datasets.pairing import ALL_ENDINGS, holds_pictures, list_files, read_classes
from semisam.data.datasets.scans import Layout
from semisam.data.images.headers import read_header
from semisam.data.images.pictures import PICTURES, read_mask
from semisam.data.images.preprocessing import LONGEST, Recipe

_WHITE = 255


class ImageFolder(ScanFolder):
    """A folder of pictures (PNG, JPEG, TIFF of one page, BMP), grey or coloured, and their masks.

    Pictures and masks are paired as in the dataset ``folder``: ``<case>.jpg`` and
    ``<case>_mask.png``, or folders such as ``images`` and ``masks``. A mask holds 0 and 255, or
    the class numbers, directly or as indices of a palette. A JPEG holds 0 and 255. A mask may be
    empty. Or each class has a mask of its own.

    Colours are three channels, each z-scored over the picture. Among coloured pictures, a grey one
    has three equal channels. A picture has no millimetres, so distances are in its pixels.

    Args:
        path: the folder.
        longest: pixels of the longer side above which a picture is shrunk, for training and
            prediction; 0 keeps every size. Scores are computed on the picture's own pixels.
        classes: names of the foreground classes 1, 2, ...; without them, those of classes.list, or
            one class.
        labels: classes by value of the masks, for example 255=1 or 4=3; without it, 255 is the
            only class if the masks hold it.
        ignore: values of pixels that nobody annotated; no loss and no score reads them.
        test_share: share of the labeled cases to draw for the test if no split is given.
        split_seed: seed of that draw.
        fold: fold of nnU-Net's splits_final.json, if that file exists.
        groups: regular expression whose first group in a case's name is its patient, e.g.
            ``^([^_]+)_``; without it, groups.csv in the folder, if that file exists.
        without: cases to leave out, for example because their files are damaged.

    Raises:
        InputError: an option is out of range, or names, lists or headers of the folder are wrong.
    """

    name: ClassVar[str] = "images"
    endings: ClassVar[tuple[str, ...]] = PICTURES
    example: ClassVar[str] = "<case>.png (or .jpg, .bmp, .tif)"
    fixed: ClassVar[Mapping[str, Any]] = MappingProxyType({"crop": "none"})
    empty_labels: bool = True

    def __init__(
        self,
        path: Path | None = None,
        *,
        longest: int = LONGEST,
        classes: tuple[str, ...] = (),
        labels: dict[int, int] | None = None,
        ignore: int | tuple[int, ...] = (),
        test_share: float = 0.2,
        split_seed: int = 0,
        fold: int = 0,
        groups: str = "",
        without: tuple[str, ...] = (),
    ) -> None:
        self._added = {"longest": longest}
        super().__init__(
            path,
            classes=classes,
            labels=labels,
            ignore=ignore,
            test_share=test_share,
            split_seed=split_seed,
            fold=fold,
            groups=groups,
            without=without,
            **self.fixed,
        )

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Return whether all images of the folder are pictures."""
        return not is_other_layout(path) and holds_pictures(path)

    @classmethod
    def discover(cls, path: Path, classes: tuple[str, ...] = ()) -> Layout:
        """Pair pictures and masks by their names; look for colours and for masks with 255."""
        layout = super().discover(path, classes)
        _, masks = list_files(path, ALL_ENDINGS, classes or read_classes(path))
        faults = [
            Fault(
                str(mask),
                "the mask of a picture must be a picture, got another format",
                "save it as PNG",
                case,
            )
            for case, mask in masks
            if case in layout.cases
            and layout.cases[case].label is None
            and not mask.name.lower().endswith(PICTURES)
        ]
        channels = 3 if any(map(_has_colours, layout.first_images().values())) else 1
        labels = (file.label for file in layout.cases.values() if not file.classes)
        values = {}
        if len(layout.classes) == 2 and _is_white(label for label in labels if label is not None):
            values = {_WHITE: 1}
        modality = layout.modalities[0]
        return replace(
            layout,
            modalities=(modality,) * channels,
            values=values,
            faults=(*layout.faults, *faults),
        )

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """Refuse options that are out of range for every folder."""
        super().check_options(options)
        if options["longest"] < 0:
            raise InputError(
                f"longest must be at least 0, got {options['longest']}. 0 keeps every size."
            )

    @classmethod
    def recipe_from(cls, usual: Recipe, options: Mapping[str, Any]) -> Recipe:
        """Return the preprocessing of pictures, whose pixels have no size."""
        return replace(usual, spacing=None, longest=options["longest"] or None)


def _has_colours(path: Path) -> bool:
    try:
        return read_header(path).components > 1
    except InputError:
        return False  # reported when the case is read


def _is_white(labels: Iterable[Path]) -> bool:
    """Return whether the first mask that is not empty holds 255 only."""
    for path in labels:
        try:
            most = read_mask(path)
        except InputError:
            continue  # reported when the case is read
        if most.any():
            return set(most[most > 0].tolist()) == {_WHITE}
    return False
