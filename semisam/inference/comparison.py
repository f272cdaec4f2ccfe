"""Scores of a folder of masks against another, of any origin."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semisam.core.errors import InputError
from semisam.data.datasets.labels import count_values
from semisam.data.datasets.pairing import ALL_ENDINGS, list_files
from semisam.data.datasets.scans import read_values
from semisam.data.images.alignment import misfit
from semisam.data.images.files import Geometry
from semisam.data.images.pictures import is_picture
from semisam.metrics.scores import evaluate_mask, surface_dice

TOLERANCES = (1.0, 2.0)
"""Distances in mm for the surface Dice."""
_WHITE = 255
_PROBABILITY = ".probability"


@dataclass(frozen=True)
class MaskPairs:
    """The masks of two folders that have one name.

    Attributes:
        pairs: the prediction and the truth by case.
        left_out: files without a partner, and plain files next to labels.
    """

    pairs: dict[str, tuple[Path, Path]]
    left_out: tuple[Path, ...]


def score(
    predictions: str | Path, truth: str | Path, *, ignore: Collection[int] = ()
) -> list[dict[str, Any]]:
    """Score the masks of a folder against those of another, as `score_masks` does.

    Args:
        predictions: folder of masks.
        truth: folder of masks, or of scans with their labels.
        ignore: values of the truth that nobody annotated.

    Raises:
        InputError: no case is in both, a mask cannot be read, or two grids differ.
    """
    return score_masks(pair_masks(Path(predictions), Path(truth)), ignore=ignore)


def pair_masks(predictions: Path, truth: Path) -> MaskPairs:
    """Pair the masks of two folders by their names.

    In a folder with scans, or with names such as ``<case>_label``, these labels are the masks.

    Raises:
        InputError: a path is not a folder, or no case is in both.
    """
    ours, theirs = masks_of(predictions), masks_of(truth)
    pairs = {case: (file, theirs[case]) for case, file in ours.items() if case in theirs}
    if not pairs:
        raise InputError(
            f"two folders to compare must hold masks of one name, got none of {len(ours)} in "
            f"{predictions} and {len(theirs)} in {truth}. Name the files by their case."
        )
    alone = [file for case, file in ours.items() if case not in pairs]
    alone += [file for case, file in theirs.items() if case not in pairs]
    plain = (_plain_files(predictions), _plain_files(truth))
    for own, others in zip(plain, ({*theirs, *plain[1]}, {*ours, *plain[0]}), strict=True):
        alone += [file for case, file in own.items() if case in others]
    return MaskPairs(pairs, tuple(alone))


def _plain_files(folder: Path) -> dict[str, Path]:
    """Return the files of cases without a label, in a folder with labels.

    They may be masks, or scans without a label, so they are not scored.
    """
    images, labels = list_files(folder, ALL_ENDINGS)
    labeled = {case for case, _ in labels}
    return {case: path for case, path in images if labels and case not in labeled}


def masks_of(folder: Path) -> dict[str, Path]:
    """Return the masks of a folder by case.

    Raises:
        InputError: the path is not a folder, or two masks have one case.
    """
    if not folder.is_dir():
        raise InputError(f"masks must be in a folder, got {folder}. Name the folder.")
    images, labels = list_files(folder, ALL_ENDINGS)
    files = [
        (case, path)
        for case, path in labels or images
        if path.is_file() and not case.endswith(_PROBABILITY)
    ]
    volumes = [(case, path) for case, path in files if not is_picture(path)]
    masks: dict[str, Path] = {}
    for case, path in volumes or files:  # next to masks of volumes, pictures are previews
        if masks.setdefault(case, path) != path:
            raise InputError(
                f"a case must have one mask, got {masks[case]} and {path}. Name the folder of one "
                "kind of mask, such as that of one class."
            )
    return masks


def score_masks(
    found: MaskPairs,
    *,
    ignore: Collection[int] = (),
    on_case: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Score each pair of masks on its own grid.

    Args:
        found: the masks.
        ignore: values of voxels in the truth that nobody annotated, which are left out.
        on_case: called with (cases done, number of cases).

    Returns:
        One row per case and value above or below 0 in any of the files: ``case``, ``class``, the
        metrics of `semisam.metrics.scores`, and the surface Dice at `TOLERANCES`. Where 255 is the
        only value on one side and 1 on the other, they are one class.

    Raises:
        InputError: a mask cannot be read, the two of a case have different grids, or each side has
            one value and these differ.
    """
    if not all(isinstance(value, Integral) for value in ignore):
        raise InputError(f"ignore must be whole numbers, got {ignore!r}. Name values of the truth.")
    left_out = set(map(int, ignore))
    ours, theirs = set[int](), set[int]()
    for pair in found.pairs.values():
        for path, values in zip(pair, (ours, theirs), strict=True):
            values |= set(count_values(read_values(path)[0], str(path))) - left_out - {0}
    classes = sorted(ours | theirs)
    white = classes == [1, _WHITE] and len(ours) == len(theirs) == 1
    if white:
        classes = [1]
    elif len(ours) == len(theirs) == 1 and len(classes) > 1:
        raise InputError(
            f"masks to compare must have one value for a class, got {min(ours)} in the predictions "
            f"and {min(theirs)} in the truth. Change one of them."
        )
    if not classes:
        raise InputError(
            "masks to compare must hold a value other than 0, got none in both folders. Name "
            "folders of masks."
        )
    rows: list[dict[str, Any]] = []
    for done, (case, (prediction, truth)) in enumerate(found.pairs.items(), start=1):
        pred, ref, geometry = _read_pair(prediction, truth)
        pred = np.where(np.isin(ref, list(left_out)), 0, pred)
        if white:
            pred, ref = (np.where(mask == _WHITE, 1, mask) for mask in (pred, ref))
        rows += [
            {"case": case, "class": value, **_score(pred == value, ref == value, geometry.spacing)}
            for value in classes
        ]
        if on_case is not None:
            on_case(done, len(found.pairs))
    return rows


def _read_pair(
    prediction: Path, truth: Path
) -> tuple[NDArray[np.float32], NDArray[np.float32], Geometry]:
    ref, geometry = read_values(truth)
    pred, where = read_values(prediction)
    if pred.shape != ref.shape or misfit(pred.shape, where, ref.shape, geometry):
        raise InputError(
            f"{prediction}: a prediction must have the grid of its truth, got another than "
            f"{truth} (voxels {_size(ref)} and {_size(pred)}). Resample one onto the other."
        )
    return pred, ref, geometry


def _score(pred: Any, ref: Any, spacing: tuple[float, ...]) -> dict[str, Any]:
    near = surface_dice(pred, ref, spacing, TOLERANCES)
    names = (f"surface_dice_{most:g}mm" for most in TOLERANCES)
    return {**asdict(evaluate_mask(pred, ref, spacing)), **dict(zip(names, near, strict=True))}


def _size(mask: NDArray[Any]) -> str:
    return " x ".join(map(str, mask.shape))
