"""The choice of the test cases to show, by a stated rule, and the source of their masks."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from semisam.bench.report.runs import Bench, Part, Row
from semisam.bench.results import paired
from semisam.core.errors import InputError, SemisamError, first_line
from semisam.core.layout import CARD
from semisam.core.types import IGNORE
from semisam.data.datasets.dataset import Dataset, Image
from semisam.data.datasets.labels import LabelValues
from semisam.data.datasets.scans import read_values
from semisam.inference.card import Card, read_card
from semisam.inference.evaluation import class_map, predict_probabilities
from semisam.inference.predictor import Deployed
from semisam.run.build import open_dataset
from semisam.run.folder import RunFolder
from semisam.run.model import load_model
from semisam.run.scoring import prepare_as

Labels = NDArray[np.uint8]

RULE = (
    "Pairs of a method without and with SemiSAM are shown in the table's order, one pair of each "
    "number of labels (fewest first), then the next pair of each. A pair is shown by its runs of "
    "the lowest seed on the lowest labeled subset. Their test cases are the one with the median "
    "Dice with SemiSAM (of an even number, the lower one), the largest gain, and the largest loss "
    "or, without losses, the smallest gain."
)
RULE_ALONE = (
    "Of a method without a run with SemiSAM, the test cases with the median, the highest and the "
    "lowest Dice are shown."
)


@dataclass(frozen=True)
class Shown:
    """A test case to show.

    Attributes:
        case: its name.
        why: reasons of the choice, e.g. ``["median"]``.
        bare: the row without SemiSAM, or the only one.
        wrapped: the row with SemiSAM.
        runs: identities of the runs shown, of ``bare`` and ``wrapped``.
    """

    case: str
    why: list[str]
    bare: Row
    wrapped: Row | None
    runs: list[str]


@dataclass(frozen=True)
class Scan:
    """A test case.

    Attributes:
        case: its name.
        image: the network's input.
        drawn: the label on the grid of the file.
    """

    case: str
    image: Image
    drawn: Labels

    @functools.cached_property
    def truth(self) -> Labels:
        """The label on the image's grid, without voxels that no score counts."""
        return self.placed(np.where(self.drawn == IGNORE, np.uint8(0), self.drawn))

    def placed(self, mask: Labels) -> Labels:
        """Return a mask of the file's grid on the image's grid."""
        return mask if self.image.placement is None else self.image.placement.label(mask)


@dataclass(frozen=True)
class Prediction:
    """A run's mask of a test case.

    Attributes:
        mask: on the image's grid.
        source: ``saved`` or ``computed``.
        dice: in percent, on the grid of the file.
    """

    mask: Labels
    source: str
    dice: float


@dataclass(frozen=True)
class Masks:
    """A test case with its truth and predictions on the image's grid, and their Dice.

    Attributes:
        image: the network's input.
        truth: on its grid.
        predicted: on its grid.
        source: of each prediction, ``saved`` or ``computed``.
        dice: of each prediction, in percent, on the grid of the file.
    """

    image: Image
    truth: Labels
    predicted: list[Labels]
    source: list[str]
    dice: list[float]


def choose(bench: Bench, part: Part, most: int) -> list[Shown]:
    """Return the test cases to show, by `RULE`, at most ``most``."""
    by_labels: dict[int, list[tuple[Row, Row | None]]] = {}
    for bare, wrapped in _pairs(part):
        by_labels.setdefault(bare.labels, []).append((bare, wrapped))
    columns = [by_labels[n] for n in sorted(by_labels)]
    turns = max(map(len, columns), default=0)
    chosen: list[Shown] = []
    for turn in range(turns):
        for column in columns:
            if turn < len(column):
                chosen += _cases_of(bench, *column[turn])
    return chosen[:most]


def _pairs(part: Part) -> Iterator[tuple[Row, Row | None]]:
    """Yield the pairs of a part or, if it has no pair, its single rows."""
    pairs = [(part.rows[r.bare], r) for r in part.rows if r.bare is not None]
    if pairs:
        yield from pairs
    else:
        yield from ((row, None) for row in part.rows)


def _cases_of(bench: Bench, bare: Row, wrapped: Row | None) -> list[Shown]:
    order = ["subset", "seed"]
    first = bare.runs.sort_values(order)
    runs = [str(first["run"].iloc[0])]
    if wrapped is not None:
        both = paired(wrapped.runs, bare.runs).sort_values(order)
        if both.empty:
            return []
        runs = [str(both["run_bare"].iloc[0]), str(both["run"].iloc[0])]
    scores = [_dice(bench, run) for run in runs]
    names = scores[0].index
    if wrapped is not None:
        names = names.intersection(scores[1].index, sort=False)
    if names.empty:
        return []
    last = scores[-1][names].sort_values(kind="stable")
    median = str(last.index[(len(last) - 1) // 2])
    why = {median: ["median Dice" + (" with SemiSAM" if wrapped is not None else "")]}
    if wrapped is None:
        extremes = {"highest Dice": last.index[-1], "lowest Dice": last.index[0]}
    else:
        gain = scores[1][names] - scores[0][names]
        least = "largest loss" if gain.min() < 0 else "smallest gain"
        most = "largest gain" if gain.max() > 0 else "smallest loss"
        extremes = {most: gain.idxmax(), least: gain.idxmin()}
    for reason, case in extremes.items():
        why.setdefault(str(case), []).append(reason)
    return [Shown(case, reasons, bare, wrapped, runs) for case, reasons in why.items()]


def _dice(bench: Bench, run: str) -> pd.Series[float]:
    chosen = bench.cases[bench.cases["run"] == run]
    return chosen.drop_duplicates("case").set_index("case")["dice"]


class Predictor:
    """A source of masks of test cases: saved ones, or else computed from the run's model.

    Args:
        bench: the runs.
        data: present folder of the scans; ``None``: the folder that the runs read.
        compute: True if the model computes predictions that are not saved.
    """

    def __init__(self, bench: Bench, data: Path | None, *, compute: bool) -> None:
        self._bench, self._data, self._compute = bench, data, compute
        self._datasets: dict[str, Dataset] = {}
        self._models: dict[str, Deployed] = {}
        self._computed: dict[tuple[str, str], Labels] = {}

    def masks(self, shown: Shown) -> Masks:
        """Return the masks of a case.

        Raises:
            InputError: the data are missing, or there is neither a prediction nor a model.
        """
        folders = [self._bench.folder_of(run) for run in shown.runs]
        scan = self.scan(folders[0], shown.case)
        found = [self.prediction(folder, scan) for folder in folders]
        return Masks(
            scan.image,
            scan.truth,
            [one.mask for one in found],
            [one.source for one in found],
            [one.dice for one in found],
        )

    def scan(self, folder: RunFolder, case: str) -> Scan:
        """Return a test case of a run.

        Raises:
            InputError: the data are missing or have changed.
        """
        dataset = self._dataset(folder)
        try:
            image, drawn = dataset.image(case), dataset.drawn_label(case)
        except (SemisamError, KeyError, ValueError, OSError) as error:
            raise InputError(f"{case} can no longer be read: {first_line(error)}") from None
        size = image.placement.shape if image.placement else image.array.shape[1:]
        if drawn.shape != size:
            raise InputError(_other_size(case))
        return Scan(case, image, drawn)

    def prediction(self, folder: RunFolder, scan: Scan) -> Prediction:
        """Return a run's mask of a scan on the image's grid.

        Raises:
            InputError: there is neither a prediction nor a model, or the scan has changed.
        """
        mask, source = self._mask(folder, scan.case, scan.image)
        if mask.shape != scan.drawn.shape:
            raise InputError(_other_size(scan.case))
        ignored = scan.drawn == IGNORE  # in no score, and no outline
        mask, truth = (np.where(ignored, np.uint8(0), one) for one in (mask, scan.drawn))
        classes = self._dataset(folder).num_classes
        return Prediction(scan.placed(mask), source, dice(mask, truth, classes))

    def at_hand(self, folder: RunFolder, case: str) -> bool:
        """Return whether a mask is saved, or was computed for a picture."""
        return (folder.run, case) in self._computed or _saved(folder, case).is_file()

    def data_of(self, folder: RunFolder) -> str:
        """Return a text that is equal for runs on the same scans, prepared alike."""
        settings, card = folder.settings, _card(folder)
        options = [settings[name] for name in ("dataset", "data", "dataset_options")]
        return repr([*options, card and card.preparation()])

    def _dataset(self, folder: RunFolder) -> Dataset:
        key = self.data_of(folder)
        if key not in self._datasets:
            settings = folder.resolved()
            if self._data is not None and settings.data is not None:
                settings = settings.model_copy(update={"data": str(self._data)})
            gone = settings.data is not None and not Path(settings.data).is_dir()
            if gone:
                raise InputError("the scans are not where the runs read them")
            try:
                dataset = open_dataset(settings)
                if card := _card(folder):
                    prepare_as(dataset, card)
                self._datasets[key] = dataset
            except SemisamError as error:
                raise InputError(f"the scans can no longer be read: {first_line(error)}") from None
        return self._datasets[key]

    def _mask(self, folder: RunFolder, case: str, image: Image) -> tuple[Labels, str]:
        """Return a run's mask of a case on the grid of the file, and its source."""
        path = _saved(folder, case)
        if path.is_file():
            try:
                mask = _classes(read_values(path)[0], self._dataset(folder), path.name)
            except (SemisamError, ValueError, OSError) as error:
                raise InputError(f"{path.name} cannot be read: {first_line(error)}") from None
            return mask, "saved"
        if (folder.run, case) not in self._computed:
            self._computed[folder.run, case] = self._predict(folder, image)
        return self._computed[folder.run, case], "computed"

    def _predict(self, folder: RunFolder, image: Image) -> Labels:
        if not self._compute:
            raise InputError("no prediction is saved, and --no-predict is set")
        if folder.run not in self._models:
            try:
                model = load_model(folder.path)
            except InputError:
                raise
            except SemisamError as error:  # its plugin is missing
                message = f"the model of {folder.path.name} cannot be used: {first_line(error)}"
                raise InputError(message) from None
            self._models[folder.run] = model
        model = self._models[folder.run]
        probs = predict_probabilities(
            model.network,
            image,
            model.patch,
            model.stride,
            device=torch.device("cpu"),
            precision=model.precision,
        )
        return class_map(probs.cpu().numpy(), image.placement, model.card.one_component)


def _classes(mask: NDArray[Any], dataset: Dataset, name: str) -> Labels:
    """Return the class numbers of a saved mask, whose values are those of the labels."""
    mapping = {value: number for number, value in enumerate(dataset.label_values or ())}
    return LabelValues(dataset.name, tuple(dataset.class_names), mapping).classes(mask, name)


def _card(folder: RunFolder) -> Card | None:
    """Return the card of a run's model, if it can be read; a saved mask needs none."""
    try:
        return read_card(folder.path / CARD)
    except InputError:
        return None


def _saved(folder: RunFolder, case: str) -> Path:
    return folder.path / "predictions" / f"{case}.nii.gz"


def _other_size(case: str) -> str:
    return f"{case}: the scan has another size than when it was scored"


def dice(mask: Labels, truth: Labels, classes: int) -> float:
    """Return the mean Dice of the foreground classes, in percent; 100 of one in neither of both."""
    scores: list[float] = []
    for value in range(1, classes):
        one, other = mask == value, truth == value
        both = int(one.sum()) + int(other.sum())
        scores.append(200.0 * int((one & other).sum()) / both if both else 100.0)
    return sum(scores) / len(scores)


def recorded(bench: Bench, shown: Shown) -> Sequence[float]:
    """Return the Dice that the runs recorded for a case, in percent."""
    return [100.0 * float(_dice(bench, run)[shown.case]) for run in shown.runs]
