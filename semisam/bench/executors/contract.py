"""What an executor is: it takes the runs of a grid and says how each ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from semisam.bench.grid import Run

Status = Literal["done", "kept", "shared", "failed", "interrupted"]


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    ``kept`` was finished earlier and not run again; ``shared`` was finished meanwhile, by another
    process. The message is why it failed, or what is to be said of a run that is done.
    """

    run: Run
    status: Status
    message: str = ""


class Display(Protocol):
    """What shows the grid's progress."""

    def started(self, run: Run) -> None:
        """Show that a run begins."""

    def moved(self, run: Run, state: dict[str, Any]) -> None:
        """Show how far a run is: ``phase``, ``done``, ``total``, ``figures``."""

    def ended(self, outcome: Outcome) -> None:
        """Show how a run ended."""

    def note(self, text: str) -> None:
        """Tell what else the user should know, such as why nothing moves."""


class Executor(Protocol):
    """Executes the runs of a grid somewhere.

    Constructing one refuses what cannot work (an option, a program or a service that is missing)
    with one sentence, so that nothing is trained before.

    Attributes:
        here: the runs are executed on this machine, so its devices and memory can be checked.
    """

    here: bool

    def run_all(self, runs: Sequence[Run], folder: Path, display: Display) -> list[Outcome]:
        """Execute every run that has no result yet, and return an outcome for each.

        A run that fails does not stop the rest. After Ctrl-C the running ones write a checkpoint
        and end, and the rest is not started.

        Args:
            runs: of the grid.
            folder: where a folder for each lies or is made.
            display: told of every start, move and end.
        """
