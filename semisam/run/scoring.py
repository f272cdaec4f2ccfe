"""A trained model, the data to score it on, and its scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from semisam.core.errors import InputError, first_few
from semisam.core.files import read_json, writable_folder, write_csv
from semisam.core.layout import EVALUATION, SPLIT
from semisam.data.datasets.dataset import Dataset
from semisam.data.datasets.scans import ScanDataset
from semisam.data.images.preprocessing import Recipe
from semisam.data.loading.store import VolumeStore
from semisam.inference.card import Card
from semisam.inference.components import OneComponent, of_every_class
from semisam.inference.evaluation import evaluate, summarise
from semisam.inference.masks import check_saved
from semisam.inference.stride import published_stride
from semisam.networks.precision import Precision
from semisam.networks.published import PublishedVNet
from semisam.run.build import open_dataset, open_plugin, recognise_dataset
from semisam.run.folder import find_run
from semisam.run.model import load_run, precision_on, window_of
from semisam.run.protocols import PROTOCOLS
from semisam.run.settings import RunSettings

_OF_LABELS = ("labels", "ignore")
"""Options of a dataset that say what its label files hold."""
_UNNAMED = ("foreground",)
"""Class names of a folder that states none."""


@dataclass(frozen=True)
class Scored:
    """A model, the dataset to score it on, and the settings of the sliding window.

    Attributes:
        model: maps windows ``(B, C, *patch)`` to probabilities ``(B, K, *patch)``.
        dataset: of the model's classes.
        test: its test cases.
        patch: voxels of the sliding window; ``None``: whole scans.
        stride: voxels between windows.
        precision: of the network.
        one_component: classes of which a mask keeps one component.
        target: default file for the scores.
    """

    model: nn.Module
    dataset: Dataset
    test: tuple[str, ...]
    patch: tuple[int, ...] | None
    stride: tuple[int, ...] | None
    precision: Precision
    one_component: OneComponent
    target: Path


def open_scored(
    text: str,
    device: str,
    *,
    data: str | None = None,
    patch: tuple[int, ...] | None = None,
    stride: tuple[int, ...] | None = None,
    components: Literal["all", "largest", "surest"] | None = None,
) -> Scored:
    """Open a run, or a published V-Net checkpoint, and the data to score it on.

    Args:
        text: a run as `find_run` takes it, or the path of a checkpoint file.
        device: for the model.
        data: folder of the scans; ``None``: the scans of the run.
        patch: of the window; ``None``: the run's patch.
        stride: of the window; ``None``: the run's, or for another patch that of its protocol.
        components: of each class that are kept; ``None``: as in the run.

    Raises:
        InputError: there is no such run, a checkpoint lacks data or patch, or the data have other
            classes, channels, axes or another preparation, which cannot be changed.
    """
    path = Path(text)
    if path.is_file():
        if data is None or patch is None:
            raise InputError(
                f"a checkpoint file must come with --data and --patch, got {path} without. The "
                "published patch is 112x112x80."
            )
        model, scans = PublishedVNet(path), _open(Path(data))
        published = Scored(
            model.to(device),
            scans,
            scans.split().test,
            patch,
            stride or published_stride(patch),
            "fp32",
            of_every_class(components, model.num_classes),
            path.with_suffix(".evaluation.csv"),
        )
        first = next(model.parameters())  # of a convolution (out, in, *kernel)
        _check(published, model.num_classes, first.shape[1], first.ndim - 2)
        return published
    folder = find_run(text)
    settings, framework, card = load_run(folder, device)
    window, usual = window_of(settings)
    if patch is not None and window is not None:
        window, usual = patch, PROTOCOLS[settings.protocol].stride(patch)
    dataset = open_dataset(settings) if data is None else _open(Path(data), settings)
    test = tested_by(folder, dataset) if data is None else dataset.split().test
    scored = Scored(
        framework,
        dataset,
        test,
        window,
        usual and (stride or usual),
        precision_on(settings, device),
        card.kept if components is None else of_every_class(components, len(card.class_names)),
        folder / EVALUATION,
    )
    _check(scored, len(card.class_names), card.channels, len(card.spacing))
    _check_names(dataset, card)
    prepare_as(dataset, card)
    return scored


def score(
    scored: Scored,
    device: torch.device,
    table: Path,
    predictions: Path | None = None,
    on_check: Callable[[int, int], None] | None = None,
    on_case: Callable[[int, int], None] | None = None,
) -> dict[str, float | int]:
    """Segment and score the test cases, write their scores, and return their means.

    Args:
        scored: the model and the cases.
        device: of the model.
        table: the CSV of scores, whose folder is made if it is missing.
        predictions: a folder for the masks; ``None``: they are not written.
        on_check: called with (cases checked, their number), before the first is segmented.
        on_case: called with (cases scored, their number).

    Raises:
        InputError: a case cannot be read, or a file cannot be written or would replace another.
    """
    if predictions is not None:
        check_saved(scored.dataset.path, scored.test, predictions)
        writable_folder(predictions)
    writable_folder(table.parent)
    store = VolumeStore(scored.dataset, labeled=[], unlabeled=[], test=scored.test)
    store.check(on_check)
    rows = evaluate(
        scored.model,
        store,
        scored.test,
        scored.patch,
        scored.stride,
        device=device,
        precision=scored.precision,
        one_component=scored.one_component,
        predictions=predictions,
        on_case=on_case,
    )
    write_csv(table, rows)
    return summarise(rows)


def prepare_as(dataset: Dataset, card: Card) -> None:
    """Let a dataset make its images as those that a model was trained on.

    The options of a dataset, and the spacing that it takes from the scans that it holds, would give
    other images. `semisam.inference.predictor.prepared_scan` prepares a new scan alike.

    Args:
        dataset: just opened.
        card: of the model.

    Raises:
        InputError: the images have another preparation, and the dataset cannot make others.
    """
    if isinstance(dataset, ScanDataset) and card.orientation in (None, "LPS"):
        dataset.recipe = card.preparation()
    elif (theirs := dataset.recipe) != (ours := card.recipe):
        unlike = [
            name
            for name in Recipe.__dataclass_fields__
            if ours and theirs and getattr(ours, name) != getattr(theirs, name)
        ]
        raise InputError(
            "the scans must be prepared as those of the model, got another "
            f"{' and '.join(unlike) or 'preparation'} in {dataset.path or dataset.name}. Prepare "
            "them with the same options, or name the folder of the scans themselves."
        )


def tested_by(folder: Path, dataset: Dataset) -> tuple[str, ...]:
    """Return the test cases of a run. Labels that were drawn since could move a drawn test.

    Raises:
        InputError: a case has lost its files or its label.
    """
    cases = tuple((read_json(folder / SPLIT) or {}).get("test", ()))
    there = dataset.split().cases
    lost = [case for case in cases if case not in there or not dataset.has_label(case)]
    if lost:
        raise InputError(
            f"the test cases of the run {folder.name} must be in its folder of scans, got none "
            f"with a label for {first_few(lost)}. Restore them, or name other scans with --data."
        )
    return cases


def _open(data: Path, settings: RunSettings | None = None) -> Dataset:
    """Open other scans, with the run's options of label files if one plugin reads both."""
    name = recognise_dataset(data)
    known = settings.dataset_options if settings and settings.dataset == name else {}
    return open_plugin(name, data, {key: known[key] for key in _OF_LABELS if key in known})


def _check(scored: Scored, classes: int, channels: int, axes: int) -> None:
    """Refuse data without a test case, or with other classes, channels or axes than the model."""
    dataset = scored.dataset
    if not scored.test:
        raise InputError(
            "a run to score must have test cases, got one without. Give labeled scans with --data."
        )
    if classes != dataset.num_classes:
        raise InputError(
            f"the model must have the data's {dataset.num_classes} classes, got {classes}. "
            "Name the data that it was trained for."
        )
    if channels != dataset.channels:
        raise InputError(
            f"the scans must have the model's {channels} channel(s), got {dataset.channels}. Name "
            "the data that it was trained for."
        )
    found = len(dataset.image(scored.test[0]).geometry.spacing)
    if axes != found:
        raise InputError(
            f"the scans must have the model's {axes} axes, got {found}. Name the data that it was "
            "trained for."
        )


def _check_names(dataset: Dataset, card: Card) -> None:
    """Refuse classes with other names, or in another order: their scores would be exchanged."""
    ours, theirs = tuple(card.class_names[1:]), tuple(dataset.class_names[1:])
    if ours != theirs and _UNNAMED not in (ours, theirs):
        raise InputError(
            f"the data must have the model's classes in the same order, {', '.join(ours)}, got "
            f"{', '.join(theirs)}. Correct the names, or name the data that it was trained for."
        )
