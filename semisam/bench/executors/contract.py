"""The contract of an executor: execute the runs of a grid and return their outcomes."""

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
    """The end of a run.

    ``kept`` was finished earlier and not executed; ``shared`` was finished by another process. The
    message says why a run failed, or has the warnings of a run that is done.
    """

    run: Run
    status: Status
    message: str = ""


class Display(Protocol):
    """A display of the grid's progress."""

    def started(self, run: Run) -> None:
        """Show the start of a run."""

    def moved(self, run: Run, state: dict[str, Any]) -> None:
        """Show the progress of a run: ``phase``, ``done``, ``total``, ``figures``."""

    def ended(self, outcome: Outcome) -> None:
        """Show the outcome of a run."""

    def note(self, text: str) -> None:
        """Show another line, such as why runs wait."""


class Executor(Protocol):
    """A way to execute the runs of a grid.

    The constructor raises `InputError` if an option is wrong or a program or service is missing, so
    that nothing is trained before.

    Attributes:
        here: True if runs are executed on this machine, whose devices and memory can be checked.
    """

    here: bool

    def run_all(self, runs: Sequence[Run], folder: Path, display: Display) -> list[Outcome]:
        """Execute every run that has no result yet, and return an outcome for each.

        A run that fails does not stop the others. After Ctrl-C the running ones save a checkpoint
        and end, and the others are not started.

        Args:
            runs: of the grid.
            folder: parent of the runs' folders, which are made if missing.
            display: called at every start, move and end.
        """
