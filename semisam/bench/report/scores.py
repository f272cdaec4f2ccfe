"""Figures of the test scores: Dice against labels, and every test case."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from semisam.bench.comparing import by_case as mean_by_case
from semisam.bench.comparing import paired, patients_by_case
from semisam.bench.report.runs import Bench, Part, Row
from semisam.bench.report.style import (
    INK,
    MUTED,
    PAPER,
    Gallery,
    Look,
    Made,
    legend_above,
    new_figure,
)
from semisam.bench.report.style import shortened as short
from semisam.bench.statistics import ALPHA, bootstrap_interval

Floats = NDArray[np.float64]


def case_scores(bench: Bench, row: Row) -> pd.Series[float]:
    """Return Dice in percent per test case, the mean of the row's runs."""
    return _dice_by_case(bench, row.runs["run"])


def _dice_by_case(bench: Bench, runs: pd.Series[Any]) -> pd.Series[float]:
    return 100.0 * mean_by_case(bench.cases, runs, "dice")


def dice_against_labels(
    bench: Bench, part: Part, look: Mapping[str, Look], gallery: Gallery, name: str
) -> Made | None:
    """Draw Dice against the number of labels, a line for each method, bare and with SemiSAM."""
    scored = [row for row in part.rows if row.scored]
    if not scored:
        return None
    labels = sorted({row.labels for row in scored})
    series: dict[str, list[Row]] = {}
    for row in scored:
        series.setdefault(row.name, []).append(row)
    figure = new_figure(5.6, 3.7)
    ax = figure.add_subplot()
    handles, spreads = [], set()
    numbers: list[dict[str, Any]] = []
    for number, (title, rows) in enumerate(series.items()):
        how = look[title]
        shift = 0.0 if len(series) == 1 else 0.30 * (number / (len(series) - 1) - 0.5)
        rows = sorted(rows, key=lambda row: row.labels)
        x = [labels.index(row.labels) + shift for row in rows]
        y = [float(row.figures["dice"]) for row in rows]
        ax.plot(x, y, color=how.color, linestyle=how.line, zorder=2)
        for place, row in zip(x, rows, strict=True):
            low, high, kind = _spread(bench, row)
            spreads.add(kind)
            dice = float(row.figures["dice"])
            about = {"row": row.name, "labeled": row.labels, "dice": dice}
            numbers.append({**about, "low": dice - low, "high": dice + high, "bar": kind})
            # Thick bars for runs and thin bars with ends for cases are easy to distinguish.
            width, cap = (4.0, 0.0) if kind == "runs" else (1.1, 3.0)
            ax.errorbar(
                *([place], [dice]),
                yerr=[[max(low, 0.0)], [max(high, 0.0)]],
                fmt="none",
                ecolor=how.color,
                elinewidth=width,
                capsize=cap,
                alpha=0.45 if kind == "runs" else 0.9,
                zorder=1,
            )
        ax.plot(x, y, how.marker, color=how.color, markerfacecolor=how.face, zorder=3)
        handles.append(_handle(how))
    ax.set_xticks(range(len(labels)), [str(n) for n in labels])
    ax.set_xlim(-0.5, len(labels) - 0.5)
    ax.set_ylim(bottom=max(0.0, ax.get_ylim()[0]), top=min(100.0, ax.get_ylim()[1]))
    ax.set_xlabel("labeled cases")
    ax.set_ylabel("Dice on the test cases [%]")
    ax.grid(axis="x", visible=False)
    legend_above(figure, handles, [short(title) for title in series])
    alt = "Dice against the number of labeled cases"
    return gallery.add(name, _about_spreads(spreads), alt, figure, pd.DataFrame(numbers), wide=True)


def _handle(how: Look) -> Line2D:
    return Line2D(
        *([], []),
        color=how.color,
        linestyle=how.line,
        marker=how.marker,
        markerfacecolor=how.face,
    )


def _spread(bench: Bench, row: Row) -> tuple[float, float, str]:
    """Return the lengths of a row's bar below and above its mark, and the kind of bar."""
    if not math.isnan(row.figures["dice_sd"]):
        return float(row.figures["dice_sd"]), float(row.figures["dice_sd"]), "runs"
    scores = case_scores(bench, row)
    values: Floats = np.asarray(scores, dtype=np.float64)
    if len(values) < 2:
        return 0.0, 0.0, "none"
    patients = patients_by_case(bench.cases, scores.index, row.runs["run"])
    low, high = bootstrap_interval(values, patients=patients)
    return float(values.mean() - low), float(high - values.mean()), "cases"


def _about_spreads(kinds: set[str]) -> str:
    texts = {
        "runs": "Thick bars: ± one SD over runs (seeds and labeled subsets).",
        "cases": "Thin bars with ends: 95 % bootstrap interval of the mean over test cases, of "
        "rows with a single run. It does not cover other seeds or labeled scans.",
        "none": "A single run on a single test case has no bar.",
    }
    lines = [texts[kind] for kind in ("runs", "cases", "none") if kind in kinds]
    head = "Dashed with hollow marks: without SemiSAM; solid with filled marks: with it."
    return " ".join([head, *lines])


ABOUT_CASES = (
    "A dot is a test case, the mean of the row's runs, or of its pairs of runs; boxes: quartiles "
    "and median; whiskers: all but outliers beyond 1.5 times the box. A line joins a case without "
    "and with SemiSAM: solid where it gained, dotted where it lost."
)


def by_case(
    bench: Bench, part: Part, labels: int, look: Mapping[str, Look], gallery: Gallery, name: str
) -> Made | None:
    """Draw every test case at a number of labels: dots, boxes, and lines from bare to SemiSAM."""
    rows = [row for row in part.rows if row.labels == labels and row.scored]
    blocks = _blocks(rows, part.rows)
    if not blocks:
        return None
    lines = [row for block in blocks for row in block]
    longest = max(len(short(row.name)) for row in lines)
    figure = new_figure(4.9, 0.75 + 0.6 * len(lines) + 0.2 * len(blocks))
    ax = figure.add_subplot()
    ticks, place, told = [], 0.0, []
    shown: dict[str, pd.Series[float]] = {}
    for block in blocks:
        drawn: list[tuple[float, pd.Series[float]]] = []
        both = _paired_scores(bench, part, block[1]) if len(block) == 2 else None
        for row, values in zip(block, both or [case_scores(bench, block[0])], strict=True):
            _box_and_dots(ax, np.asarray(values, dtype=np.float64), place, look[row.name])
            ticks.append((place, row))
            drawn.append((place, values))
            shown[row.name] = values
            place += 1.0
        if len(drawn) == 2:
            gained, lost = _pair_lines(ax, *drawn)
            told.append(f"{block[1].name}: {gained} gained, {lost} lost.")
        place += 0.35
    names = [_two_lines(row.name, longest) for _, row in ticks]
    ax.set_yticks([y for y, _ in ticks], names, multialignment="left")
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(place - 0.6, -0.6)
    ax.set_xlabel(f"Dice of a test case [%], {labels} labeled")
    ax.grid(axis="y", visible=False)
    alt = f"Dice of each test case, {labels} labeled"
    return gallery.add(name, " ".join([f"{labels} labeled.", *told]), alt, figure, _by_row(shown))


def _by_row(values: Mapping[str, pd.Series[float]], name: str = "dice") -> pd.DataFrame:
    """Return a value of every row and test case."""
    frames = [
        pd.DataFrame({"row": row, "case": own.index, name: own.to_numpy()})
        for row, own in values.items()
    ]
    return pd.concat(frames, ignore_index=True)


GAINS = (
    "Dice with SemiSAM minus Dice without it. A dot is a test case, the mean of its pairs of runs; "
    "a diamond is their mean with its 95 % bootstrap interval over test cases, filled where Holm's "
    f"p is below {ALPHA}. The interval does not cover other seeds or labeled scans."
)


def gains(
    bench: Bench, part: Part, look: Mapping[str, Look], gallery: Gallery, name: str
) -> Made | None:
    """Draw the paired gains of trainings with SemiSAM, with their intervals."""
    rows = [row for row in part.rows if row.bare is not None and row.competes]
    return _gains(rows, GAINS, bench, part, look, gallery, name)


def gains_of_controls(
    bench: Bench, part: Part, look: Mapping[str, Look], gallery: Gallery, name: str
) -> Made | None:
    """Draw the gains of controls, and of methods that train nothing, which are often far larger."""
    rows = [row for row in part.rows if row.bare is not None and not row.competes]
    about = f"Controls, and methods that train nothing, in a scale of their own. {GAINS}"
    return _gains(rows, about, bench, part, look, gallery, name)


def _gains(
    rows: Sequence[Row],
    about_all: str,
    bench: Bench,
    part: Part,
    look: Mapping[str, Look],
    gallery: Gallery,
    name: str,
) -> Made | None:
    if not rows:
        return None
    figure = new_figure(7.2, 0.9 + 0.42 * len(rows))
    ax = figure.add_subplot()
    ax.axvline(0.0, color=INK, linewidth=1.0, zorder=1)
    numbers: list[dict[str, Any]] = []
    for place, row in enumerate(rows):
        how, figures = look[row.name], row.figures
        differences = _differences(bench, part, row)
        ax.plot(differences, np.full(len(differences), place), ".", color=how.color, alpha=0.45)
        low, high = float(figures["gain_low"]), float(figures["gain_high"])
        gain, sure = float(figures["gain_dice"]), bool(figures["gain_p_holm"] < ALPHA)
        if not math.isnan(low):
            ax.plot([low, high], [place, place], color=how.color, linewidth=2.6, zorder=3)
        face = how.color if sure else PAPER
        ax.plot([gain], [place], "D", color=how.color, markerfacecolor=face, zorder=4)
        shown = {key: figures[key] for key in ("gain_dice", "gain_low", "gain_high", "gain_p_holm")}
        about = {"row": row.name, "labeled": row.labels, "case": "", **shown}
        numbers += [about] + [
            {"row": row.name, "labeled": row.labels, "case": case, "gain_dice": value}
            for case, value in differences.items()
        ]
    longest = max(len(short(row.name)) for row in rows)
    ticks = [f"{_two_lines(row.name, longest)}, {row.labels} labeled" for row in rows]
    ax.set_yticks(range(len(rows)), ticks, multialignment="left")
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlabel("gain in Dice of a test case [points]")
    ax.grid(axis="y", visible=False)
    alt = "Paired gains of SemiSAM with their intervals"
    return gallery.add(name, about_all, alt, figure, pd.DataFrame(numbers), wide=True)


def _differences(bench: Bench, part: Part, row: Row) -> pd.Series[float]:
    """Return the gain of each test case in points, the mean of the pairs of runs."""
    without, having = _paired_scores(bench, part, row)
    return (having - without).dropna()


def _paired_scores(bench: Bench, part: Part, row: Row) -> list[pd.Series[float]]:
    """Return Dice per test case without and with SemiSAM, each the mean of the pairs of runs."""
    assert row.bare is not None
    pairs = paired(row.runs, part.rows[row.bare].runs)
    return [_dice_by_case(bench, pairs[name]) for name in ("run_bare", "run")]


def _blocks(rows: Sequence[Row], every: Sequence[Row]) -> list[list[Row]]:
    """Return pairs of a bare row and one with SemiSAM, and single rows that have no partner."""
    blocks: list[list[Row]] = []
    paired = set()
    for row in rows:
        if row.with_sam:
            bare = None if row.bare is None else every[row.bare]
            blocks.append([row] if bare is None else [bare, row])
            paired.add(bare.name if bare is not None else "")
    single = [[row] for row in rows if not row.with_sam and row.name not in paired]
    return sorted(single + blocks, key=lambda block: block[0].name)


def _box_and_dots(ax: Any, values: Floats, place: float, how: Look) -> None:
    if len(values) > 3:
        box = ax.boxplot(
            *([values],),
            positions=[place],
            orientation="horizontal",
            widths=0.5,
            showfliers=False,
            manage_ticks=False,
            patch_artist=True,
            zorder=1,
        )
        for part in ("boxes", "whiskers", "caps", "medians"):
            for artist in box[part]:
                artist.set(color=how.color, linewidth=1.0)
        box["boxes"][0].set(facecolor=how.color, alpha=0.18)
        box["medians"][0].set(linewidth=2.2, color=INK)
    ax.plot(
        *(values, np.full(len(values), place)),
        how.marker,
        color=how.color,
        markerfacecolor=how.face,
        markersize=4.5,
        markeredgewidth=1.0,
        zorder=3,
    )


def _pair_lines(
    ax: Any, bare: tuple[float, pd.Series[float]], wrapped: tuple[float, pd.Series[float]]
) -> tuple[int, int]:
    """Join the cases of two rows, and return how many gained and how many lost."""
    common = bare[1].index.intersection(wrapped[1].index, sort=False)
    gains = wrapped[1][common] - bare[1][common]
    for case in common:
        without, having = float(bare[1][case]), float(wrapped[1][case])
        style = "-" if having >= without else ":"
        ax.plot(
            *([without, having], [bare[0], wrapped[0]]),
            color=MUTED,
            linestyle=style,
            linewidth=0.8,
            alpha=0.7,
            zorder=2,
        )
    return int((gains > 0).sum()), int((gains < 0).sum())


def _two_lines(name: str, longest: int) -> str:
    """Return a name for an axis, with the SemiSAM part on its own line."""
    text = short(name)
    return text.replace(" + SemiSAM", "\n+ SemiSAM", 1) if longest > 16 else text
