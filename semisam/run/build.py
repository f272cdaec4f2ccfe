"""From settings to objects: dataset, network, method, branch."""

from __future__ import annotations

import contextlib
import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from semisam.core.backend import Backend, Prompter
from semisam.core.errors import InputError, PluginError, SemisamWarning, UnservedHeads, first_few
from semisam.core.framework import Framework, NetBuilder, blueprint
from semisam.core.layout import CARD, MODEL
from semisam.core.logger import Logger
from semisam.core.seeding import derive_seed
from semisam.data.datasets.dataset import Dataset, Split
from semisam.data.datasets.groups import patients_of
from semisam.data.datasets.held_out import folds_of, hold_out
from semisam.data.datasets.pairing import images_below, unread_images
from semisam.frameworks.controls import CONTROLS
from semisam.frameworks.semisam import SemiSAM
from semisam.inference.card import read_card
from semisam.plugins import registry
from semisam.plugins.construction import construct
from semisam.run.settings import Options, RunSettings
from semisam.training.checkpoint import load_tensors, reason_of

_WITHOUT_A_FOLDER = "phantom"
_ANY_IMAGES = {"folder", "images"}
_SHOWN = 6  # test cases in a message


def recognise_dataset(path: Path | None) -> str:
    """Return the name of the dataset plugin that reads a folder; ``phantom`` without a folder.

    The layouts of the built-in datasets come first, so an installed plugin does not change the
    reading of such a folder. Other plugins are imported for a folder of another layout, and for one
    that ``folder`` or ``images`` recognises, which accept any images.

    Raises:
        InputError: if the path is not a folder, or no plugin or several recognise it.
    """
    if path is None:
        return _WITHOUT_A_FOLDER
    if not path.is_dir():
        what = "a file" if path.exists() else "no such folder"
        raise InputError(f"--data must be a folder of scans, got {path} ({what}). Check the path.")
    plugins = registry.list_plugins("dataset")
    builtin = [p for p in plugins.values() if p.builtin and p.name != _WITHOUT_A_FOLDER]
    names = [p.name for p in builtin if _recognises(p, path)]
    if _ANY_IMAGES.issuperset(names):
        names += [p.name for p in plugins.values() if not p.builtin and _recognises(p, path)]
    if not names and (unread := unread_images(path)):
        raise InputError(
            f"--data must hold scans of a known format, got {path} with {len(unread)} files that "
            f"no reader knows ({first_few([file.name for file in unread])}). Convert pictures to "
            "PNG, and volumes to NIfTI."
        )
    if not names and (below := images_below(path)):
        shown = first_few([image.relative_to(path).as_posix() for image in below])
        raise InputError(
            f"--data must be a folder with all images in it or in one folder `images`, got {path} "
            f"with {len(below)} in folders ({shown}). Copy or link them there, the mask of "
            "`<case>.nii.gz` as `<case>_label.nii.gz`, or name the plugin that reads them with "
            "--dataset."
        )
    if len(names) != 1:
        raise InputError(
            "--data must be a layout that one dataset plugin recognises (installed: "
            f"{', '.join(plugins)}), got {path}, which "
            f"{' and '.join(names) if names else 'no plugin'} recognises. Name one with "
            "--dataset. The published Left Atrium layout has train.list, test.list and "
            "<case>/mri_norm2.h5."
        )
    return names[0]


def _recognises(plugin: registry.Plugin, path: Path) -> bool:
    """Return whether a dataset plugin recognises a folder; a broken one is named and skipped."""
    if plugin.problem is not None:
        return False
    try:
        recognises = getattr(registry.load_plugin(plugin), "recognises", None)
        return recognises is not None and bool(recognises(path))
    except Exception as error:
        if plugin.builtin and isinstance(error, InputError):
            raise
        fault = str(error) if isinstance(error, PluginError) else registry.in_one_line(error)
        warnings.warn(
            f"Dataset plugins must work to recognise a folder, got {plugin.name} of distribution "
            f"{plugin.distribution}: {fault}. It is skipped. Repair or uninstall it.",
            SemisamWarning,
            stacklevel=3,
        )
        return False


def open_plugin(name: str, path: Path | None, options: Options) -> Dataset:
    """Open a folder by a dataset plugin."""
    checked = registry.check_options("dataset", name, options)
    dataset: Dataset = construct("dataset", name, [path], checked)
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
    shown = first_few(split.test, _SHOWN)
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


class Cases(NamedTuple):
    """The training cases of a run.

    Attributes:
        labeled: cases that train with their label.
        unlabeled: cases that train without one.
        validation: labeled cases that are held out from training.
    """

    labeled: tuple[str, ...]
    unlabeled: tuple[str, ...]
    validation: tuple[str, ...] = ()


def cases_of(settings: RunSettings, dataset: Dataset, split: Split) -> Cases:
    """Return the training cases that the settings ask for.

    Raises:
        InputError: there are not enough labeled cases.
    """
    patients = patients_counted(dataset)
    if settings.first is not None:
        split = _reordered(split, settings, dataset.has_label)
    labeled, unlabeled = choose_labeled(
        split, settings.labels, settings.subset, dataset.has_label, patients
    )
    if settings.validate_every is None:
        return Cases(labeled, unlabeled)
    return hold_validation(labeled, unlabeled, settings.validate_cases, dataset.groups)


def _reordered(split: Split, settings: RunSettings, has_label: Callable[[str], bool]) -> Split:
    """Return a split whose training cases begin with those that the settings name."""
    named = [name.strip() for name in str(settings.first).split(",")]
    unknown = [name for name in named if name not in split.train]
    if unknown or len(set(named)) != len(named):
        wrong = unknown[0] if unknown else "one of them twice"
        raise InputError(
            f"--first must name training cases, each once, got {wrong!r}. `semisam data check` "
            "lists the cases."
        )
    lacking = [name for name in named[: settings.labels] if not has_label(name)]
    if lacking:
        raise InputError(
            f"--first must name cases with a label, got {lacking[0]} without one. Label it first."
        )
    if settings.subset:
        raise InputError(
            f"--first must come with --subsets 0, got {settings.subset}. A draw has its own order."
        )
    return replace(split, train=(*named, *(case for case in split.train if case not in named)))


def hold_validation(
    labeled: Sequence[str], unlabeled: Sequence[str], count: int, groups: Mapping[str, str]
) -> Cases:
    """Hold out the last labeled patients for validation; none of their scans trains.

    Args:
        labeled: labeled training cases.
        unlabeled: unlabeled training cases.
        count: patients to hold out.
        groups: the patient of each case; without groups every case is one.

    Raises:
        InputError: no labeled case is left to train.
    """
    patients = patients_of(labeled, groups)
    if count >= len(patients):
        what = "patients" if groups else "cases"
        raise InputError(
            f"--validate-cases must leave labeled {what} to train, got {count} of {len(patients)}. "
            "Raise --labels, lower it, or leave --validate-every out."
        )
    held = set(list(patients)[-count:])

    def is_held(case: str) -> bool:
        return groups.get(case, case) in held

    return Cases(
        tuple(case for case in labeled if not is_held(case)),
        tuple(case for case in unlabeled if not is_held(case)),
        tuple(filter(is_held, labeled)),
    )


def describe_validation(settings: RunSettings, dataset: Dataset) -> str:
    """Return a sentence on the labeled cases that validate; empty without a validation."""
    if settings.validate_every is None:
        return ""
    held = cases_of(settings, dataset, split_of(settings, dataset)).validation
    return f"Held out for validation, of the labeled cases: {', '.join(held)}."


def patients_counted(dataset: Dataset) -> Mapping[str, str]:
    """Return the patient of each case, if runs on a dataset count labeled patients."""
    return dataset.groups if dataset.counts_patients else {}


def network_builder(settings: RunSettings, channels: int) -> NetBuilder:
    """Return a builder of the settings' network for images with this number of channels.

    It raises `UnservedHeads` for heads that the network refuses.
    """
    name = settings.network
    options = registry.check_options("network", name, settings.network_options)

    def make(heads: Mapping[str, int]) -> nn.Module:
        try:
            module: nn.Module = construct("network", name, [channels, dict(heads)], options)
        except PluginError as error:
            refused = isinstance(error.__cause__, ValueError)
            if not (refused and _serves(name, channels, {"logits": 2}, options)):
                raise
            able = [
                other
                for other in registry.list_plugins("network")
                if _serves(other, channels, heads, axes=len(settings.patch))
            ]
            raise UnservedHeads(
                f"the network must serve the heads of method {settings.method!r}, got {name}: "
                f"{error.__cause__} Networks that serve them: {', '.join(able) or 'none'}."
            ) from error
        return module

    return NetBuilder(make, channels, len(settings.patch))


def _serves(
    name: str,
    channels: int,
    heads: Mapping[str, int],
    options: Options | None = None,
    axes: int | None = None,
) -> bool:
    """Return whether a network can be constructed with these heads, and is for these axes."""
    try:
        network = blueprint(lambda: construct("network", name, [channels, dict(heads)], options))
    except Exception:  # of any plugin: it is only a remedy in a message
        return False
    return axes in getattr(network, "axes", (axes,)) or axes is None


def start_from(framework: Framework, settings: RunSettings, dataset: Dataset) -> None:
    """Give a method the weights of the run that ``--init`` names, if it names one.

    Raises:
        InputError: the run is damaged, or of other options, channels or classes.
    """
    if settings.init is None:
        return
    folder = Path(settings.init)
    card = read_card(folder / CARD)
    before, now = card.class_names, tuple(dataset.class_names)
    # Of one class the name may be another; several could have changed their places.
    if len(before) != len(now) or (len(now) > 2 and before != now):
        raise InputError(
            f"--init must be a run of the same classes in the same order, {', '.join(now[1:])}, "
            f"got {folder} with {', '.join(before[1:])}. Name another run or leave it out."
        )
    try:
        framework.load_state_dict(load_tensors(folder / MODEL))
    except RuntimeError as error:
        raise InputError(
            f"--init must be a run of the same options of method and network, and of as many "
            f"channels, got {folder} ({reason_of(error)}). Name another run or leave it out."
        ) from None


def make_framework(
    settings: RunSettings, channels: int, num_classes: int, class_names: Sequence[str] = ()
) -> Framework:
    """Build the method, wrapped by the SemiSAM branch unless ``sam`` is ``none``.

    Args:
        settings: of the run.
        channels: of the images.
        num_classes: counting background.
        class_names: of all classes, for a branch; empty: not known.
    """
    options = registry.check_options("framework", settings.method, settings.method_options)
    loaded: Any = registry.load("framework", settings.method)
    wanted = getattr(loaded, "networks", ())
    if wanted and settings.network not in wanted:
        raise UnservedHeads(
            f"--network must be {' or '.join(wanted)} for method {settings.method!r}, got "
            f"{settings.network}. Choose it, or leave the method out."
        )
    build = network_builder(settings, channels)
    framework: Framework = construct("framework", settings.method, [build, num_classes], options)
    if settings.sam == "none":
        return framework
    backend, prompter = make_pair(settings)
    branch: Options = registry.check_keywords(SemiSAM, "semisam", settings.semisam_options)
    control = CONTROLS[settings.sam_control or "none"]
    try:
        options = {"seed": settings.seed, **branch}
        return control(framework, backend, prompter, class_names, **options)
    except ValueError as error:
        raise PluginError(f"the SemiSAM branch refuses its options: {error}") from error


def make_logger(settings: RunSettings) -> Logger | None:
    """Build the logger of the settings.

    Raises:
        PluginError: the package of its service is missing.
    """
    if settings.logger == "none":
        return None
    options = registry.check_options("logger", settings.logger, settings.logger_options)
    logger: Logger = construct("logger", settings.logger, (), options)
    return logger


def make_pair(settings: RunSettings) -> tuple[Backend, Prompter]:
    """Build the promptable segmenter and the prompter of the settings.

    Raises:
        PluginError: the prompter makes a kind of prompt that the segmenter does not accept.
    """
    model_options = registry.check_options("backend", settings.sam, settings.sam_options)
    click_options = registry.check_options("prompter", settings.prompter, settings.prompter_options)
    backend: Backend = construct("backend", settings.sam, (), model_options)
    prompter: Prompter = construct("prompter", settings.prompter, (), click_options)
    accepts, emits = backend.accepts, prompter.emits
    if emits <= accepts:
        return backend, prompter
    prompters, backends = _kinds_of("prompter"), _kinds_of("backend")
    fitting = [name for name, kinds in prompters.items() if kinds <= accepts]
    others = [name for name, kinds in backends.items() if emits <= kinds]
    raise PluginError(
        f"--prompter must make only prompts that backend {settings.sam!r} accepts "
        f"({', '.join(sorted(accepts))}), got {settings.prompter}, which makes "
        f"{', '.join(sorted(emits))}. Prompters for this backend: "
        f"{', '.join(fitting) or 'none'}. Backends for this prompter: "
        f"{', '.join(others) or 'none'}."
    )


def _kinds_of(kind: str) -> dict[str, frozenset[str]]:
    """Return the kinds of prompt that the plugins of a kind state, without constructing them."""
    stated: dict[str, frozenset[str]] = {}
    for name, plugin in registry.list_plugins(kind).items():
        with contextlib.suppress(PluginError):  # a broken plugin states nothing
            stated[name] = registry.prompt_kinds(kind, registry.load_plugin(plugin))
    return {name: kinds for name, kinds in stated.items() if kinds}
