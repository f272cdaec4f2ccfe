"""Time, memory and disk of a study's runs, from real steps that are measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from semisam.bench.grid import Run
from semisam.data.datasets.grids import small_patch
from semisam.data.datasets.scans import ScanDataset
from semisam.frameworks.controls import NEED_TRUTH
from semisam.run.build import open_dataset
from semisam.run.folder import list_runs
from semisam.run.model import trains_network
from semisam.run.pace import Pace, pace_of, seconds_of_adaptation, seconds_of_test
from semisam.run.settings import RunSettings, show_value

_ALIKE = {"labels", "subset", "seed", "fold"}
"""Settings on which the time of a step hardly depends."""


@dataclass(frozen=True)
class Cost:
    """The time of runs that differ only in their labeled cases and seed.

    Attributes:
        title: of their method.
        runs: number of them.
        iterations: of each.
        pace: of a step, and of the files of a run.
        adapting: seconds in which the promptable model is adapted, for each run.
        testing: seconds in which the test cases are segmented, for each run.
    """

    title: str
    runs: int
    iterations: int
    pace: Pace
    adapting: float
    testing: float

    @property
    def seconds(self) -> float:
        """Seconds of all runs, one after the other."""
        return self.runs * (self.adapting + self.iterations * self.pace.seconds + self.testing)

    @property
    def disk(self) -> int:
        """Bytes of the weights that the runs keep."""
        return self.runs * self.pace.model


HOUR = 3600.0
_SMALLER = 0.5  # part of a patch, or of the time of a study, that is worth a hint
_FEW_STEPS = 1000


def shorter(found: Sequence[Cost], run: RunSettings) -> str:
    """Return a line with settings that make a long study shorter; empty without any.

    Args:
        found: costs of the study.
        run: one of its runs.
    """
    dataset, ways = open_dataset(run), []
    small = small_patch(dataset)
    share = math.prod(small) / math.prod(run.patch)
    if len(small) == len(run.patch) and share < _SMALLER:
        ways.append(f"--patch {show_value(small)} ({100 * share:.0f} % of the voxels of a step)")
    own = dataset.recipe.spacing if dataset.recipe is not None else None
    tests = sum(cost.runs * cost.testing for cost in found)
    if (
        tests > _SMALLER * sum(cost.seconds for cost in found)
        and own is not None
        and isinstance(dataset, ScanDataset)
        and run.dataset_options.get("spacing") is None
    ):
        coarse = tuple(float(f"{max(mm, 2 * min(own)):.3g}") for mm in own)
        share = math.prod(own) / math.prod(coarse)
        given = f"{run.dataset}.spacing={','.join(f'{mm:g}' for mm in coarse)}"
        ways.append(f"--set {given} ({100 * share:.0f} % of the voxels of a scan)")
    return f"Shorter: {', '.join(ways)}." if ways else ""


def unfinished(runs: Sequence[Run], folder: Path) -> list[Run]:
    """Return the runs of a study that are not done.

    Args:
        runs: of the study.
        folder: of the study, which need not exist.
    """
    found = list_runs(folder) if folder.is_dir() else []
    done = {run.name for run in found if run.state == "done"}
    return [run for run in runs if run.name not in done]


def takes_long(runs: Sequence[Run]) -> bool:
    """Return whether runs take more than an hour, without measuring more than needed.

    A study of few steps is not measured.
    """
    if sum(run.settings.iterations for run in runs) < _FEW_STEPS:
        return False
    total = 0.0
    for cost in costs(runs):
        total += cost.seconds
        if total > HOUR:
            return True
    return False


def costs(runs: Sequence[Run]) -> Iterator[Cost]:
    """Measure a few steps of each kind of run and yield its cost. Nothing is written.

    Raises:
        InputError: a patch does not fit into the memory.
    """
    kinds: dict[str, list[RunSettings]] = {}
    for run in runs:
        kinds.setdefault(run.settings.model_dump_json(exclude=_ALIKE), []).append(run.settings)
    for alike in kinds.values():
        first = alike[0]
        title = first.title
        if first.sam_control in NEED_TRUTH:  # the branch itself takes as long
            first = first.model_copy(update={"sam_control": None})
        trains = trains_network(first.method)
        pace = pace_of(first) if trains else Pace()
        steps = first.sam_adapt if first.sam != "none" else 0
        adapting = steps * seconds_of_adaptation(first) if steps else 0.0
        iterations = first.iterations if trains else 0
        yield Cost(title, len(alike), iterations, pace, adapting, seconds_of_test(first))
