"""The time that the training of a study's runs takes, from real steps that are measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from semisam.bench.grid import Run
from semisam.frameworks.controls import NEED_TRUTH
from semisam.plugins import registry
from semisam.run.pace import seconds_of_adaptation, seconds_of_step
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
        step: seconds of a step.
        adapting: seconds in which the promptable model is adapted, for each run.
    """

    title: str
    runs: int
    iterations: int
    step: float
    adapting: float

    @property
    def seconds(self) -> float:
        """Seconds of the training of all runs, one after the other."""
        return self.runs * (self.adapting + self.iterations * self.step)


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
        title = f"{first.method}" + (f" + {first.sam}" if first.sam != "none" else "")
        title += f" ({first.sam_control})" if first.sam_control else ""
        if first.sam_control in NEED_TRUTH:  # the branch itself takes as long
            first = first.model_copy(update={"sam_control": None})
        trains = getattr(registry.load("framework", first.method), "trains", True)
        step = seconds_of_step(first) if trains else 0.0
        steps = first.sam_adapt if first.sam != "none" else 0
        adapting = steps * seconds_of_adaptation(first) if steps else 0.0
        yield Cost(title, len(alike), first.iterations if trains else 0, step, adapting)
