"""Progress and tables in the terminal."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table
from rich.text import Text

from semisam.bench.columns import COLUMNS, usual
from semisam.cli.log import log
from semisam.cli.progress import TimeLeft
from semisam.core.errors import SemisamError
from semisam.core.files import printable
from semisam.core.layout import RESULT
from semisam.core.words import spoken_time

if TYPE_CHECKING:
    import pandas as pd

    from semisam.bench.executors.contract import Outcome
    from semisam.bench.grid import Run

console = Console(highlight=False)
_errors = Console(stderr=True, highlight=False)

_PHASES = {
    "check": "checking scans",
    "adapt": "adapting the model",
    "compare": "comparing scans",
    "measure": "measuring a few steps",
    "train": "training",
    "masks": "writing masks",
    "evaluate": "evaluating",
}


_NARROW, _RANK = 80, 12  # columns of a terminal, below which less is shown, and of a rank
_USUAL = ("labels", "runs", "dice", "jaccard", "asd", "hd95", "empty", "gain", "rank")
_WIDE = ("jaccard", "asd", "hd95")  # columns of the usual ones that a narrow terminal lacks
_SILENCE = 30.0  # seconds between lines without a terminal
_MEMORY = 120.0  # seconds of the past from which the speed of a task is known


class _CountColumn(MofNCompleteColumn):
    """The count of a task, or the text that it brings."""

    def render(self, task: Task) -> Text:
        count = task.fields.get("count")
        return super().render(task) if count is None else Text(count, style="progress.download")


class _LeftColumn(TimeRemainingColumn):
    """The time left by the task's own speed, or the estimate that it brings."""

    def render(self, task: Task) -> Text:
        if "left" not in task.fields:
            return super().render(task)
        left = task.fields["left"]
        clock = "-:--:--" if left is None else str(timedelta(seconds=round(left)))
        return Text(clock, style="progress.remaining")


class _LossColumn(ProgressColumn):
    """A column with the current loss, if there is one."""

    def render(self, task: Task) -> Text:
        loss = task.fields.get("loss")
        return Text("" if loss is None else f"loss {loss:.3f}", style="cyan")


class _Bars(Progress):
    def __init__(self) -> None:
        elapsed = [] if console.width < _NARROW else [TimeElapsedColumn()]
        super().__init__(
            # A long title is folded; otherwise it would push the figures out of the terminal.
            TextColumn("{task.description}", table_column=Column(ratio=2, overflow="fold")),
            BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=8)),
            _CountColumn(),
            *elapsed,
            _LeftColumn(),
            _LossColumn(),
            console=console,
            expand=True,
            transient=True,
            speed_estimate_period=_MEMORY,
        )
        self._spoke = time.monotonic()

    def start(self) -> None:
        """Show the bars in a terminal; elsewhere they would leave an empty line."""
        if console.is_terminal:
            super().start()

    def stop(self) -> None:
        """Remove the bars."""
        if console.is_terminal:
            super().stop()

    def task(self, task_id: TaskID) -> Task:
        """Return a task."""
        return self._tasks[task_id]

    def speak(self, text: Callable[[], str]) -> None:
        """Print a line, unless there are bars or the last line is too recent."""
        if not console.is_terminal and time.monotonic() - self._spoke > _SILENCE:
            self._spoke = time.monotonic()
            _errors.print(escape(text()), soft_wrap=True)


class Bars(_Bars):
    """Bars in a terminal; without one, a line on standard error every half minute."""

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Move a task's bar, or say how far it is and how long the rest takes."""
        super().update(task_id, **changes)
        self.speak(lambda: _line(self.task(task_id)))


class _Display:
    """Shows bars in a ``with`` block."""

    def __init__(self, bars: _Bars) -> None:
        self._bars = bars

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()


class PhaseDisplay(_Display):
    """One bar for the phase that is active; a function of phase, done, total and figures."""

    def __init__(self) -> None:
        super().__init__(Bars())
        self._phase, self._task = "", TaskID(-1)

    def __call__(self, phase: str, done: int, total: int, figures: Mapping[str, float]) -> None:
        """Move the bar; each phase begins a new one."""
        if phase != self._phase:
            if self._phase:
                self._bars.remove_task(self._task)
            self._phase = phase
            self._task = self._bars.add_task(_PHASES.get(phase, phase), total=total, completed=done)
        self._bars.update(self._task, completed=done, total=total, loss=figures.get("loss"))


class GridDisplay(_Display):
    """One bar for the grid and one for each active run; a line for every run that ended.

    Args:
        runs: of the grid.
        folder: of the study.
    """

    def __init__(self, runs: Sequence[Run], folder: Path) -> None:
        super().__init__(_Bars())
        self._folder = folder
        self._left = TimeLeft({run.name: _kind(run) for run in runs})
        self._runs = len(runs)
        self._ended = 0
        self._grid = self._bars.add_task("all runs", total=1.0, count=f"0/{self._runs}", left=None)
        self._tasks: dict[str, tuple[TaskID, str]] = {}

    def started(self, run: Run) -> None:
        """Add a bar."""
        log(f"{_title(run)}: starts as {run.name}", logging.DEBUG)
        self._left.started(run.name)
        task = self._bars.add_task(f"{_title(run)}: starting", total=None)
        self._tasks[run.name] = (task, "starting")

    def moved(self, run: Run, state: Mapping[str, Any]) -> None:
        """Move the run's bar, each phase with a new one, and the grid's."""
        self._left.moved(run.name, state)
        task, phase = self._tasks[run.name]
        what = _PHASES.get(state["phase"], state["phase"])
        if phase != state["phase"]:
            log(f"{_title(run)}: {what}, {state['total']} to do", logging.DEBUG)
            self._bars.remove_task(task)
            task = self._bars.add_task(f"{_title(run)}: {what}", total=state["total"])
            self._tasks[run.name] = (task, state["phase"])
        self._bars.update(task, completed=state["done"], loss=state["figures"].get("loss"))
        self._show_grid()
        self._bars.speak(lambda: self._line(task, run))

    def ended(self, outcome: Outcome) -> None:
        """Remove the run's bar and print its outcome, with Dice and time or the reason."""
        self._ended += 1
        task, _ = self._tasks.pop(outcome.run.name, (None, ""))
        if task is not None:
            self._bars.remove_task(task)
        took = self._left.ended(outcome.run.name, outcome.status == "done")
        self._show_grid()
        words = {
            "done": "[green]done[/green]",
            "kept": "[green]finished earlier[/green]",
            "shared": "[green]done by another process[/green]",
            "failed": "[red]failed[/red]",
            "interrupted": "[yellow]not finished[/yellow]",
        }
        more = [] if took is None else [f"in {spoken_time(took)}"]
        if outcome.status in ("done", "kept", "shared"):
            more += _dice_of(self._folder / "runs" / outcome.run.name)
        elif outcome.status == "failed":
            more += [escape(outcome.message)]
        line = f"{self._ended}/{self._runs} {_title(outcome.run)}: {words[outcome.status]}"
        told = Text.from_markup(", ".join([line, *more]))
        log(told.plain, logging.ERROR if outcome.status == "failed" else logging.INFO)
        console.print(told)

    def note(self, text: str) -> None:
        """Print a line."""
        log(text)
        console.print(escape(text))

    def _line(self, task: TaskID, run: Run) -> str:
        left = self._left.seconds()
        rest = "" if left is None else f", about {spoken_time(left)} left for all"
        return f"{_count(self._bars.task(task))}; {self._ended} of {self._runs} runs ended{rest}."

    def _show_grid(self) -> None:
        self._bars.update(
            self._grid,
            completed=self._left.share(),
            count=f"{self._ended}/{self._runs}",
            left=self._left.seconds(),
        )


def _line(task: Task) -> str:
    """Return how far a task is, and its time left if that is known."""
    left = task.time_remaining
    rest = f", about {spoken_time(left)} left" if left else ""
    return f"{_count(task)}{rest}."


def _count(task: Task) -> str:
    """Return how far a task is."""
    whole = "" if task.total is None else f" of {task.total:.0f}"
    loss = task.fields.get("loss")
    about = "" if loss is None else f", loss {loss:.3f}"
    return f"{task.description}, {task.completed:.0f}{whole}{about}"


def _kind(run: Run) -> tuple[Any, ...]:
    """Return what decides how long a run takes."""
    s = run.settings
    return s.method, s.sam, s.sam_control


def _dice_of(folder: Path) -> list[str]:
    """Return the mean Dice of a finished run, for its line."""
    from semisam.run.folder import read_result

    with contextlib.suppress(SemisamError):
        dice = read_result(folder / RESULT)["metrics"].get("dice")
        return [] if dice is None else [f"Dice {100 * dice:.1f}"]
    return []


def tell(text: str) -> None:
    """Print a text as it is: without markup, so that a path keeps its brackets, and unbroken."""
    console.print(printable(text), soft_wrap=True, markup=False)


def be_quiet() -> None:
    """Print no progress and no result from now on; errors stay."""
    console.quiet = _errors.quiet = True


def print_table(table: pd.DataFrame, columns: Sequence[str] = ()) -> None:
    """Print the comparison, mean ± SD over runs, a table for each part that may be compared.

    Args:
        table: of the runs.
        columns: keys of `semisam.bench.columns.COLUMNS`, in this order; empty: the usual ones, of
            which a narrow terminal shows fewer.
    """
    from semisam.bench.sections import PAPER, sections
    from semisam.bench.table_notes import notes, protocol_lines

    chosen = columns or _usual_columns(ranked="rank" in table)
    parts = sections(table)
    for part in parts:
        title = f"\n{part.title}" if len(parts) > 1 else ""
        console.print(_comparison(part.rows, f"Comparison{title}", chosen))
    measured = table[table["protocol"] != PAPER]
    narrow = not columns and "hd95" not in chosen
    hidden = ["Jaccard and distances are in table.csv: this terminal is narrow."] * narrow
    lines = (*class_lines(measured), *notes(table), *hidden, *protocol_lines(measured))
    for line in lines:
        console.print(escape(line))


def _usual_columns(*, ranked: bool) -> tuple[str, ...]:
    narrow = console.width < _NARROW + _RANK * ranked
    return usual((key for key in _USUAL if not (narrow and key in _WIDE)), ranked=ranked)


def _comparison(table: pd.DataFrame, title: str, columns: Sequence[str]) -> Table:
    from semisam.bench.tables import cells

    # With rules between columns, the last column would not fit into 80 characters.
    shown = Table(title=escape(title), box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    shown.add_column("Method", overflow="fold", min_width=8)
    # The Dice of classes is below the table.
    chosen = [COLUMNS[key] for key in columns if COLUMNS[key].short]
    for column in chosen:
        shown.add_column(
            escape(column.short),
            justify="left" if column.key in ("labels", "runs") else "right",
            no_wrap=not column.text,
        )
    previous = None
    for row in table.to_dict("records"):
        if previous is not None and row["labeled"] != previous:
            shown.add_section()
        previous = row["labeled"]
        own = cells(row)
        # SD and interval are below their figure, because one line would be wider than a terminal.
        shown.add_row(escape(own.title), *(escape(own.text(column, "\n")) for column in chosen))
    return shown


def class_lines(table: pd.DataFrame) -> list[str]:
    """Return the Dice of each class, a line per row of the table, if there are several classes."""
    from semisam.bench.tables import cells

    lines = []
    for row in map(cells, table.to_dict("records")):
        parts = ", ".join(f"{name} {dice}" for name, dice in row.classes.items())
        if parts:
            lines.append(f"Dice [%] by class: {row.name}, {row.labels}: {parts}.")
    return lines


def print_zero_shot(table: pd.DataFrame) -> None:
    """Print the scores of promptable models without a method, the paper's rows below a rule."""
    shown = Table(
        title="Promptable models with clicks from the truth: mean ± SD over cases",
        box=SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    shown.add_column("Model", overflow="fold", min_width=8)
    shown.add_column("Points", justify="right")
    for name in ("Dice [%]", "Jaccard [%]", "encode [s]", "predict [s]"):
        shown.add_column(escape(name), justify="right", no_wrap=True)
    previous = None
    for row in table.to_dict("records"):
        ours = row["source"] == "measured"
        model = row["model"] if ours else f"{row['model']} (paper, full resolution)"
        if previous not in (None, model):
            shown.add_section()
        previous = model
        figures = [row["dice"], row["jaccard"]]
        if ours:
            spread = [
                "" if math.isnan(row[f"{m}_sd"]) else f" ± {row[f'{m}_sd']:.2f}"
                for m in ("dice", "jaccard")
            ]
            seconds = [f"{row['encode_seconds']:.3f}", f"{row['predict_seconds']:.3f}"]
        else:
            spread, seconds = ["", ""], ["", ""]
        cells = [f"{mean:.2f}{sd}" for mean, sd in zip(figures, spread, strict=True)]
        shown.add_row(escape(model), row["points"], *cells, *seconds)
    console.print(shown)


def _title(run: Run) -> str:
    s = run.settings
    extra = f", subset {s.subset}" if s.subset else ""
    return f"{s.title}, {s.labels} labeled, seed {s.seed}{extra}"
