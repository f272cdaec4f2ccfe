"""The findings of a check: the facts of each case, and the faults."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semisam.core.errors import first_few
from semisam.data.datasets.faults import Fault
from semisam.data.datasets.labels import class_notes
from semisam.data.loading.store import array_hash


@dataclass(frozen=True)
class CaseReport:
    """The facts and faults of one case.

    Attributes:
        case: its name.
        part: ``train``, ``test``, or empty if it is in neither.
        source: the path of its image.
        labeled: True if the case has a label.
        shape: ``S``; empty if the image is unreadable.
        spacing: mm per axis.
        intensities: least and largest finite value per channel, before any normalisation by the
            dataset.
        voxels: voxels per class of the label, and per value that has no class.
        values: voxels per value of the label as in its file, by the file's name.
        lost: classes of the label that have no voxel at the training spacing.
        inverted: most of the label and of its border is foreground.
        turned: the image is a picture that viewers turn or mirror.
        image_hash: SHA-256 of the voxels.
        faults: faults of its files.
    """

    case: str
    part: str
    source: str
    labeled: bool
    shape: tuple[int, ...] = ()
    spacing: tuple[float, ...] = ()
    intensities: tuple[tuple[float, float], ...] = ()
    voxels: Mapping[int, int] = field(default_factory=dict)
    values: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    lost: tuple[int, ...] = ()
    inverted: bool = False
    turned: bool = False
    image_hash: str = ""
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True)
class FolderReport:
    """The facts and faults of a dataset's folder.

    Attributes:
        dataset: name of its plugin.
        path: the folder.
        class_names: names of the classes, background first; empty if unknown.
        cases: reports of the cases, in the dataset's order.
        faults: all faults, including those of single cases.
    """

    dataset: str
    path: str
    class_names: tuple[str, ...]
    cases: tuple[CaseReport, ...]
    faults: tuple[Fault, ...]

    @property
    def notes(self) -> list[str]:
        """Sentences on what is no fault, but may be a mistake.

        Classes that no label holds, or that some lose at the training spacing, masks that may be
        inverted, channels without contrast, and pictures that viewers turn.
        """
        blank: dict[int, list[str]] = {}
        for case in self.cases:
            for channel, (low, high) in enumerate(case.intensities):
                if low == high and len(case.intensities) > 1:
                    blank.setdefault(channel, []).append(case.case)
        notes = [
            f"Channel {channel} has no contrast in {first_few(cases)}. Check the files of it."
            for channel, cases in sorted(blank.items())
        ]
        if turned := [case.case for case in self.cases if case.turned]:
            notes.append(
                f"The files of {first_few(turned)} state a turn, so they are read as viewers show "
                "them. Their masks must be drawn so."
            )
        labeled = [case for case in self.cases if case.labeled and case.voxels]
        if not labeled:
            return notes
        lost = {case.case: case.lost for case in labeled}
        inverted = [case.inverted for case in labeled]
        return notes + class_notes(self.class_names, [c.voxels for c in labeled], lost, inverted)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        plain = asdict(self)
        for case in plain["cases"]:
            case.pop("faults")
            case.pop("values")
            case["voxels"] = {str(value): count for value, count in case["voxels"].items()}
        return plain


def with_image(
    report: CaseReport, image: NDArray[np.float32], spacing: tuple[float, ...]
) -> CaseReport:
    """Return the report with the facts of an image ``(C, *S)``."""
    ranges = []
    for channel in image:
        low, high = float(channel.min()), float(channel.max())
        if not np.isfinite([low, high]).all():
            finite = channel[np.isfinite(channel)]
            low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
        ranges.append((low, high))
    return replace(
        report,
        shape=image.shape[1:],
        spacing=tuple(float(s) for s in spacing),
        intensities=tuple(ranges),
        image_hash=array_hash(image),
    )


def image_faults(image: NDArray[np.float32], channels: int, source: str) -> list[Fault]:
    """Return the faults of an image ``(C, *S)``."""
    faults = []
    if len(image) != channels:
        problem = f"every image must have {channels} channel(s), got {len(image)}"
        faults.append(Fault(source, problem, "write all images with the same channels"))
    wrong = int(image.size - np.isfinite(image).sum())
    if wrong:
        problem = f"every voxel must be finite, got {wrong} that are NaN or infinite"
        faults.append(Fault(source, problem, "replace them, for example by 0"))
    elif image.min() == image.max():
        problem = f"an image must have contrast, got {image.min():g} everywhere"
        faults.append(Fault(source, problem, "export the scan again or remove the case"))
    return faults


def label_faults(voxels: Mapping[int, int], source: str) -> list[Fault]:
    """Return the faults of a label, from its voxels per class."""
    if any(count for value, count in voxels.items() if value):
        return []
    got = "only background" if voxels else "only voxels that nobody annotated"
    problem = f"a label must contain a foreground class, got {got}"
    remedy = "correct it, or remove it to make the case unlabeled"
    return [Fault(source, problem, remedy)]


def duplicates(reports: Sequence[CaseReport]) -> list[Fault]:
    """Return a fault for each image that is identical to another case's."""
    first: dict[str, CaseReport] = {}
    faults = []
    for report in reports:
        other = first.setdefault(report.image_hash, report) if report.image_hash else report
        if other is report:
            continue
        leak = {report.part, other.part} == {"train", "test"}
        detail = ", and one is a training and the other a test case" if leak else ""
        problem = f"all images must differ, got the image of {other.source}{detail}"
        faults.append(Fault(report.source, problem, "remove one of the two"))
    return faults


def odd_axes(reports: Sequence[CaseReport]) -> list[Fault]:
    """Return a fault for each image whose number of axes differs from most images'."""
    axes = Counter(len(report.shape) for report in reports if report.shape)
    if len(axes) < 2:
        return []
    usual = axes.most_common(1)[0][0]
    return [
        Fault(
            report.source,
            f"every image must have {usual} axes, as most have, got {len(report.shape)}",
            "remove the case or export it as a volume",
        )
        for report in reports
        if report.shape and len(report.shape) != usual
    ]
