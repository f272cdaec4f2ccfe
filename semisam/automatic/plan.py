"""The plan of the runs: their sizes and seconds, from a few real steps."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from semisam.automatic.survey import Survey
from semisam.core.errors import SemisamError
from semisam.core.files import read_json, write_json
from semisam.run.first import SMALL, small_patch
from semisam.run.pace import seconds_of_adaptation, seconds_of_mask, seconds_of_step
from semisam.run.request import settings
from semisam.run.resolve import digest
from semisam.run.settings import DEFAULT_BACKEND, Components, RunSettings

FIRST_METHOD, METHOD = "copied-mask", "fixmatch"
_ADAPTING, _SHARE_ADAPTING = 300, 0.25  # steps, and the largest part of the budget
_WANTED, _LEAST, _MOST, _ROUND = 600, 60, 6000, 20  # iterations
_SHARES = (1.0, 0.75, 0.5)  # of the patch that fits the scans
_STEP = 16  # voxels: patches are multiples
_LATEST = "plan.json"


@dataclass(frozen=True)
class Plan:
    """The sizes of the two runs, and the seconds of their parts.

    Attributes:
        key: of the scans, masks and wishes that it was made for.
        device: torch device.
        adapting: steps that adapt the promptable model.
        iterations: of the training.
        patch: of the training.
        seconds: of ``adapt``, ``first``, ``train``, ``masks``, and ``audit``, the further trainings
            without one labeled scan each.
        budget: seconds that the user gave.
        components: of a class that a mask keeps, as the setting of a run.
    """

    key: str
    device: str
    adapting: int
    iterations: int
    patch: tuple[int, ...]
    seconds: dict[str, float]
    budget: float
    components: Components = "as-labeled"

    @property
    def total(self) -> float:
        """Seconds of all parts."""
        return sum(self.seconds.values())


def first_run(data: Survey, plan: Plan, without: str | None = None) -> RunSettings:
    """Return the settings of the run that trains nothing and adapts the promptable model.

    Args:
        data: the cases.
        plan: of the runs.
        without: a labeled case that the run is tested on; ``None``: there is no test.
    """
    return _settings(data, plan, FIRST_METHOD, plan.adapting, without=without)


def final_run(
    data: Survey, plan: Plan, adapted: Path | None, without: str | None = None
) -> RunSettings:
    """Return the settings of the training.

    Args:
        data: the cases.
        plan: of the runs.
        adapted: weights of the adapted model; ``None``: the model as it is.
        without: a labeled case that the run is tested on; ``None``: there is no test.
    """
    options = {} if adapted is None else {"synthsam.weights": str(adapted.resolve())}
    return _settings(data, plan, METHOD, 0, options, without)


def plan_for(
    data: Survey,
    folder: Path,
    *,
    budget: float,
    device: str,
    audit: bool = False,
    components: Components = "as-labeled",
    on_part: Callable[[int, int], None] | None = None,
) -> Plan:
    """Return the plan of an earlier call for the same scans, masks and budget, or a new one.

    Args:
        data: the cases.
        folder: of the plan's file, which need not exist.
        budget: seconds for everything.
        device: torch device.
        audit: train once more without each labeled scan.
        components: of a class that a mask keeps.
        on_part: called with (measurements done, their number).

    Raises:
        InputError: the smallest patch does not fit into memory.
    """
    key = _key(data, budget, device, audit, components)
    known = _known(folder / _LATEST)
    if known is not None and known.key == key:
        return known
    rounds = len(data.labeled) if audit else 0
    patch = small_patch(data.opened)
    plan = Plan(key, device, 0, _MOST, patch, {}, budget, components)
    return _measured(data, plan, rounds, on_part or (lambda done, total: None))


def save_plan(plan: Plan, folder: Path) -> None:
    """Write a plan, for later calls."""
    write_json(folder / _LATEST, asdict(plan))


def _known(file: Path) -> Plan | None:
    """Return the plan of a file; ``None`` without one, or if it is damaged."""
    try:
        return TypeAdapter(Plan).validate_python(read_json(file))
    except ValidationError:
        return None


def _measured(data: Survey, plan: Plan, rounds: int, report: Callable[[int, int], None]) -> Plan:
    """Return a plan with the sizes of its runs and the seconds of its parts."""
    budget = plan.budget
    report(0, 4)
    step = seconds_of_step(final_run(data, plan, None))
    report(1, 4)
    adapting, each = 0, 0.0
    if not data.opened.partial_labels:
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
    steps = int(rest / step) // _ROUND * _ROUND
    iterations = min(max(steps, _LEAST), _MOST)
    report(4, 4)
    seconds["train"] = iterations * step
    seconds["audit"] = rounds * (seconds["adapt"] + seconds["train"])
    return replace(plan, adapting=adapting, iterations=iterations, patch=patch, seconds=seconds)


def _fitted(data: Survey, plan: Plan, step: float, most: float) -> tuple[tuple[int, ...], float]:
    """Return the largest patch whose step takes at most some seconds, and these seconds."""
    suggested = data.opened.suggested.get("patch", SMALL[3])
    for share in _SHARES:
        sides = (int(share * side) // _STEP * _STEP for side in suggested)
        patch = tuple(max(side, low) for side, low in zip(sides, plan.patch, strict=True))
        guess = step * math.prod(patch) / math.prod(plan.patch)
        if patch == plan.patch or guess > most:
            continue
        try:
            seconds = seconds_of_step(final_run(data, replace(plan, patch=patch), None))
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


def _key(data: Survey, budget: float, device: str, audit: bool, components: str) -> str:
    masks = {case: "".join(map(digest, data.masks(case))) for case in data.labeled}
    kind = device.split(":")[0]
    options = {name: str(value) for name, value in data.options.items()}
    about = [data.dataset, options, masks, list(data.unlabeled), budget, kind, audit, components]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]
