"""Time, memory and disk of a study's runs, from real steps that are measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from semisam.bench.grid import Run
from semisam.frameworks.controls import NEED_TRUTH
from semisam.run.model import trains_network
from semisam.run.pace import Pace, pace_of, seconds_of_adaptation, seconds_of_test
from semisam.run.settings import RunSettings

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
_FEW_STEPS = 1000


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
