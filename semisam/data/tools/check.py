"""Check a folder of scans before training: its content and all its faults.

Unlike a run, a check reads every label. It reads a few cases at a time, so its memory does not
depend on their number.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from semisam.core.errors import InputError
from semisam.data.datasets.dataset import Dataset, Split
from semisam.data.datasets.prepared import Prepared
from semisam.data.datasets.scans import ScanDataset, ScanFiles, read_channels, read_label
from semisam.data.datasets.splits import Fault, find_groups, find_split
from semisam.data.images.alignment import misfit
from semisam.data.loading.store import array_hash, read_named
from semisam.data.tools.report import (
    CaseReport,
    FolderReport,
    count_voxels,
    duplicates,
    fault_of,
    image_faults,
    label_faults,
    odd_axes,
    with_image,
)
from semisam.plugins import registry

_MOST_WORKERS = 8


Examine = Callable[[str], CaseReport]


def check_folder(
    path: Path,
    name: str,
    options: Mapping[str, Any],
    on_case: Callable[[int, int], None] | None = None,
) -> FolderReport:
    """Check every file of a dataset.

    Args:
        path: the folder.
        name: name of the dataset plugin that reads it.
        options: options of the plugin's constructor.
        on_case: called with (cases done, number of cases) after each case.
    """
    kind: Any = registry.load("dataset", name)
    try:
        if isinstance(kind, type) and issubclass(kind, ScanDataset):
            classes, cases, examine, faults = _of_scans(kind, path, options)
        else:
            classes, cases, examine, faults = _of_dataset(kind(path, **options))
    except InputError as error:
        return FolderReport(name, str(path), (), (), (fault_of(str(path), error),))
    reports = _examined(cases, examine, on_case)
    faults += [fault for report in reports for fault in report.faults]
    faults += duplicates(reports) + odd_axes(reports)
    return FolderReport(name, str(path), classes, tuple(reports), tuple(faults))


def _examined(
    cases: Sequence[str], examine: Examine, on_case: Callable[[int, int], None] | None
) -> list[CaseReport]:
    reports = []
    workers = min(_MOST_WORKERS, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers, thread_name_prefix="check") as pool:
        futures = [pool.submit(examine, case) for case in cases]
        try:
            for done, future in enumerate(futures, start=1):
                reports.append(future.result())
                if on_case is not None:
                    on_case(done, len(futures))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return reports


def _of_scans(
    kind: type[ScanDataset], path: Path, options: Mapping[str, Any]
) -> tuple[tuple[str, ...], list[str], Examine, list[Fault]]:
    """Return classes, cases, check and faults of a folder of scan files.

    The folder is not opened as a dataset, because that fails at the first fault.
    """
    layout = kind.discover(path, tuple(options.get("classes", ())))
    labeled = {case: files.label is not None for case, files in layout.cases.items()}
    faults = [*layout.odd_names(), *layout.faults]
    split = Split((), ())
    try:
        seed, share = options.get("split_seed", 0), options.get("test_share", 0.2)
        split, wrong = find_split(
            path,
            labeled,
            layout.split,
            fold=options.get("fold", 0),
            test_share=share,
            seed=seed,
            groups=find_groups(path, labeled, options.get("groups", "")),
        )
        faults += wrong
    except InputError as error:
        faults.append(fault_of(str(path), error))
    parts = _parts(split)

    def examine(case: str) -> CaseReport:
        files = layout.cases[case]
        report = CaseReport(
            case, parts.get(case, ""), str(files.images[0]), files.label is not None
        )
        series = options.get("series", "")
        return _examine_files(kind, report, files, layout.classes, len(layout.modalities), series)

    return layout.classes, list(layout.cases), examine, faults


def _examine_files(
    kind: type[ScanDataset],
    report: CaseReport,
    files: ScanFiles,
    classes: tuple[str, ...],
    channels: int,
    series: str,
) -> CaseReport:
    faults: list[Fault] = []
    geometry = None
    try:
        image, geometry = read_channels(files.images, series)
        report = with_image(report, image, geometry.spacing)
        faults += image_faults(image, channels, report.source)
        del image
    except InputError as error:
        faults.append(fault_of(report.source, error))
    if files.label is not None:
        name = str(files.label)
        try:
            label, where = read_label(files.label)
            label = kind.as_classes(label)
            report = replace(report, voxels=count_voxels(label))
            faults += label_faults(report.voxels, classes, name)
            if geometry is not None:
                where = where if kind.aligned_labels else geometry
                wrong = misfit(label.shape, where, report.shape, geometry)
                faults += [fault_of(name, InputError(wrong))] if wrong else []
        except InputError as error:
            faults.append(fault_of(name, error))
    return replace(report, faults=tuple(faults))


def _of_dataset(dataset: Dataset) -> tuple[tuple[str, ...], list[str], Examine, list[Fault]]:
    """Return classes, cases, check and faults of any other dataset, read by its plugin."""
    split = dataset.split()
    parts = _parts(split)

    def examine(case: str) -> CaseReport:
        report = CaseReport(case, parts[case], dataset.source(case), False)
        return _examine_case(dataset, report)

    return tuple(dataset.class_names), [*split.train, *split.test], examine, []


def _examine_case(dataset: Dataset, report: CaseReport) -> CaseReport:
    case, source = report.case, report.source
    faults: list[Fault] = []
    try:
        image = read_named(source, lambda: dataset.image(case))
        report = with_image(report, image.array, image.geometry.spacing)
        faults += image_faults(image.array, dataset.channels, source)
        faults += _changed(dataset, case, "image", report.image_hash)
        placement = image.placement
        del image
        labeled = read_named(source, lambda: dataset.has_label(case))
        report = replace(report, labeled=labeled)
        if labeled:
            label = read_named(source, lambda: dataset.label(case))
            report = replace(report, voxels=count_voxels(label))
            faults += label_faults(report.voxels, dataset.class_names, source)
            faults += _changed(dataset, case, "label", array_hash(label))
            if placement is not None:
                drawn = read_named(source, lambda: dataset.drawn_label(case))
                faults += _changed(dataset, case, "drawn", array_hash(drawn))
            if label.shape != report.shape:
                problem = f"image and label must have one shape, got {report.shape} and "
                remedy = "resample the label onto the image's grid"
                faults.append(Fault(source, f"{problem}{label.shape}", remedy))
        elif report.part == "test":
            faults.append(
                Fault(source, "a test case must have a label, got none", "add it to the file")
            )
    except InputError as error:
        faults.append(fault_of(source, error))
    return replace(report, faults=tuple(faults))


def _changed(dataset: Dataset, case: str, part: str, found: str) -> list[Fault]:
    """Return a fault if a prepared volume has changed."""
    if not isinstance(dataset, Prepared) or dataset.recorded_hash(case, part) == found:
        return []
    return [
        Fault(
            dataset.source(case),
            f"the {part} must have the manifest's SHA-256, got another: it was changed or damaged",
            "delete the file and run the same `semisam data prepare` again",
        )
    ]


def _parts(split: Split) -> dict[str, str]:
    return {**dict.fromkeys(split.train, "train"), **dict.fromkeys(split.test, "test")}
