"""The plan of the runs: their sizes and seconds, from a few real steps."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from semisam.automatic.spacing import affordable_spacing
from semisam.automatic.survey import Survey
from semisam.core.errors import SemisamError
from semisam.core.files import digest_of_path, read_json, write_json
from semisam.core.layout import ADAPTED, ADAPTED_NOTE, RESULT, STEP
from semisam.data.datasets.grids import SMALL_PATCH, small_patch
from semisam.data.datasets.labels import meaning_of
from semisam.data.images.files import parts_of
from semisam.inference.stride import third_stride
from semisam.run.pace import pace_of, seconds_of_adaptation, seconds_of_mask
from semisam.run.request import settings
from semisam.run.settings import DEFAULT_BACKEND, Components, RunSettings

FIRST_METHOD, METHOD = "copied-mask", "fixmatch"
_ADAPTING, _SHARE_ADAPTING = 300, 0.1  # steps, and the largest part of the budget
_WANTED, _LEAST, _MOST, _ROUND = 600, 60, 6000, 20  # iterations
_WINDOWS_OF_A_STEP = 11  # that take as long as a step, measured on a CPU
_SHARE_MASKS = 0.4  # largest part of the budget that final masks may take at the scans' own spacing
_SHARES = (1.0, 0.75, 0.5)  # of the patch that fits the scans
_STEP = 16  # voxels: patches are multiples
_LATEST, _RUNS = "plan.json", "runs"


@dataclass(frozen=True)
class Plan:
    """The sizes of the two runs, and the seconds of their parts.

    Attributes:
        key: of the scans, masks and wishes of this call.
        runs: the key with which the two runs were begun.
        labels: of all that the runs learn from, apart from the unlabeled scans.
        device: torch device.
        adapting: steps that adapt the promptable model.
        iterations: of the training.
        patch: of the training.
        seconds: of ``check``, ``adapt``, ``first``, ``train``, ``masks``, and ``audit``, the
            further trainings without one labeled scan each.
        budget: seconds that the user gave.
        components: of a class that a mask keeps, as the setting of a run.
        audit: train once more without each labeled scan.
        scans: number of the scans whose masks the plan counts.
        kept: True if the two runs are those of an earlier call, and finished.
        spacing: mm along each axis, to which large scans are resampled; ``None``: their own.
    """

    key: str
    runs: str
    labels: str
    device: str
    adapting: int
    iterations: int
    patch: tuple[int, ...]
    seconds: dict[str, float]
    budget: float
    components: Components = "as-labeled"
    audit: bool = False
    scans: int = 0
    kept: bool = False
    spacing: tuple[float, ...] | None = None

    @property
    def total(self) -> float:
        """Seconds of all parts."""
        return sum(self.seconds.values())

    def first(self, folder: Path) -> Path:
        """Return the folder of the first run within the folder of masks."""
        return folder / _RUNS / f"{self.runs}-first"

    def final(self, folder: Path) -> Path:
        """Return the folder of the training within the folder of masks."""
        return folder / _RUNS / f"{self.runs}-final"

    def file(self, folder: Path) -> Path:
        """Return the file of the plan next to its runs."""
        return folder / _RUNS / f"{self.runs}-plan.json"

    def without(self, folder: Path, stage: str, case: str) -> Path:
        """Return the folder of an audit's run within the folder of masks."""
        return folder / _RUNS / f"{self.key}-{stage}-without-{case}"


def first_run(data: Survey, plan: Plan, without: str | None = None) -> RunSettings:
    """Return the settings of the run that trains nothing and adapts the promptable model.

    Args:
        data: the cases.
        plan: of the runs.
        without: a labeled case that the run is tested on; ``None``: there is no test.
    """
    adapting = plan.adapting if data.whole_without(without) else 0
    return _settings(data, plan, FIRST_METHOD, adapting, without=without)


def final_run(
    data: Survey, plan: Plan, first: Path | None, without: str | None = None
) -> RunSettings:
    """Return the settings of the training.

    Args:
        data: the cases.
        plan: of the runs.
        first: folder of the first run, whose adapted model is taken if it has one; ``None``: the
            model as it is.
        without: a labeled case that the run is tested on; ``None``: there is no test.
    """
    options = {}
    if first is not None and (weights := first / ADAPTED).is_file():
        options["synthsam.weights"] = str(weights.resolve())
    return _settings(data, plan, METHOD, 0, options, without)


def plan_for(
    data: Survey,
    folder: Path,
    *,
    budget: float,
    device: str,
    began: float,
    audit: bool = False,
    components: Components = "as-labeled",
    on_part: Callable[[int, int], None] | None = None,
) -> Plan:
    """Return the plan of an earlier call if it serves this one, or a new one.

    The finished runs of an earlier call with the same masks serve a call with other scans to
    segment and with no larger budget. A plan whose runs are not finished serves the same call only.

    Args:
        data: the cases.
        folder: of masks, which need not exist.
        budget: seconds for everything.
        device: torch device.
        began: the clock `time.monotonic` when the budget began.
        audit: train once more without each labeled scan.
        components: of a class that a mask keeps.
        on_part: called with (measurements done, their number).

    Raises:
        InputError: the smallest patch does not fit into memory.
    """
    plan = Plan(
        *("", "", "", device, 0, _MOST, small_patch(data.opened), {}, budget, components),
        audit=audit,
        scans=len(data.unlabeled),
    )
    labels = _key_of_labels(data, plan)
    key = _hash([labels, {c: data.state(c) for c in data.unlabeled}, budget, audit])
    plan = replace(plan, key=key, runs=key, labels=labels)
    # Runs of this key may have begun before another plan became the latest.
    for known in map(_known, (folder / _LATEST, plan.file(folder))):
        if known is None or known.labels != labels:
            continue
        known = replace(known, device=device)
        runs = (known.first(folder), known.final(folder))
        finished = all((run / RESULT).is_file() for run in runs)
        if finished and budget <= known.budget:
            return replace(known, key=key, audit=audit, kept=True)
        if known.key == key:
            return known
    rounds = len(data.labeled) if audit else 0
    return _measured(data, plan, rounds, began, on_part or (lambda done, total: None))


def save_plan(plan: Plan, folder: Path) -> None:
    """Write a plan, for later calls. A plan that was kept is there already."""
    if not plan.kept:
        (folder / _RUNS).mkdir(exist_ok=True)
        for file in (plan.file(folder), folder / _LATEST):
            write_json(file, asdict(plan))


def _known(file: Path) -> Plan | None:
    """Return the plan of a file; ``None`` without one, or if it is damaged."""
    try:
        return TypeAdapter(Plan).validate_python(read_json(file))
    except ValidationError:
        return None


def left_of(plan: Plan, data: Survey, folder: Path, missing: Callable[[str], int]) -> Plan:
    """Return the plan of an earlier call with the scans and seconds of what is left.

    Args:
        plan: of an earlier call.
        data: the cases.
        folder: of masks.
        missing: returns the number of scans without a mask of a run, by the run's name.
    """
    first, final = plan.first(folder), plan.final(folder)
    trained = (final / RESULT).is_file()
    # An adaptation that was stopped begins again; a training resumes from its checkpoint.
    adapted = any((first / name).is_file() for name in (RESULT, ADAPTED_NOTE))
    done = plan.iterations if trained else (read_json(final / STEP) or {}).get("step", 0)
    new = missing(final.name) if trained else plan.scans
    rounds = sum(
        not (plan.without(folder, "final", case) / RESULT).is_file() for case in data.labeled
    )
    s = plan.seconds
    seconds = {
        "check": 0.0,
        "adapt": 0.0 if adapted else s["adapt"],
        "first": 0.0 if final.is_dir() else s["first"],  # all of them come before the training
        "train": s["train"] * (1 - done / plan.iterations),
        "masks": s["masks"] * new / plan.scans,
        "audit": (s["adapt"] + s["train"]) * rounds if plan.audit else 0.0,
    }
    return replace(plan, seconds=seconds, scans=new)


def _measured(
    data: Survey, plan: Plan, rounds: int, began: float, report: Callable[[int, int], None]
) -> Plan:
    """Return a plan with the sizes of its runs and the seconds of its parts."""
    budget = plan.budget
    report(0, 4)
    step = pace_of(final_run(data, plan, None)).seconds
    window = step / _WINDOWS_OF_A_STEP
    # Each final mask is compared with one of another view, so its windows are predicted twice.
    stride = third_stride(plan.patch)
    most = _SHARE_MASKS * budget / 2
    if spacing := affordable_spacing(data, plan.patch, stride, window, most):
        data = data.at(spacing)
        plan = replace(plan, spacing=spacing, patch=small_patch(data.opened))
        step = pace_of(final_run(data, plan, None)).seconds
    report(1, 4)
    adapting, each = 0, 0.0
    if data.whole:
        each = seconds_of_adaptation(_settings(data, plan, FIRST_METHOD, 1))
        most = int(_SHARE_ADAPTING * budget / each / (1 + rounds))
        adapting = max(min(_ADAPTING, most), _LEAST // 2)
    report(2, 4)
    scan, count = data.files(data.unlabeled[0]), len(data.unlabeled)
    first = count * seconds_of_mask(_settings(data, plan, FIRST_METHOD, 0), scan)
    report(3, 4)
    last = count * seconds_of_mask(final_run(data, plan, None), scan)
    # A final mask is compared with one of another view and with those of the promptable model.
    masks = 2 * last + first
    seconds = {"adapt": adapting * each, "first": first, "train": 0.0, "masks": masks}
    rest = (budget - sum(seconds.values()) - rounds * seconds["adapt"]) / (1 + rounds)
    patch, step = _fitted(data, plan, step, rest / _WANTED)
    # The check of the scans and these measurements have used a part of the budget.
    seconds["check"] = time.monotonic() - began
    steps = int((rest - seconds["check"] / (1 + rounds)) / step) // _ROUND * _ROUND
    iterations = min(max(steps, _LEAST), _MOST)
    report(4, 4)
    seconds["train"] = iterations * step
    seconds["audit"] = rounds * (seconds["adapt"] + seconds["train"])
    return replace(plan, adapting=adapting, iterations=iterations, patch=patch, seconds=seconds)


def _fitted(data: Survey, plan: Plan, step: float, most: float) -> tuple[tuple[int, ...], float]:
    """Return the largest patch whose step takes at most some seconds, and these seconds."""
    suggested = data.opened.suggested.get("patch", SMALL_PATCH[3])
    for share in _SHARES:
        sides = (int(share * side) // _STEP * _STEP for side in suggested)
        patch = tuple(max(side, low) for side, low in zip(sides, plan.patch, strict=True))
        guess = step * math.prod(patch) / math.prod(plan.patch)
        if patch == plan.patch or guess > most:
            continue
        try:
            seconds = pace_of(final_run(data, replace(plan, patch=patch), None)).seconds
        except SemisamError:  # it does not fit into memory
            continue
        if seconds <= most:
            return patch, seconds
    return plan.patch, step


def _settings(
    data: Survey,
    plan: Plan,
    method: str,
    adapting: int,
    options: dict[str, str] | None = None,
    without: str | None = None,
) -> RunSettings:
    """Return the settings of a run of protocol ``default`` on all cases but one."""
    named = {f"{data.dataset}.{name}": value for name, value in data.options.items()}
    return settings(
        data=str(data.path),
        dataset=data.dataset,
        method=method,
        labels=data.labels_without(without),
        sam=DEFAULT_BACKEND,
        sam_adapt=adapting,
        test=without or "none",
        iterations=plan.iterations,
        patch=plan.patch,
        device=plan.device,
        components=plan.components,
        options={**named, **(options or {})},
    )


def _key_of_labels(data: Survey, plan: Plan) -> str:
    """Return a digest of the labeled scans and of what else decides what is learned."""
    labeled = {
        case: [digest_of_path(part) for part in parts_of((*data.files(case), *data.masks(case)))]
        for case in data.labeled
    }
    options = {name: str(value) for name, value in data.options.items() if name != "without"}
    # With another version of semisam, or of its weights, the runs are others.
    chosen = final_run(data, plan, None)
    sources = {**chosen.sources, **chosen.sam_sources}
    # A file of the dataset may exchange the classes, of which a mask has the numbers only.
    classes = meaning_of(data.opened)
    kind = plan.device.split(":")[0]
    return _hash([data.dataset, options, classes, labeled, kind, plan.components, sources])


def _hash(about: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]
