"""The scans and masks of a folder, checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from semisam.core.errors import InputError
from semisam.data.datasets.dataset import Dataset
from semisam.data.datasets.faults import Fault
from semisam.data.datasets.groups import patients_of
from semisam.data.datasets.labels import is_partial
from semisam.data.datasets.scans import ScanDataset
from semisam.data.images.files import parts_of
from semisam.data.tools.check import check_folder
from semisam.data.tools.report import FolderReport
from semisam.inference.inputs import unread_entries
from semisam.plugins import registry
from semisam.run.build import open_plugin, patients_counted, recognise_dataset

_SHOWN = 3  # faults in a message


@dataclass(frozen=True)
class Survey:
    """The cases of a folder.

    Attributes:
        path: of the folder.
        dataset: name of its plugin.
        options: of the plugin.
        opened: by the plugin.
        labeled: cases with a mask, maybe none.
        unlabeled: cases without one.
        left_out: faults of the cases that are left out.
        unread: entries of the folder that are no scan.
        whole: labeled cases whose mask is annotated everywhere, to which a model can be adapted.
    """

    path: Path
    dataset: str
    options: Mapping[str, Any]
    opened: Dataset
    labeled: tuple[str, ...]
    unlabeled: tuple[str, ...]
    left_out: tuple[Fault, ...] = ()
    whole: tuple[str, ...] = ()
    unread: tuple[Path, ...] = ()

    def at(self, spacing: tuple[float, ...] | None) -> Survey:
        """Return the same cases at a spacing in mm; ``None``: as they are."""
        if spacing is None:
            return self
        options = {**self.options, "spacing": spacing}
        return replace(self, options=options, opened=open_plugin(self.dataset, self.path, options))

    def whole_without(self, case: str | None) -> bool:
        """Return whether a mask is annotated everywhere, apart from those of a case's patient."""
        return bool(self._others(self.whole, case))

    def labels_without(self, case: str | None) -> int:
        """Return the number of labeled cases, or of patients if the dataset counts these.

        Args:
            case: whose patient does not count; ``None``: all count.
        """
        kept = self._others(self.labeled, case)
        return len(patients_of(kept, patients_counted(self.opened)))

    def _others(self, cases: Sequence[str], case: str | None) -> list[str]:
        """Return the cases of other patients; ``None``: all."""
        groups = self.opened.groups
        held = None if case is None else groups.get(case, case)
        return [other for other in cases if groups.get(other, other) != held]

    def label_place(self, case: str) -> str:
        """Return where a label of a case belongs: a path in the folder, or the file with it."""
        if isinstance(self.opened, ScanDataset):
            return self.opened.layout.label_place(case).relative_to(self.path).as_posix()
        return f"the label in {self.opened.source(case)}"

    def files(self, case: str) -> tuple[Path, ...]:
        """Return the image files of a case."""
        if isinstance(self.opened, ScanDataset):
            return self.opened.layout.cases[case].images
        return (Path(self.opened.source(case)),)

    def state(self, case: str) -> str:
        """Return the sizes and times of the image files of a case, which change with them."""
        found = [path.stat() for path in parts_of(self.files(case))]
        return " ".join(f"{one.st_size}-{one.st_mtime_ns}" for one in found)

    def masks(self, case: str) -> tuple[Path, ...]:
        """Return the files with the mask of a labeled case."""
        if isinstance(self.opened, ScanDataset):
            return self.opened.layout.cases[case].labels()
        return (Path(self.opened.source(case)),)


def survey(
    path: Path,
    dataset: str | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    skip_faulty: bool = False,
    on_case: Callable[[int, int], None] | None = None,
) -> Survey:
    """Check every file of a folder, as ``semisam data check`` does, and return its cases.

    Args:
        path: of the folder.
        dataset: name of its plugin; ``None``: the one that recognises the folder.
        options: of the plugin.
        skip_faulty: leave out the cases whose files have faults.
        on_case: called with (cases done, number of cases).

    Raises:
        InputError: a file has a fault, or every case has a mask.
    """
    name = dataset or recognise_dataset(path)
    given = registry.check_options("dataset", name, options or {})
    left_out: list[Fault] = []
    # A fault may stand for several cases, so the rest is checked again.
    while (report := check_folder(path, name, given, on_case)).faults:
        if not skip_faulty:
            raise InputError(_told(report))
        left_out += report.faults
        given = {**given, "without": (*given.get("without", ()), *_faulty(report))}
    opened = open_plugin(name, path, given)
    cases = _cases(opened)
    labeled = tuple(case for case in cases if opened.has_label(case))
    unlabeled = tuple(case for case in cases if not opened.has_label(case))
    if not unlabeled:
        raise InputError(
            f"the folder must hold a scan without a mask, got {len(labeled)} with and 0 without in "
            f"{path}. Add scans to segment."
        )
    partial = opened.partial_labels
    whole = [case for case in labeled if not (partial and is_partial(opened.label(case)))]
    unread = tuple(unread_entries(path, name))
    return Survey(
        path, name, given, opened, labeled, unlabeled, tuple(left_out), tuple(whole), unread
    )


def _cases(opened: Dataset) -> list[str]:
    """Return all cases, also those that a split leaves out."""
    if isinstance(opened, ScanDataset):
        return sorted(opened.layout.cases)
    return sorted(opened.split().cases)


def _faulty(report: FolderReport) -> list[str]:
    """Return the cases with a fault.

    Raises:
        InputError: a fault belongs to no case, or every case has one.
    """
    cases = {file: case.case for case in report.cases for file in (case.source, *case.values)}
    cases |= {fault.file: case.case for case in report.cases for fault in case.faults}
    cases |= {fault.file: fault.case for fault in report.faults if fault.case}
    of_none = [fault for fault in report.faults if fault.file not in cases]
    if of_none:
        raise InputError(f"{of_none[0]} It belongs to no case that could be left out.")
    faulty = list(dict.fromkeys(cases[fault.file] for fault in report.faults))
    if {case.case for case in report.cases} <= set(faulty):
        raise InputError(_told(report))
    return faulty


def _told(report: FolderReport) -> str:
    """Return the first faults, and the way out if it would leave a case with a mask."""
    count = len(report.faults)
    lines = [str(fault) for fault in report.faults[:_SHOWN]]
    more = f" `semisam data check` lists {count - _SHOWN} more." if count > _SHOWN else ""
    faulty = {fault.file for fault in report.faults}
    known = set(range(len(report.class_names)))
    labeled = [(case, {case.source, *case.values}) for case in report.cases if case.labeled]
    # One fault in the values of labels stands for all labels that have them.
    odd = {v for case, files in labeled if faulty & files for v in case.voxels} - known
    left = any(not faulty & files and not odd & set(case.voxels) for case, files in labeled)
    skip = " --skip-faulty leaves the cases with faults out." if left else ""
    return f"{' '.join(lines)}{more}{skip}"
