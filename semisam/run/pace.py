"""Time, memory and disk of a run, measured on a few real steps before it starts."""

from __future__ import annotations

import contextlib
import gc
import itertools
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from semisam.core.errors import InputError
from semisam.core.framework import Framework
from semisam.core.seeding import derive_seed
from semisam.core.timing import now
from semisam.core.types import IGNORE
from semisam.data.datasets.dataset import Dataset
from semisam.data.loading.sampling import slice_axes
from semisam.data.loading.store import VolumeStore
from semisam.inference.evaluation import predict_probabilities
from semisam.inference.masks import write_masks
from semisam.inference.predictor import Deployed
from semisam.inference.sliding_window import count_windows
from semisam.run.adapt import cases_to_adapt, labeled_cases
from semisam.run.build import (
    Cases,
    cases_of,
    make_framework,
    make_pair,
    open_dataset,
    split_of,
)
from semisam.run.execute import Ready, make_trainer, model_card
from semisam.run.model import window_of
from semisam.run.preflight import check_run
from semisam.run.record import peak_memory
from semisam.run.settings import RunSettings

_CASES = 2  # of each kind that are read
_STEPS = 3  # that are measured
_ENOUGH = 20.0  # seconds of measured steps
_STARTING = 20.0  # seconds of a mask, of which the start of libraries is a small part


@dataclass(frozen=True)
class Pace:
    """The cost of a training step and of the files of its run.

    Attributes:
        seconds: of a step.
        memory: bytes in use at most, of the GPU if the run has one, else of this process so far.
        model: bytes of the weights that a finished run keeps.
        checkpoint: bytes of a checkpoint, of which a run at work has two.
    """

    seconds: float = 0.0
    memory: int = 0
    model: int = 0
    checkpoint: int = 0


def pace_of(settings: RunSettings) -> Pace:
    """Measure a few training steps on real batches of a few cases.

    Raises:
        InputError: the patch does not fit the network or the memory.
    """
    with _given_back(settings.device):
        return _pace(settings)


def _pace(settings: RunSettings) -> Pace:
    dataset, cases = _opened(settings)
    store = _few(dataset, cases)
    framework = _framework(settings, store)
    plan = check_run(settings, store, framework, len(cases.labeled), len(cases.unlabeled))
    with tempfile.TemporaryDirectory() as folder:
        run = Ready(store, framework, plan, {}, model_card(settings, store, framework), None)
        trainer = make_trainer(settings, run, Path(folder))
        on_gpu = settings.device.startswith("cuda")
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(settings.device)
        seconds = trainer.seconds_per_step(_STEPS, _ENOUGH)
        memory = torch.cuda.max_memory_allocated(settings.device) if on_gpu else peak_memory()
        model = _bytes(framework.state_dict())
        average = model if settings.averaged else 0
        return Pace(
            seconds, memory, model, model + average + _bytes(trainer.optimizer.state_dict())
        )


def _bytes(state: Any) -> int:
    """Return the bytes of all tensors in a state."""
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, Mapping):
        state = list(state.values())
    return sum(map(_bytes, state)) if isinstance(state, list | tuple) else 0


def seconds_of_adaptation(settings: RunSettings) -> float:
    """Return the seconds of a step that adapts the promptable model.

    Raises:
        InputError: every labeled case has ignored voxels.
    """
    with _given_back(settings.device):
        return _seconds_of_adaptation(settings)


def _seconds_of_adaptation(settings: RunSettings) -> float:
    dataset, cases = _opened(settings)
    store = VolumeStore(dataset, labeled=cases.labeled, unlabeled=(), test=())
    backend: Any = make_pair(settings)[0]
    # Many a slice of a volume shows nothing.
    shown = (case for case in cases_to_adapt(settings, backend, store) if _is_drawn(case[1]))
    ended: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        backend.adapt(
            list(itertools.islice(shown, _CASES)),
            Path(folder) / "adapted",
            steps=_STEPS + 1,
            seed=derive_seed(settings.seed, "adapt"),
            device=torch.device(settings.device),
            on_step=lambda done: ended.append(time.perf_counter()),
        )
    return (ended[-1] - ended[0]) / _STEPS


def _is_drawn(label: torch.Tensor) -> bool:
    return bool(((label != 0) & (label != IGNORE)).any())


def seconds_of_test(settings: RunSettings) -> float:
    """Return about how many seconds the network of a run needs for the test cases.

    A window is predicted, and the windows of a few test cases are counted.

    Raises:
        InputError: a test case cannot be read.
    """
    with _given_back(settings.device):
        return _seconds_of_test(settings)


def _seconds_of_test(settings: RunSettings) -> float:
    dataset, cases = _opened(settings)
    test = split_of(settings, dataset).test
    if not test:
        return 0.0
    framework = _framework(settings, _few(dataset, cases)).to(settings.device)
    framework.learn(list(labeled_cases(_few(dataset, cases))))
    images = [dataset.image(case) for case in test[:_CASES]]
    windows, part = float(len(test)), images[0]
    patch, stride = window_of(settings)
    if patch is not None and stride is not None:
        slices = (1,) * slice_axes(part.array.ndim - 1, patch)
        window, step = (*patch, *slices), (*stride, *slices)
        windows *= mean(count_windows(image.array.shape[1:], window, step) for image in images)
        # Four windows, since one call with several takes less than a call for each.
        moves = (*step[:2], *(0,) * len(step[2:]))
        inside = tuple(slice(side + move) for side, move in zip(window, moves, strict=True))
        part = replace(part, array=part.array[(slice(None), *inside)])
        windows /= count_windows(part.array.shape[1:], window, step)
    device = torch.device(settings.device)
    about: Any = {"device": device, "precision": settings.precision}

    def predict() -> float:
        began = now(device)
        predict_probabilities(framework, part, patch, stride, **about)
        return now(device) - began

    seconds = predict()
    # The first prediction of a process starts libraries, too.
    return windows * (predict() if seconds < _ENOUGH else seconds)


def seconds_of_mask(settings: RunSettings, scan: Sequence[Path]) -> float:
    """Return the seconds in which one scan is read, segmented, written and drawn.

    The first mask of a process starts libraries, too. So a mask that takes seconds is made twice,
    and the second one counts.

    Args:
        settings: of a run, whose network need not be trained.
        scan: the files of a scan.

    Raises:
        InputError: the scan cannot be read.
    """
    store = _few(*_opened(settings))
    framework = _framework(settings, store).to(settings.device)
    framework.learn(list(labeled_cases(store)))
    card = model_card(settings, store, framework)
    model = Deployed(framework, card, *window_of(settings), settings.precision)
    seconds = _mask(model, settings, scan)
    return _mask(model, settings, scan) if seconds < _STARTING else seconds


def _mask(model: Deployed, settings: RunSettings, scan: Sequence[Path]) -> float:
    """Return the seconds of one mask and its picture."""
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


@contextlib.contextmanager
def _given_back(device: str) -> Iterator[None]:
    """Give a GPU's memory back at the end: other processes train there, and PyTorch keeps it."""
    try:
        yield
    finally:
        if device.startswith("cuda"):
            gc.collect()
            torch.cuda.empty_cache()


def _opened(settings: RunSettings) -> tuple[Dataset, Cases]:
    dataset = open_dataset(settings)
    return dataset, cases_of(settings, dataset, split_of(settings, dataset))


def _few(dataset: Dataset, cases: Cases) -> VolumeStore:
    labeled, unlabeled = cases.labeled[:_CASES], cases.unlabeled[:_CASES]
    return VolumeStore(dataset, labeled=labeled, unlabeled=unlabeled, test=())


def _framework(settings: RunSettings, store: VolumeStore) -> Framework:
    dataset = store.dataset
    with torch.random.fork_rng(devices=[]):
        return make_framework(settings, dataset.channels, dataset.num_classes, dataset.class_names)
