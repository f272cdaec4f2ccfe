"""Check a folder of scans before training: its content and all its faults.

Unlike a run, a check reads every label. It reads a few cases at a time, so its memory does not
depend on their number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semisam.core.errors import InputError
from semisam.core.threads import in_order
from semisam.core.types import IGNORE
from semisam.data.datasets.dataset import Dataset, Split
from semisam.data.datasets.faults import Fault, fault_of
from semisam.data.datasets.labels import LabelValues, classes_in, count_values, is_inverted
from semisam.data.datasets.lookalikes import label_fault
from semisam.data.datasets.prepared import Prepared
from semisam.data.datasets.scans import Contents, ScanDataset, ScanFiles, read_channels
from semisam.data.images.alignment import misfit, with_flat_axis
from semisam.data.images.pictures import is_picture, is_turned
from semisam.data.loading.store import array_hash, read_named
from semisam.data.tools.report import (
    CaseReport,
    FolderReport,
    duplicates,
    image_faults,
    label_faults,
    odd_axes,
    with_image,
)
from semisam.plugins import registry
from semisam.plugins.construction import construct

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

    Raises:
        InputError: an option for a folder of scan files is out of range.
    """
    kind: Any = registry.load("dataset", name)
    of_scans = isinstance(kind, type) and issubclass(kind, ScanDataset)
    if of_scans:
        usual, own = (registry.default_keywords(of, "dataset") for of in (ScanDataset, kind))
        options = {**usual, **kind.fixed, **own, **options}
        kind.check_options(options)  # here, because they are no fault of the folder
    try:
        if of_scans:
            values, cases, examine, faults = _of_scans(kind, path, options)
        else:
            opened = construct("dataset", name, [path], options)
            values, cases, examine, faults = _of_dataset(opened)
    except InputError as error:
        return FolderReport(name, str(path), (), (), (fault_of(str(path), error),))
    reports = in_order(cases, examine, on_case, workers=_MOST_WORKERS)
    labels = {name: counts for report in reports for name, counts in report.values.items()}
    unknown = values.fault(labels)
    faults += [unknown] if unknown else []
    faults += [fault for report in reports for fault in report.faults]
    faults += duplicates(reports) + odd_axes(reports)
    return FolderReport(name, str(path), values.class_names, tuple(reports), tuple(faults))


def _of_scans(
    kind: type[ScanDataset], path: Path, options: Mapping[str, Any]
) -> tuple[LabelValues, list[str], Examine, list[Fault]]:
    """Return values, cases, check and faults of a folder of scan files.

    The folder is not opened as a dataset, because that fails at the first fault.
    """
    found = kind.contents(path, options)
    parts = _parts(found.split)

    def examine(case: str) -> CaseReport:
        files = found.layout.cases[case]
        source = str(files.images[0])
        report = CaseReport(case, parts.get(case, ""), source, files.label is not None)
        return _examine_files(kind, found, report, files)

    return found.values, list(found.layout.cases), examine, found.faults


def _examine_files(
    kind: type[ScanDataset], found: Contents, report: CaseReport, files: ScanFiles
) -> CaseReport:
    faults: list[Fault] = []
    layout, values, channels = found.layout, found.values, len(found.layout.modalities)
    geometry = placement = None
    try:
        image, geometry = read_channels(files.images, found.series, channels)
        report = with_image(report, image, geometry.spacing)
        turned = any(is_picture(path) and is_turned(path) for path in files.images)
        report = replace(report, turned=turned)
        faults += image_faults(image, channels, report.source)
        if len(image) == channels:
            placement = found.recipe.place(image, geometry)
        if files.label is None and all(f.file != report.source for f in layout.faults):
            lookalike = label_fault(report.case, layout.cases, image)
            faults += [lookalike] if lookalike else []
        del image
    except InputError as error:
        faults.append(fault_of(report.source, error))
    if files.label is None:
        return replace(report, faults=tuple(faults))
    name = str(files.label)
    try:
        raw, where = files.read_label()
        if geometry is not None:
            raw, where = with_flat_axis(raw, where, report.shape, geometry)
        counts = count_values(raw, name)
        report = replace(report, voxels=values.count_classes(counts), values={name: counts})
        faults += [] if kind.empty_labels else label_faults(report.voxels, name)
        if geometry is not None:
            where = where if kind.aligned_labels else geometry
            wrong = misfit(raw.shape, where, report.shape, geometry)
            faults += [fault_of(name, InputError(wrong))] if wrong else []
            if placement is not None and not wrong and not values.fault(report.values):
                drawn = values.classes(raw, name)
                kept = placement.label(drawn)
                report = replace(report, lost=_lost(drawn, kept), inverted=is_inverted(drawn))
                if report.lost and not (kind.empty_labels or classes_in(kept)):
                    problem = "a label must contain a foreground class at the training spacing, got"
                    faults.append(Fault(name, f"{problem} none", "choose a finer spacing"))
    except InputError as error:
        faults.append(fault_of(name, error))
    return replace(report, faults=tuple(faults))


def _of_dataset(dataset: Dataset) -> tuple[LabelValues, list[str], Examine, list[Fault]]:
    """Return values, cases, check and faults of any other dataset, read by its plugin."""
    split = dataset.split()
    parts = _parts(split)
    ignored = (IGNORE,) if dataset.partial_labels else ()
    values = LabelValues(dataset.name, tuple(dataset.class_names), ignored=ignored)

    def examine(case: str) -> CaseReport:
        report = CaseReport(case, parts.get(case, ""), dataset.source(case), False)
        return _examine_case(dataset, values, report)

    return values, list(split.cases), examine, []


def _examine_case(dataset: Dataset, values: LabelValues, report: CaseReport) -> CaseReport:
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
            counts = count_values(label, source)
            report = replace(report, voxels=values.count_classes(counts), values={source: counts})
            faults += [] if dataset.empty_labels else label_faults(report.voxels, source)
            faults += _changed(dataset, case, "label", array_hash(label))
            if placement is not None:
                drawn = read_named(source, lambda: dataset.drawn_label(case))
                faults += _changed(dataset, case, "drawn", array_hash(drawn))
                report = replace(report, lost=_lost(drawn, label))
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


def _lost(drawn: NDArray[np.uint8], label: NDArray[np.uint8]) -> tuple[int, ...]:
    """Return the classes of a label as drawn that it lacks at the training spacing."""
    return tuple(sorted(classes_in(drawn) - classes_in(label)))


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
