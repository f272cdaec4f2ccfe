"""Figures of the training: every loss term, and the quality of SAM's predictions over time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogFormatter
from numpy.typing import NDArray

from semisam.bench.report.runs import Log, Part, Row, read_log
from semisam.bench.report.style import Gallery, Look, Made, legend_above, new_figure
from semisam.bench.report.style import shortened as short
from semisam.run.folder import RunFolder
from semisam.training.validation import FIGURE as VALIDATION

Floats = NDArray[np.float64]

_POINTS = 300  # of a line; more cannot be distinguished
_FIRST = ("loss", "supervised", "consistency", "sam")
_OTHERS = ("lr", "micro_batches", "sam_", "proposal_", "oracle_")
"""Names of figures that are in other charts or none, or how they begin."""
_TITLES = {
    "loss": "objective: sum of all terms",
    VALIDATION: "Dice on the validation cases",
}


@dataclass(frozen=True)
class Logs:
    """The logs of a bench, by run."""

    by_run: Mapping[str, Log]

    def of(self, row: Row) -> list[pd.DataFrame]:
        """Return the logs of a row's runs that are not empty."""
        found = [self.by_run[run].frame for run in row.runs["run"] if run in self.by_run]
        return [frame for frame in found if not frame.empty]

    @property
    def metrics(self) -> frozenset[str]:
        """The names of figures that are no losses in any run."""
        return frozenset().union(*(log.metrics for log in self.by_run.values()))


@dataclass(frozen=True)
class Line:
    """A line of a figure: the mean over runs, with their SD if there are several."""

    x: Floats
    mean: Floats
    sd: Floats | None


def read_logs(runs: Sequence[RunFolder], on_run: Callable[[], None]) -> Logs:
    """Read the logs of all finished runs."""
    found = {}
    for run in runs:
        if run.state == "done":
            found[run.run] = read_log(run)
        on_run()
    return Logs(found)


def loss_names(logs: Logs, rows: Sequence[Row]) -> list[str]:
    """Return the loss terms that the rows log, the objective first."""
    names = _names(logs, rows) - logs.metrics
    order = [name for name in _FIRST if name in names]
    return order + sorted(names - set(order))


def metric_names(logs: Logs, rows: Sequence[Row]) -> list[str]:
    """Return the figures of the methods that are no loss terms."""
    return sorted(_names(logs, rows) & logs.metrics)


def _names(logs: Logs, rows: Sequence[Row]) -> set[str]:
    names = {str(name) for row in rows for frame in logs.of(row) for name in frame.columns}
    return {name for name in names if not name.startswith(_OTHERS)}


def smoothed(frames: Sequence[pd.DataFrame], name: str, window: int) -> Line | None:
    """Return a figure over the steps: a centred running mean of each run, then mean and SD."""
    columns = []
    for frame in frames:
        if name in frame and frame[name].notna().any():
            values = frame[name].dropna()
            columns.append(values.rolling(window, center=True, min_periods=1).mean())
    if not columns:
        return None
    joined = pd.concat(columns, axis=1).sort_index()
    # Every run counts equally at every step, whichever steps it logged.
    joined = joined.interpolate(limit_area="inside")
    mean, sd = joined.mean(axis=1), joined.std(axis=1, ddof=1)
    step = max(1, -(-len(joined) // _POINTS))
    pick = slice(None, None, step)
    spread = sd.to_numpy()[pick] if len(columns) > 1 else None
    return Line(joined.index.to_numpy(float)[pick] + 1, mean.to_numpy()[pick], spread)


def window_of(logs: Logs, rows: Sequence[Row]) -> int:
    """Return the steps of the running mean: a fiftieth of the longest training, at least five."""
    longest = max((int(f.index.max()) + 1 for row in rows for f in logs.of(row)), default=1)
    return max(5, longest // 50)


def training_curves(
    logs: Logs, part: Part, labels: int, look: Mapping[str, Look], gallery: Gallery, name: str
) -> list[Made]:
    """Draw each loss term and metric at a number of labels, a line a row of the table."""
    rows = [row for row in part.rows if row.labels == labels]
    window = window_of(logs, rows)
    made = []
    losses = loss_names(logs, rows)
    for term in [*losses, *metric_names(logs, rows)]:
        over = 1 if term == VALIDATION else window
        lines = {row.name: smoothed(logs.of(row), term, over) for row in rows}
        title = f"loss term: {term}" if term in losses else f"figure of the method: {term}"
        title = _TITLES.get(term, title)
        unit = "loss (log scale)" if term in losses else term
        caption = f"{labels} labeled, {_about(rows, over)}"
        figure = _plot(lines, look, title, unit, log=term in losses)
        if figure is not None:
            alt = f"{title}, {labels} labeled"
            made.append(
                gallery.add(f"{name}-{_plain(term)}", caption, alt, figure, _numbers(lines))
            )
    return made


def sam_quality(
    logs: Logs, part: Part, labels: int, look: Mapping[str, Look], gallery: Gallery, name: str
) -> list[Made]:
    """Draw the Dice of SAM's predictions, their agreement, and weight and calls of SAM."""
    rows = [row for row in part.rows if row.labels == labels and row.with_sam]
    window = window_of(logs, rows)
    about = f"{labels} labeled, {_about(rows, window)}"
    made = []
    predictions = {row.name: smoothed(logs.of(row), "sam_dice", window) for row in rows}
    proposals = {row.name: smoothed(logs.of(row), "proposal_dice", window) for row in rows}
    figure = _plot(
        predictions, look, "SAM's predictions on the labeled rows", "Dice [0, 1]", second=proposals
    )
    if figure is not None:
        told = "Solid: SAM's prediction against the truth; dotted: the method's own proposal. "
        alt = f"Dice of SAM's predictions over training, {labels} labeled"
        both = {**predictions, **{f"{row}: proposal": line for row, line in proposals.items()}}
        made.append(gallery.add(f"{name}-dice", told + about, alt, figure, _numbers(both)))
    for key, title, unit in (
        ("sam_agreement", "prediction and proposal on unlabeled rows", "agreement (Dice) [0, 1]"),
        ("sam_weight", "weight of the SAM loss", "λs"),
        ("sam_gate", "gate on that weight", "share [0, 1]"),
        ("sam_calls", "queries of SAM", "calls an iteration"),
    ):
        lines = {row.name: smoothed(logs.of(row), key, window) for row in rows}
        figure = _plot(lines, look, title, unit)
        if figure is not None:
            alt = f"{title}, {labels} labeled"
            made.append(gallery.add(f"{name}-{_plain(key)}", about, alt, figure, _numbers(lines)))
    return made


def _numbers(lines: Mapping[str, Line | None]) -> pd.DataFrame:
    """Return the points of lines as a table."""
    frames = [
        pd.DataFrame({"row": name, "iteration": line.x, "mean": line.mean, "sd": line.sd})
        for name, line in lines.items()
        if line is not None
    ]
    return pd.concat(frames, ignore_index=True)


class _Plain(LogFormatter):
    """A formatter of ticks that writes 0.01 instead of 1e-02."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def _plot(
    lines: Mapping[str, Line | None],
    look: Mapping[str, Look],
    title: str,
    unit: str,
    *,
    log: bool = False,
    second: Mapping[str, Line | None] | None = None,
) -> Figure | None:
    """Return a figure of lines over the iterations; ``None`` if there is nothing to draw."""
    shown = {name: line for name, line in lines.items() if line is not None}
    if log:
        # A log scale cannot show a term that is nowhere positive.
        shown = {name: line for name, line in shown.items() if (line.mean > 0).any()}
    if not shown:
        return None
    figure = new_figure()
    ax = figure.add_subplot()
    handles = []
    for name, line in shown.items():
        how = look[name]
        mean = np.where(line.mean > 0, line.mean, np.nan) if log else line.mean
        ax.plot(line.x, mean, color=how.color, linestyle=how.line)
        alone = np.isfinite(mean) & ~_beside(np.isfinite(mean))
        # A step between two steps without a figure makes no line, so it gets a mark.
        ax.plot(line.x[alone], mean[alone], ".", color=how.color, markersize=4)
        if line.sd is not None:
            low = line.mean - line.sd
            low = np.where(low > 0, low, np.nan) if log else low
            ax.fill_between(line.x, low, line.mean + line.sd, color=how.color, alpha=0.16, lw=0)
        handles.append(Line2D([], [], color=how.color, linestyle=how.line))
        other = (second or {}).get(name)
        if other is not None:
            ax.plot(other.x, other.mean, color=how.color, linestyle=":")
    if log:
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(_Plain())
        ax.yaxis.set_minor_formatter(_Plain(minor_thresholds=(1.3, 0.5)))
        ax.tick_params(axis="y", which="minor", labelsize=8)
    ax.set_title(title)
    ax.set_xlabel("iteration")
    ax.set_ylabel(unit)
    ax.set_xlim(0, max(float(line.x.max()) for line in shown.values()) * 1.01)
    if not log:
        ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
    legend_above(figure, handles, [short(name) for name in shown])
    return figure


def _about(rows: Sequence[Row], window: int) -> str:
    several = any(len(row.runs) > 1 for row in rows)
    text = f"running mean over {window} iteration{'s' * (window > 1)}"
    return text + ("; mean of a row's runs, band: ± one SD over them." if several else ".")


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name)


def _beside(known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return a mask of the steps with a known neighbour."""
    found = np.zeros_like(known)
    found[1:] |= known[:-1]
    found[:-1] |= known[1:]
    return found
