"""The promptable model on one scan, with the clicks of a person."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import SimpleITK
import torch
from numpy.typing import NDArray
from scipy import ndimage

from semisam.backends.synthsam import SynthSAM
from semisam.core.errors import InputError
from semisam.core.layout import ADAPTED, CARD
from semisam.core.regions import deepest_points
from semisam.core.types import Prompt
from semisam.data.datasets.grids import flat_axis
from semisam.data.datasets.scans import read_channels, read_values
from semisam.data.images.alignment import misfit
from semisam.data.images.files import Geometry, from_itk
from semisam.data.images.pictures import is_picture
from semisam.data.images.preprocessing import LONGEST, Placement, Recipe, orientation
from semisam.data.loading.store import check_image
from semisam.inference.card import read_card
from semisam.inference.predictor import Prediction
from semisam.run.folder import find_run
from semisam.run.preflight import check_device

_FINEST = 1.0  # mm: the model was trained on voxels of about 1 to 2 mm
_WINDOW = {2: 256, 3: 160}  # voxels per axis around the clicks that the model sees, by axes
_WHITE = 255  # of masks of pictures, which are black and white
_MOST_COMPONENTS = 16  # of a mask, that bring a point each

_REVERSED = (0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0)  # directions of axes (z, y, x)

Point = Sequence[int]
Axes = Literal["xyz", "zyx"]
Source = NDArray[Any] | SimpleITK.Image | str | Path | tuple[str | Path, ...]
Box = tuple[slice, ...]


class ClickableScan:
    """A scan or a picture that is prepared for clicks, and the model that predicts for them.

    The model sees up to 160 voxels per axis around the clicks, of at least 1 mm each. A picture is
    shrunk to 256 pixels. The model encodes them once, as long as the clicks are in one place.

    Args:
        scan: an array ``(*S)`` or ``(C, *S)``, a SimpleITK image, or the path of a file or of a
            DICOM folder, or a tuple with the path of a file for each channel. An array of three
            axes is a volume, unless the spacing has two.
        run: a run of a method that trains nothing, with an adapted model, such as the first run of
            `semisam.auto`; ``None``: the embedded model. The scan is prepared as in that run.
        modality: mr or ct, for which the intensities are cut to the window. Of no effect with a
            run.
        window: lower and upper end in HU for ct.
        spacing: mm per axis of an array; ``None``: 1 mm.
        axes: order of the axes of an array. xyz: to the left, the posterior and the superior; zyx:
            the reverse, as SimpleITK's arrays have it.
        series: choice of a DICOM series, of a folder with several.
        device: on which it computes; auto: a GPU if there is one.

    Raises:
        InputError: the scan, the run or a value cannot be used.
    """

    def __init__(
        self,
        scan: Source,
        *,
        run: str | Path | None = None,
        modality: Literal["mr", "ct"] = "mr",
        window: tuple[float, float] = (-160.0, 240.0),
        spacing: Sequence[float] | None = None,
        axes: Axes = "xyz",
        series: str = "",
        device: str = "auto",
    ) -> None:
        _check_given(modality, window, axes)
        array, self.geometry = _read(scan, spacing, series, axes)
        self._device = check_device(device)
        self._model, recipe, self._value = _model(run, array.shape, self.geometry, modality, window)
        if run is None and _is_picture(scan):
            self._value = _WHITE
        if len(array) != len(recipe.modalities):
            raise InputError(
                f"the scan must have the {len(recipe.modalities)} channels of the run's scans, got "
                f"{len(array)}. Name one file with all of them, or one per channel, in this order."
            )
        check_image(array, len(array), "the scan")
        self._image, _, self._placement = recipe.apply(array, self.geometry)
        self._encoded: tuple[Box, Any] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels per axis of the file."""
        return self._placement.shape

    def check(self, *points: Point) -> None:
        """Refuse points that are not voxels of the scan.

        Raises:
            InputError: a point is outside.
        """
        for point in points:
            _inside(self._placement, point)

    def segment(
        self,
        points: Sequence[Point] = (),
        *,
        negative: Sequence[Point] = (),
        mask: NDArray[np.integer] | str | Path | None = None,
        value: int | None = None,
        box: tuple[Point, Point] | None = None,
        drawn: NDArray[np.integer] | None = None,
    ) -> Prediction:
        """Segment the object at clicks.

        Of the mask to correct, the innermost voxel of each component without a click is one of
        the points, as the model otherwise loses that component. A wrong one needs a negative click.
        The written mask has the value of the object, and those of the mask to correct elsewhere.

        Args:
            points: voxels ``(i, j, k)`` of the file in the object, counted from 0.
            negative: voxels outside the object.
            mask: the mask to correct, on the grid of the scan.
            value: of the object in the mask; ``None``: the only one that the mask holds. Without a
                mask, or with an empty one, it is that of the run's labels if they have one class,
                255 for the file of a picture without a run, and else 1.
            box: first and last voxel of a box around the object.
            drawn: the mask ``(*S)`` that a person drew, if the mask to correct is the model's
                prediction for it, which may hold islands. With a point, only components that
                overlap the drawn mask count. ``None``: every component counts.

        Raises:
            InputError: no prompt shows the object, the mask does not fit, it holds several
                values and ``value`` is not given, or a voxel is outside.
        """
        if not points and mask is None and box is None:
            raise InputError(
                "a click must show the object, got no point and no mask. Give --point."
            )
        if value == 0:
            raise InputError(
                "--value must be that of an object, got 0, the background. Correct it."
            )
        placement = self._placement
        clicks = [_inside(placement, point) for point in (*points, *negative)]
        corners = [_inside(placement, corner) for corner in box or ()]
        values = corrected = None
        number = self._value if value is None else value
        if mask is not None:
            values = _values(mask, placement)
            number = _only(values, self._value) if value is None else value
            _check_free(values, number, points)
            corrected = placement.label(np.equal(values, number).astype(np.uint8))
        positive = len(points)
        if corrected is not None:
            own = placement.label(drawn.astype(np.uint8)) if drawn is not None and points else None
            inner = _innermost(corrected, clicks[:positive], clicks[positive:], corners, own)
            clicks, positive = [*inner, *clicks], len(inner) + positive
        seen = _seen(self._image.shape[1:], [*clicks, *corners], corrected)
        prompt = _prompt(clicks, positive, corners, corrected, seen)
        with torch.no_grad():
            logits = self._model.segment(self._embedding(seen), prompt)
        inside = np.zeros(self._image.shape[1:], np.float32)
        inside[seen] = logits.float().sigmoid().cpu().numpy()
        probs = np.stack([1 - inside, inside])
        labelmap = placement.classes(probs)
        written = _written(labelmap, values, number)
        labelmap = np.equal(written, number).astype(np.uint8)  # without what stays of others
        return Prediction(labelmap, self.geometry, written, probs, placement)

    def _embedding(self, seen: Box) -> Any:
        if self._encoded is None or self._encoded[0] != seen:
            part = np.ascontiguousarray(self._image[(slice(None), *seen)])
            self._encoded = seen, self._model.encode(torch.from_numpy(part).to(self._device))
        return self._encoded[1]


def click(
    scan: Source,
    points: Sequence[Point] = (),
    *,
    negative: Sequence[Point] = (),
    mask: NDArray[np.integer] | str | Path | None = None,
    value: int | None = None,
    **given: Any,
) -> Prediction:
    """Segment the object at clicks in one scan with SynthSAM.

    Args:
        scan: as of `ClickableScan`.
        points: voxels ``(i, j, k)`` of the file in the object, counted from 0.
        negative: voxels outside the object.
        mask: the mask to correct, on the grid of the scan.
        value: of the object in the mask; see `ClickableScan.segment`.
        **given: other arguments of `ClickableScan`: ``run``, ``modality``, ``window``, ``spacing``,
            ``axes``, ``series`` and ``device``.

    Raises:
        InputError: the scan, the mask or the run cannot be used, or a voxel is outside the scan.
    """
    return ClickableScan(scan, **given).segment(points, negative=negative, mask=mask, value=value)


def _check_given(modality: str, window: Sequence[float], axes: str) -> None:
    """Refuse values that the types exclude, which Python does not check."""
    known = {"modality": (modality, ("mr", "ct")), "axes": (axes, get_args(Axes))}
    for name, (value, values) in known.items():
        if value not in values:
            known_values = ", ".join(values)
            raise InputError(f"{name} must be one of {known_values}, got {value!r}. Correct it.")
    numbers = isinstance(window, Sequence) and all(isinstance(end, Real) for end in window)
    if not numbers or len(window) != 2 or not window[0] < window[1]:
        raise InputError(f"window must be its lower and upper end, got {window!r}. Correct it.")


def _read(
    scan: Source, spacing: Sequence[float] | None, series: str, order: Axes
) -> tuple[NDArray[np.float32], Geometry]:
    """Return a scan ``(C, *S)`` of two or three axes and its geometry."""
    if isinstance(scan, str | Path | tuple):
        files = tuple(map(Path, scan if isinstance(scan, tuple) else (scan,)))
        for file in files:
            if not file.exists():
                raise InputError(f"the scan must exist, got {file}. Check the path.")
        array, geometry = read_channels(files, series)
    elif isinstance(scan, SimpleITK.Image):
        array, geometry = from_itk(scan)
    else:
        array = np.asarray(scan, np.float32)
        given = tuple(map(float, spacing or (1.0,) * min(array.ndim, 3)))
        turned = order == "zyx" and len(given) == 3
        geometry = Geometry(given, direction=_REVERSED if turned else None)
    axes = len(geometry.spacing)
    if axes not in _WINDOW or array.ndim - axes not in (0, 1):
        raise InputError(
            f"the scan must be a volume or a picture, got shape {array.shape} and {axes} spacings. "
            "Give two or three axes, and before them at most one of channels."
        )
    return (array if array.ndim > axes else array[None]), geometry


def _is_picture(scan: Source) -> bool:
    files = scan if isinstance(scan, tuple) else (scan,)
    return isinstance(files[0], str | Path) and is_picture(Path(files[0]))


def _model(
    run: str | Path | None,
    shape: tuple[int, ...],
    geometry: Geometry,
    modality: Literal["mr", "ct"],
    window: tuple[float, float],
) -> tuple[SynthSAM, Recipe, int]:
    """Return the model, the preparation of its images ``(C, *S)`` and the usual value of a mask."""
    channels, *sizes = shape
    axes, _ = orientation(geometry)
    flat = flat_axis([[sizes[axis] for axis in axes]])
    if run is None and (flat is not None or len(geometry.spacing) == 2):
        return SynthSAM(), Recipe(None, (modality,) * channels, window, "none", LONGEST, flat), 1
    if run is None:
        ordered = tuple(max(geometry.spacing[axis], _FINEST) for axis in axes)
        return SynthSAM(), Recipe(ordered, (modality,) * channels, window, "none"), 1
    folder = find_run(str(run))
    if not (folder / ADAPTED).is_file():
        raise InputError(
            f"the run must keep an adapted model, got {folder} without {ADAPTED}. Name a run of "
            "copied-mask or center-ball with --sam-adapt."
        )
    card = read_card(folder / CARD)
    value = int(card.own_values(np.ones(1, np.uint8))[0]) if len(card.class_names) == 2 else 1
    return SynthSAM(weights=str(folder / ADAPTED)), card.preparation(), value


def _inside(placement: Placement, point: Point) -> tuple[int, ...]:
    """Return the image's voxel of a click.

    Raises:
        InputError: it is outside the scan, or in a margin that the preparation removes.
    """
    within = len(point) == len(placement.shape) and all(
        0 <= at < n for at, n in zip(point, placement.shape, strict=True)
    )
    voxel = placement.voxel(point) if within else None
    if voxel is None:
        size = " x ".join(map(str, placement.shape))
        raise InputError(
            f"a click must be a voxel of the scan ({size}, counted from 0), got "
            f"{','.join(map(str, point))}. Correct it."
        )
    return voxel


def _values(mask: NDArray[np.integer] | str | Path, placement: Placement) -> NDArray[np.integer]:
    """Return the values ``(*S)`` of a mask on the file's grid."""
    geometry = placement.geometry
    if isinstance(mask, str | Path):
        values, geometry = read_values(Path(mask))
    else:
        values = np.asarray(mask, np.float32)
    fault = misfit(values.shape, geometry, placement.shape, placement.geometry)
    if fault:
        raise InputError(f"the mask must have the grid of the scan: {fault}")
    whole: NDArray[np.integer] = np.rint(values).astype(np.int32)
    if not np.array_equal(whole, values):
        raise InputError(
            "the mask must hold whole numbers, got others. Give a label and not probabilities."
        )
    return whole


def _only(values: NDArray[np.integer], usual: int) -> int:
    """Return the only value of a mask other than 0; the usual one if it is empty."""
    found = [int(value) for value in np.unique(values) if value]
    if len(found) > 1:
        raise InputError(
            f"the mask must hold one value, got {', '.join(map(str, found))}. Name the one to "
            "correct with --value; the others stay."
        )
    return found[0] if found else usual


def _innermost(
    drawn: NDArray[np.uint8],
    points: Sequence[tuple[int, ...]] = (),
    negative: Sequence[tuple[int, ...]] = (),
    corners: Sequence[tuple[int, ...]] = (),
    own: NDArray[np.uint8] | None = None,
) -> list[tuple[int, ...]]:
    """Return the voxel of each component that is the farthest from outside and negative clicks.

    Without a point in it the model loses a component. The largest ones count, up to 16. Components
    with a click do not, as it says what they are, nor do those that do not overlap ``own``, nor
    voxels outside the box. Where no
    point is in the mask, the largest component counts even with a negative click, which may show
    the end of a leak.
    """
    left = drawn == 1
    if corners:
        box = tuple(slice(min(ends), max(ends) + 1) for ends in zip(*corners, strict=True))
        within = np.zeros_like(left)
        within[box] = left[box]
        left = within
    pieces, count = ndimage.label(left)
    shown = {int(pieces[voxel]) for voxel in points} - {0}
    refused = {int(pieces[voxel]) for voxel in negative}
    for voxel in negative:
        left[voxel] = False
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    largest = np.argsort(-sizes, kind="stable") + 1
    if not shown:
        refused -= set(largest[:1].tolist())
    known = set(largest.tolist()) if own is None else set(np.unique(pieces[own == 1]).tolist())
    counted = [number for number in largest if number in known - shown - refused]
    parts = (torch.from_numpy(left & (pieces == number)) for number in counted[:_MOST_COMPONENTS])
    return [tuple(point) for part in parts for point in deepest_points(part, 1).tolist()]


def object_voxels(mask: Path, value: int | None = None) -> int:
    """Return the voxels of the object in the file of a mask.

    Args:
        mask: the file.
        value: of the object; ``None``: all but 0.

    Raises:
        InputError: the file cannot be read.
    """
    values, _ = read_values(mask)
    return int(np.count_nonzero(values if value is None else values == value))


def _check_free(values: NDArray[np.integer], number: int, points: Sequence[Point]) -> None:
    """Refuse a point where the mask holds another value, which would stay."""
    for point in points:
        value = int(values[tuple(point)])
        if value not in (0, number):
            raise InputError(
                f"a point must be where the mask holds 0 or {number}, got "
                f"{','.join(map(str, point))} with {value}, which stays. Set such voxels of the "
                "mask to 0, or correct the point."
            )


def _written(
    labelmap: NDArray[np.uint8], values: NDArray[np.integer] | None, number: int
) -> NDArray[np.integer]:
    """Return the mask to write: the object with its value, and other objects as they were."""
    others = 0 if values is None else np.where(values == number, 0, values)
    mask: NDArray[np.integer] = np.where((labelmap == 1) & np.equal(others, 0), number, others)
    return mask.astype(np.uint8 if mask.min() >= 0 and mask.max() < 256 else np.int32)


def _seen(
    shape: tuple[int, ...], clicks: Sequence[Sequence[int]], drawn: NDArray[np.uint8] | None
) -> Box:
    """Return the box around clicks and mask that the model sees."""
    shown = list(clicks)
    if drawn is not None and drawn.any():
        places = np.argwhere(drawn)
        shown += [tuple(places.min(0)), tuple(places.max(0))]
    box = []
    for axis, n in enumerate(shape):
        least = min((point[axis] for point in shown), default=0)
        most = max((point[axis] for point in shown), default=n - 1)
        width = min(n, max(_WINDOW[len(shape)], most - least + 1))
        start = min(max((least + most + 1 - width) // 2, 0), n - width)
        box.append(slice(int(start), int(start + width)))
    return tuple(box)


def _prompt(
    clicks: Sequence[Sequence[int]],
    positive: int,
    corners: Sequence[Sequence[int]],
    drawn: NDArray[np.uint8] | None,
    seen: Box,
) -> Prompt:
    """Return the prompt in voxels of the box that the model sees."""
    first = [part.start for part in seen]
    points = labels = box = None
    if clicks:
        points = torch.tensor(np.array(clicks) - first, dtype=torch.int64)
        labels = torch.tensor([int(at < positive) for at in range(len(clicks))])
    if corners:
        ends = np.array(corners) - first
        box = torch.tensor(np.stack([ends.min(0), ends.max(0) + 1]), dtype=torch.int64)
    mask = None if drawn is None else torch.from_numpy(drawn[seen].astype(np.float32))
    return Prompt(points, labels, box, mask)
