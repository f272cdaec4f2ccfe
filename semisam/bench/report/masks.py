"""The masks of test cases: saved ones, or computed from the run's model."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from semisam.bench.report.choice import Shown
from semisam.bench.report.runs import Bench
from semisam.core.errors import InputError, SemisamError, first_line
from semisam.core.layout import CARD, PREDICTIONS
from semisam.core.masks import dice
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


@dataclass(frozen=True)
class ScoredCase:
    """A test case.

    Attributes:
        name: of the case.
        image: the network's input.
        drawn: the label on the grid of the file.
    """

    name: str
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
class CaseMask:
    """A run's mask of a test case.

    Attributes:
        mask: on the image's grid.
        source: ``saved`` or ``computed``.
        dice: in percent, on the grid of the file.
    """

    mask: Labels
    source: str
    dice: float


class MaskSource:
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

    def of(self, shown: Shown) -> tuple[ScoredCase, list[CaseMask]]:
        """Return a case to show, and the masks of its runs.

        Raises:
            InputError: the data are missing, or there is neither a saved mask nor a model.
        """
        folders = [self._bench.folder_of(run) for run in shown.runs]
        case = self.case(folders[0], shown.case)
        return case, [self.mask(folder, case) for folder in folders]

    def case(self, folder: RunFolder, name: str) -> ScoredCase:
        """Return a test case of a run.

        Raises:
            InputError: the data are missing or have changed.
        """
        dataset = self._dataset(folder)
        try:
            image, drawn = dataset.image(name), dataset.drawn_label(name)
        except (SemisamError, KeyError, ValueError, OSError) as error:
            raise InputError(f"{name} can no longer be read: {first_line(error)}") from None
        size = image.placement.shape if image.placement else image.array.shape[1:]
        if drawn.shape != size:
            raise InputError(_other_size(name))
        return ScoredCase(name, image, drawn)

    def mask(self, folder: RunFolder, case: ScoredCase) -> CaseMask:
        """Return a run's mask of a case on the image's grid.

        Raises:
            InputError: there is neither a saved mask nor a model, or the scan has changed.
        """
        mask, source = self._mask(folder, case.name, case.image)
        if mask.shape != case.drawn.shape:
            raise InputError(_other_size(case.name))
        ignored = case.drawn == IGNORE  # in no score, and no outline
        mask, truth = (np.where(ignored, np.uint8(0), one) for one in (mask, case.drawn))
        classes = self._dataset(folder).num_classes
        return CaseMask(case.placed(mask), source, mean_dice(mask, truth, classes))

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
        return class_map(probs.cpu().numpy(), image.placement, model.card.kept)


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
    return folder.path / PREDICTIONS / f"{case}.nii.gz"


def _other_size(case: str) -> str:
    return f"{case}: the scan has another size than when it was scored"


def mean_dice(mask: Labels, truth: Labels, classes: int) -> float:
    """Return the mean Dice of the foreground classes, in percent; 100 of one in neither of both."""
    return 100.0 * mean(dice(mask == value, truth == value) for value in range(1, classes))
