"""From settings to objects: dataset, network, method, branch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from torch import nn

from semisam.core.backend import Backend, Prompter
from semisam.core.errors import InputError, PluginError
from semisam.core.framework import Framework, NetBuilder
from semisam.core.seeding import derive_seed
from semisam.data.datasets.dataset import Dataset, Split
from semisam.data.datasets.groups import patients_of
from semisam.data.datasets.held_out import folds_of, hold_out
from semisam.frameworks.controls import CONTROLS
from semisam.frameworks.semisam import SemiSAM
from semisam.plugins import registry
from semisam.run.settings import Options, RunSettings

_SHOWN = 6  # test cases in a message


def recognise_dataset(path: Path | None) -> str:
    """Return the name of the dataset plugin that reads a folder; ``phantom`` without a folder.

    Raises:
        InputError: if the path is not a folder, or no plugin or several recognise it.
    """
    if path is None:
        return "phantom"
    if not path.is_dir():
        what = "a file" if path.exists() else "no such folder"
        raise InputError(f"--data must be a folder of scans, got {path} ({what}). Check the path.")
    names = [
        name
        for name, plugin in registry.list_plugins("dataset").items()
        if plugin.problem is None and registry.load("dataset", name).recognises(path)  # type: ignore[attr-defined]
    ]
    if len(names) != 1:
        known = ", ".join(registry.list_plugins("dataset"))
        raise InputError(
            f"--data must be a layout that one dataset plugin recognises (installed: {known}), got "
            f"{path}, which {' and '.join(names) if names else 'no plugin'} recognises. Name "
            "one with --dataset. The published Left Atrium layout has train.list, test.list and "
            "<case>/mri_norm2.h5."
        )
    return names[0]


def open_plugin(name: str, path: Path | None, options: Options) -> Dataset:
    """Open a folder by a dataset plugin."""
    checked = registry.check_options("dataset", name, options)
    dataset: Dataset = registry.load("dataset", name)(path, **checked)
    return dataset


def open_folder(path: str | Path, dataset: str | None = None, **options: Any) -> Dataset:
    """Open a folder of scans as ``semisam train --data`` would.

    Args:
        path: of the folder.
        dataset: name of a dataset plugin; ``None``: the one that recognises the folder.
        **options: of the dataset plugin.

    Raises:
        InputError: no plugin, or several, recognise the folder.
        PluginError: the plugin has no such option.
    """
    folder = Path(path)
    return open_plugin(dataset or recognise_dataset(folder), folder, options)


def open_dataset(settings: RunSettings) -> Dataset:
    """Open the settings' dataset."""
    path = None if settings.data is None else Path(settings.data)
    return open_plugin(settings.dataset, path, settings.dataset_options)


def split_of(settings: RunSettings, dataset: Dataset) -> Split:
    """Return the training and test cases that the settings ask for.

    Raises:
        InputError: the setting does not fit the dataset.
    """
    test, fold = settings.test, settings.fold
    return hold_out(dataset.split(), test, fold, dataset.has_label, dataset.groups)


def describe_test(settings: RunSettings, dataset: Dataset) -> str:
    """Return a sentence on the cases that are held out, and why."""
    if settings.test == "none":
        return "No test (--test none): every case may train, and there will be no score."
    if folds_of(settings.test) and settings.fold is None:
        return f"Each labeled case is scored once (--test {settings.test})."
    split = split_of(settings, dataset)
    shown = ", ".join(split.test[:_SHOWN]) + (", ..." if len(split.test) > _SHOWN else "")
    text = f"Held out for the test: {shown} ({len(split.test)}, {split.source})."
    if split.source.startswith("drawn"):
        text += " --test none trains on all; --test 3-fold scores each labeled case once."
    return text


def choose_labeled(
    split: Split,
    labels: int,
    subset: int,
    has_label: Callable[[str], bool],
    patients: Mapping[str, str] = MappingProxyType({}),
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the labeled and the unlabeled training cases.

    Subset 0 is the first ``labels`` of the list, as published. Subset k > 0 is the first ``labels``
    of the k-th seeded permutation. The labeled cases of a larger number contain those of a
    smaller one. Cases without a label are passed over, since they can only be unlabeled.

    Args:
        split: of the dataset.
        labels: number of labeled cases.
        subset: number of the draw.
        has_label: returns True if a case has a label; called only until enough are found.
        patients: the patient of each case, if ``labels`` counts patients. All cases of a labeled
            patient that have a label are then labeled.

    Raises:
        InputError: if fewer than ``labels`` training cases have a label.
    """
    units = list(patients_of(split.train, patients).values())
    what = "patients" if patients else "cases"
    if labels > len(units):
        raise InputError(
            f"--labels must be at most the number of training {what}, {len(units)}, got {labels}. "
            "Lower it."
        )
    if subset:
        rng = np.random.Generator(np.random.Philox(derive_seed("subset", subset)))
        units = [units[i] for i in rng.permutation(len(units))]
    with_label = (found for unit in units if (found := list(filter(has_label, unit))))
    chosen = list(itertools.islice(with_label, labels))
    if len(chosen) < labels:
        raise InputError(
            f"--labels must be at most the number of training {what} that have a label, "
            f"{len(chosen)} of {len(units)}, got {labels}. Lower it or label more cases."
        )
    labeled = dict.fromkeys(case for unit in chosen for case in unit)
    rest = (case for unit in units for case in unit if case not in labeled)
    return tuple(labeled), tuple(rest)


def patients_counted(dataset: Dataset) -> Mapping[str, str]:
    """Return the patient of each case, if runs on a dataset count labeled patients."""
    return dataset.groups if dataset.counts_patients else {}


def network_builder(settings: RunSettings, channels: int) -> NetBuilder:
    """Return a builder of the settings' network for images with this number of channels."""
    options = registry.check_options("network", settings.network, settings.network_options)
    network = registry.load("network", settings.network)

    def build(**heads: int) -> nn.Module:
        module: nn.Module = network(channels, heads, **options)
        return module

    return build


def make_framework(settings: RunSettings, channels: int, num_classes: int) -> Framework:
    """Build the method, wrapped by the SemiSAM branch unless ``sam`` is ``none``."""
    options = registry.check_options("framework", settings.method, settings.method_options)
    build = network_builder(settings, channels)
    method = registry.load("framework", settings.method)
    framework: Framework = _construct(
        f"the method {settings.method}", lambda: method(build, num_classes, **options)
    )
    if settings.sam == "none":
        return framework
    backend, prompter = make_pair(settings)
    branch: Options = registry.check_keywords(SemiSAM, "semisam", settings.semisam_options)
    control = CONTROLS[settings.sam_control or "none"]
    seeded = {"seed": settings.seed, **branch}
    wrapped: Framework = _construct(
        "the SemiSAM branch", lambda: control(framework, backend, prompter, **seeded)
    )
    return wrapped


def make_pair(settings: RunSettings) -> tuple[Backend, Prompter]:
    """Build the promptable segmenter and the prompter of the settings."""
    model_options = registry.check_options("backend", settings.sam, settings.sam_options)
    click_options = registry.check_options("prompter", settings.prompter, settings.prompter_options)
    backend = registry.load("backend", settings.sam)
    prompter = registry.load("prompter", settings.prompter)
    return (
        _construct(f"the backend {settings.sam}", lambda: backend(**model_options)),
        _construct(f"the prompter {settings.prompter}", lambda: prompter(**click_options)),
    )


def _construct(what: str, make: Callable[[], Any]) -> Any:
    """Call a constructor; report a value that it refuses as an error of the user's options."""
    try:
        return make()
    except ValueError as error:
        raise PluginError(f"{what} refuses its options: {error}") from error
