"""The card of a trained model: facts on its images and classes that deployment needs."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semisam.core.errors import InputError
from semisam.core.files import write_json
from semisam.data.datasets.dataset import Dataset, Image
from semisam.data.datasets.labels import as_drawn, own_values_of
from semisam.data.images.files import Geometry
from semisam.data.images.preprocessing import Modality, Recipe, orientation
from semisam.inference.components import EVERY, OneComponent

_TOWARDS, _AWAY = "LPS", "RAI"  # ITK's axes, and their opposites


@dataclass(frozen=True)
class Card:
    """The geometry of a model's images, the recipe that makes them, and the names of its classes.

    Attributes:
        channels: image channels.
        class_names: background first.
        spacing: mm per axis of the images that it was trained on.
        orientation: directions of the axes of those images. ``LPS``: index 0 runs to the left, 1 to
            the posterior, 2 to the superior. ``None``: unknown and taken as ``LPS``, the
            orientation of the published Left Atrium volumes.
        recipe: preprocessing that made the images of scans. ``None``: the images were read from
            their files without it, and a new scan is resampled and z-scored per channel.
        label_values: value of each class in the user's label files, which masks are written with.
            ``None``: the class numbers.
        reversed_axes: True if the axes of an h5 file are (z, y, x).
        one_component: classes of which a mask keeps one component only.
        surest_component: that one is the component of which the network is surest, else the
            largest.
        left_out: classes for which the promptable model of a run is not queried.
    """

    channels: int
    class_names: tuple[str, ...]
    spacing: tuple[float, ...]
    orientation: str | None = None
    recipe: Recipe | None = None
    label_values: tuple[int, ...] | None = None
    reversed_axes: bool = False
    one_component: tuple[int, ...] = ()
    left_out: tuple[int, ...] = ()
    surest_component: bool = False

    @property
    def kept(self) -> OneComponent:
        """The classes of which a mask keeps one component, and which one."""
        return OneComponent(self.one_component, self.surest_component)

    def own_values(self, labelmap: NDArray[np.uint8]) -> NDArray[np.integer]:
        """Return a label map of class numbers with the values of the user's label files."""
        return as_drawn(labelmap, self.label_values)

    def preparation(self) -> Recipe:
        """Return the preprocessing of a new scan, in LPS."""
        if self.recipe is not None:
            return self.recipe
        # Spacing is along the images' axes; the recipe's spacing is along LPS.
        spacing = self.spacing
        if self.orientation is not None:
            spacing = tuple(spacing[list(self.axes_of_lps()[0]).index(a)] for a in range(3))
        modality: Modality = "mr"
        return Recipe(spacing, (modality,) * self.channels, crop="none")

    def axes_of_lps(self) -> tuple[tuple[int, ...], tuple[bool, ...]]:
        """Return the LPS axis of each axis of the images, and True where it is reversed."""
        if self.orientation is None:
            ndim = len(self.spacing)
            return tuple(range(ndim)), (False,) * ndim
        pairs = [
            (_TOWARDS.find(letter), False) if letter in _TOWARDS else (_AWAY.find(letter), True)
            for letter in self.orientation
        ]
        return tuple(axis for axis, _ in pairs), tuple(flip for _, flip in pairs)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Card:
        """Read a card that `to_json` wrote; values that older cards lack are unknown.

        Raises:
            KeyError, TypeError, ValueError: the values are not a card.
        """
        code, recipe = raw.get("orientation"), raw.get("recipe")
        one_component, left_out = (
            tuple(int(c) for c in raw.get(name, ())) for name in ("one_component", "left_out")
        )
        names = tuple(str(name) for name in raw["class_names"])
        spacing = tuple(float(s) for s in raw["spacing"])
        if len(spacing) not in (2, 3) or len(names) < 2 or int(raw["channels"]) < 1:
            raise ValueError("a card must have channels, class_names and spacing")
        if not all(0 < c < len(names) for c in (*one_component, *left_out)):
            raise ValueError(
                f"one_component and left_out must hold foreground classes, got {one_component} and "
                f"{left_out}"
            )
        if not all(0 < mm < math.inf for mm in spacing):
            raise ValueError(f"spacing must be positive mm, got {spacing}")
        if code is not None:
            both = [{_TOWARDS.find(c), _AWAY.find(c)} for c in str(code)]
            if len(spacing) != 3 or sorted(max(pair) for pair in both) != [0, 1, 2]:
                raise ValueError(f"orientation must be a code such as LPS, got {code}")
        return cls(
            channels=int(raw["channels"]),
            class_names=names,
            spacing=spacing,
            orientation=code,
            recipe=None if recipe is None else Recipe.from_json(recipe),
            label_values=own_values_of(raw.get("label_values"), len(names)),
            reversed_axes=bool(raw.get("reversed_axes", False)),
            one_component=one_component,
            left_out=left_out,
            surest_component=bool(raw.get("surest_component", False)),
        )


def card_of(
    dataset: Dataset,
    image: Image,
    one_component: OneComponent = EVERY,
    left_out: Sequence[int] = (),
) -> Card:
    """Return the card of a model that was trained on a dataset, one of whose images this is."""
    code = None
    if len(image.geometry.spacing) == 3:
        if dataset.recipe is not None:
            code = _TOWARDS
        elif image.has_geometry:
            code = orientation_code(image.geometry)
    return Card(
        dataset.channels,
        tuple(dataset.class_names),
        image.geometry.spacing,
        code,
        dataset.recipe,
        dataset.label_values,
        dataset.reversed_axes,
        one_component.classes,
        tuple(left_out),
        one_component.surest,
    )


def orientation_code(geometry: Geometry) -> str:
    """Return the directions of an array's three axes, each the nearest of ITK's.

    The letters are L or R, P or A, S or I (left, right, posterior, anterior, superior, inferior).
    nibabel's ``aff2axcodes`` returns the same for the same file.
    """
    axes, flips = orientation(geometry)
    letters = [""] * 3
    for world, (axis, flip) in enumerate(zip(axes, flips, strict=True)):
        letters[axis] = _AWAY[world] if flip else _TOWARDS[world]
    return "".join(letters)


def read_card(path: Path) -> Card:
    """Read a run's card, after a check of its digest.

    Raises:
        InputError: the file cannot be read, was changed or damaged, or is not a card.
    """
    try:
        raw = json.loads(path.read_bytes())
        stated = raw.pop("sha256", None)
        if stated not in (None, _digest(raw)):
            raise ValueError("its digest is not that of its content")
        return Card.from_json(raw)
    except Exception as error:  # a damaged file may raise anything
        raise InputError(
            f"{path}: the card must be as it was written, got a damaged one ({error}). Restore it, "
            "or train again."
        ) from error


def write_card(path: Path, card: Card) -> None:
    """Write a run's card atomically, with the digest of its content."""
    plain = card.to_json()
    write_json(path, {**plain, "sha256": _digest(plain)})


def _digest(card: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(card, sort_keys=True).encode()).hexdigest()
