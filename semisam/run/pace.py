"""The time that the parts of a run take, measured on a few real steps before it starts."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from semisam.core.errors import InputError
from semisam.core.framework import Framework
from semisam.core.seeding import derive_seed
from semisam.data.loading.store import VolumeStore
from semisam.inference.card import card_of
from semisam.inference.masks import write_masks
from semisam.inference.predictor import Deployed
from semisam.run.adapt import labeled_cases
from semisam.run.build import cases_of, make_framework, make_pair, open_dataset, split_of
from semisam.run.execute import Ready, make_trainer
from semisam.run.model import window_of
from semisam.run.preflight import check_run
from semisam.run.settings import RunSettings

_CASES = 2  # of each kind that are read


def seconds_of_step(settings: RunSettings, steps: int = 3) -> float:
    """Return the seconds of a training step, measured on real batches of a few cases.

    Raises:
        InputError: the patch does not fit the network or the memory.
    """
    store = _few(settings)
    framework = _framework(settings, store)
    plan = check_run(settings, store, framework, len(store.labeled), len(store.unlabeled))
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(settings, Ready(store, framework, plan, {}, None), Path(folder))
        return trainer.seconds_per_step(steps)


def seconds_of_adaptation(settings: RunSettings, steps: int = 4) -> float:
    """Return the seconds of a step that adapts the promptable model."""
    store = _few(settings)
    backend: Any = make_pair(settings)[0]
    ended: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        backend.adapt(
            labeled_cases(store),
            Path(folder) / "adapted",
            steps=steps + 1,
            seed=derive_seed(settings.seed, "adapt"),
            device=torch.device(settings.device),
            on_step=lambda done: ended.append(time.perf_counter()),
        )
    return (ended[-1] - ended[0]) / steps


def seconds_of_mask(settings: RunSettings, scan: Sequence[Path]) -> float:
    """Return the seconds in which one scan is read, segmented, written and drawn.

    Args:
        settings: of a run, whose network need not be trained.
        scan: the files of a scan.

    Raises:
        InputError: the scan cannot be read.
    """
    store = _few(settings)
    framework = _framework(settings, store).to(settings.device)
    framework.learn(labeled_cases(store))
    card = card_of(store.dataset, store.image(store.labeled[0]))
    window, precision = window_of(settings), settings.precision
    model = Deployed(framework, card, *window, precision, settings.largest_component)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        (mask,) = write_masks(
            model,
            {"scan": tuple(scan)},
            Path(folder),
            settings.device,
            series=str(settings.dataset_options.get("series", "")),
            preview=True,
        )
    if mask.fault:
        raise InputError(mask.fault)
    return time.perf_counter() - began


def _few(settings: RunSettings) -> VolumeStore:
    dataset = open_dataset(settings)
    cases = cases_of(settings, dataset, split_of(settings, dataset))
    labeled, unlabeled = cases.labeled[:_CASES], cases.unlabeled[:_CASES]
    return VolumeStore(dataset, labeled=labeled, unlabeled=unlabeled, test=())


def _framework(settings: RunSettings, store: VolumeStore) -> Framework:
    dataset = store.dataset
    with torch.random.fork_rng(devices=[]):
        return make_framework(settings, dataset.channels, dataset.num_classes, dataset.class_names)
