"""The grid of a comparison: its runs, checked before the first one starts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from semisam.core.errors import InputError, UnservedHeads
from semisam.core.framework import Framework
from semisam.data.datasets.dataset import Dataset
from semisam.data.datasets.held_out import folds_of
from semisam.data.loading.store import VolumeStore
from semisam.frameworks.controls import CONTROLS, NEED_TRUTH
from semisam.plugins.registry import nearest
from semisam.run.build import (
    cases_of,
    make_framework,
    make_logger,
    open_dataset,
    split_of,
    start_from,
)
from semisam.run.preflight import check_run
from semisam.run.record import data_key
from semisam.run.request import Request
from semisam.run.settings import RunSettings


@dataclass(frozen=True)
class Axes:
    """The axes of a grid.

    Attributes:
        methods: method plugins.
        sams: backend plugins, ``none`` for the bare method.
        labels: numbers of labeled cases.
        subsets: labeled subsets; 0 is the published one.
        seeds: run seeds.
        sam_controls: ``none`` for the branch itself; see `semisam.frameworks.controls`.
    """

    methods: Sequence[str]
    sams: Sequence[str] = ("none",)
    labels: Sequence[int] = (1, 2, 4)
    subsets: Sequence[int] = (0,)
    seeds: Sequence[int] = (0,)
    sam_controls: Sequence[str] = ("none",)


@dataclass(frozen=True)
class Run:
    """One run of a grid: its settings and the name of its folder."""

    settings: RunSettings
    name: str


def expand(axes: Axes, asked: Request) -> list[RunSettings]:
    """Return the settings of every run, the cheap and informative ones first.

    Args:
        axes: of the grid.
        asked: settings that all runs have in common.

    Raises:
        InputError: a setting or a name is wrong.
        PluginError: a plugin or an option is wrong.
    """
    check_names("--sam-control", axes.sam_controls, tuple(CONTROLS))
    order = itertools.product(
        axes.seeds,
        axes.subsets,
        axes.labels,
        axes.methods,
        axes.sams,
        axes.sam_controls,
    )
    folds = range(1, (folds_of(str(asked.settings.get("test"))) or 0) + 1) or (None,)
    if asked.settings.get("fold") is not None:
        folds = (asked.settings["fold"],)
    runs = [
        asked.resolve(
            method=method,
            labels=labels,
            sam=sam,
            sam_control=control,
            subset=subset,
            seed=seed,
            fold=fold,
        )
        for seed, subset, labels, method, sam, control in order
        for fold in folds
    ]
    # A bare run does not depend on the branch's options, so it must not be run twice.
    return list({run.model_dump_json(): run for run in runs}.values())


def check_names(option: str, names: Sequence[str], known: Sequence[str]) -> None:
    """Refuse a name that is not among the values of an option.

    Raises:
        InputError: a name is wrong; the message lists the values of the option.
    """
    wrong = [name for name in names if name not in known]
    if wrong:
        raise InputError(
            f"{option} must be of {', '.join(known)}, got {', '.join(wrong)}"
            f"{nearest(wrong[0], known)}. Correct the name."
        )


def check(
    runs: Sequence[RunSettings],
    on_case: Callable[[int, int], None] | None = None,
    *,
    here: bool = True,
    on_lost: Callable[[str], None] | None = None,
) -> list[Run]:
    """Check every run of a grid before the first one starts, and name them.

    All images, and the labels of the test cases and of cases that are labeled in some run, are read
    once; all labels if a control needs the truth. Runs of a method whose heads the network cannot
    serve are lost; the others are returned.

    Args:
        runs: settings of each.
        on_case: called with (cases read, number of cases).
        here: True if the runs train on this machine, whose device and memory can be checked.
        on_lost: called with a sentence for each reason by which runs are lost.

    Raises:
        InputError: if any setting or volume cannot be used.
        PluginError: if any plugin cannot be used, or the network serves no method of the grid.
    """
    dataset = open_dataset(runs[0])
    splits = {(r.test, r.fold): split_of(r, dataset) for r in runs}
    # Names, options and pairs first, since they need no scan.
    for run in runs:
        make_logger(run)
    with torch.random.fork_rng(devices=[]):
        runs, frameworks = _built(runs, dataset, on_lost or (lambda reason: None))
    chosen = {}
    for r in runs:
        chosen[_cases_of(r)] = cases_of(r, dataset, splits[r.test, r.fold])
    tested = {case for split in splits.values() for case in split.test}
    validated = {case for found in chosen.values() for case in found.validation} - tested
    ever_labeled = {case for found in chosen.values() for case in found.labeled}
    ever_labeled -= tested | validated
    cases = dict.fromkeys(case for s in splits.values() for case in (*s.train, *s.test))
    store = VolumeStore(
        dataset,
        labeled=[case for case in cases if case in ever_labeled],
        unlabeled=[case for case in cases if case not in ever_labeled | tested | validated],
        test=[case for case in cases if case in tested],
        validation=[case for case in cases if case in validated],
        oracle=any(run.sam_control in NEED_TRUTH for run in runs),
    )
    hashes = store.check(on_case)
    for run, framework in zip(runs, frameworks, strict=True):
        found = chosen[_cases_of(run)]
        check_run(run, store, framework, len(found.labeled), len(found.unlabeled), here=here)
    named = []
    for run in runs:
        test, truth = splits[run.test, run.fold].test, run.sam_control in NEED_TRUTH
        key = data_key(hashes, chosen[_cases_of(run)], test, truth=truth)
        named.append(Run(run, _folder_name(run, run.identity(key))))
    return named


def _built(
    runs: Sequence[RunSettings], dataset: Dataset, on_lost: Callable[[str], None]
) -> tuple[list[RunSettings], list[Framework]]:
    """Return the runs whose method can be built, and their methods."""
    built, lost = [], {}
    for run in runs:
        try:
            framework = make_framework(
                run, dataset.channels, dataset.num_classes, dataset.class_names
            )
            start_from(framework, run, dataset)
        except UnservedHeads as error:
            lost[str(error)] = error
        else:
            built.append((run, framework))
    if not built:
        raise next(iter(lost.values()))
    for reason in lost:
        on_lost(reason)
    return [run for run, _ in built], [framework for _, framework in built]


def _cases_of(run: RunSettings) -> tuple[int | str | None, ...]:
    """Return the settings that decide which cases are labeled, and which validate."""
    validation = (run.validate_every, run.validate_cases)
    return run.labels, run.subset, run.first, run.test, run.fold, *validation


def _folder_name(run: RunSettings, identity: str) -> str:
    sam = "" if run.sam == "none" else f"+{run.sam}"
    if run.sam_control:
        sam += f"-{run.sam_control}"
    fold = "" if run.fold is None else f"-fold{run.fold}"
    return f"{run.method}{sam}-n{run.labels}-subset{run.subset}-seed{run.seed}{fold}-{identity}"
