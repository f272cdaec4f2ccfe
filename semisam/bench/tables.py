"""The comparison table as text, with the paper's rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd

from semisam.bench.columns import COLUMNS, Column, expanded, usual
from semisam.bench.comparing import LONG, TABLE_METRICS
from semisam.bench.results import Finished, OnFault, read_finished
from semisam.bench.sections import PAPER, data_version, method_name, text_of
from semisam.bench.statistics import ALPHA
from semisam.core.errors import InputError
from semisam.run.folder import RunFolder, runs_of

_TRAINED, _TESTED = 80, 20
"""Scans of the paper's Table II in training and test."""
IN_A_NAME = ("protocol", "data", "method", "sam", "sam_control", "prompter", *LONG)
"""The columns that tell rows apart; of chosen columns those that differ between rows are shown."""


def load(
    *folders: Path,
    on_fault: OnFault = print,
    on_left_out: Callable[[RunFolder], None] = lambda run: None,
) -> Finished:
    """Read all finished runs of study folders, whose runs share one table.

    Args:
        *folders: of the studies.
        on_fault: called with a sentence about each run that cannot be read and is left out.
        on_left_out: called with each other run that is not done.

    Raises:
        InputError: if a folder holds no finished run.
    """
    found = read_finished(folders, on_fault)
    for run in found.runs:
        if run.state not in ("done", "damaged"):
            on_left_out(run)
    done = {run.path.resolve() for run in found.runs if run.state == "done"}
    for folder in folders:
        place = runs_of(folder).resolve()
        if not any(place in (path, path.parent) for path in done):
            raise InputError(
                f"the folder must hold at least one finished run, got {folder}. Name the --out of "
                "`semisam bench`, or finish a run."
            )
    return found


def left_out(runs: Iterable[RunFolder]) -> list[tuple[str, str, str]]:
    """Return name, state and detail of the runs that are in no row."""
    return [(run.name, run.state, run.detail) for run in runs if run.state != "done"]


def paper_rows(table: pd.DataFrame, results: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Return the rows of the paper's Table II that may be added to a table, and the reason.

    They may be added if the data are the published Left Atrium scans, 80 for training and 20 for
    the test, and the protocol is the paper's without any departure. The rows have the methods and
    labels of the table.

    Args:
        table: of `load`.
        results: of `load`.

    Returns:
        The rows, which may be empty, in the columns of the table, and a sentence.
    """
    empty = table.iloc[:0]
    datasets = sorted(set(results["data.dataset"]))
    if datasets != ["la"]:
        return (
            empty,
            f"The paper's rows are of the Left Atrium; these are of {' and '.join(datasets)}.",
        )
    trained = results["data.labeled"] + results["data.unlabeled"]
    if not ((trained == _TRAINED) & (results.get("data.test", 0) == _TESTED)).all():
        return empty, (
            f"The paper's rows are left out: they have {_TRAINED} scans for training and {_TESTED} "
            "for the test."
        )
    same = table[(table["protocol"] == "paper") & (table["departures"] == "")]
    if same.empty:
        return empty, (
            "The paper's rows are left out: every row here departs from the paper's protocol, "
            "and figures of different protocols are not compared."
        )
    with resources.files("semisam.bench").joinpath("paper_table_2.csv").open() as file:
        paper = pd.read_csv(file, keep_default_na=False)
    wanted = set(zip(same["method"], same["labeled"], strict=True))
    keep = [(m, n) in wanted for m, n in zip(paper["method"], paper["labeled"], strict=True)]
    chosen = paper[keep].assign(protocol=PAPER)
    return chosen.reindex(columns=[*table.columns, "doubt"]), (
        "Rows marked paper are figures of the SemiSAM paper, Table II; they were not measured here."
    )


def readable(table: pd.DataFrame, columns: Sequence[str] = ()) -> tuple[list[Column], pd.DataFrame]:
    """Return columns and a table of text: a row's name, its mean ± SD over runs, its gain.

    Args:
        table: of `load`, with or without rows of `paper_rows`.
        columns: keys of `COLUMNS`, in this order; empty: all of which there are figures.
    """
    rows = [cells(row) for row in table.to_dict("records")]
    keys = columns or usual(COLUMNS, ranked="rank" in table)
    shown = expanded(keys, (name for row in rows for name in row.classes))
    texts = [[row.text(column) for column in shown] for row in rows]
    return shown, pd.DataFrame(texts, columns=[column.title for column in shown])


def numeric(table: pd.DataFrame, columns: Sequence[str] = ()) -> pd.DataFrame:
    """Return the columns of numbers behind those for readers.

    Args:
        table: of `load`, with or without rows of `paper_rows`.
        columns: keys of `COLUMNS`, in this order; empty: every column of the table.
    """
    if not columns:
        return table
    classes = (name.removeprefix("dice:") for name in table.columns if name.startswith("dice:"))
    always = ("method", "sam", "sam_control")
    guided = table[table["sam"] != "none"]  # other rows have no prompter
    of = {"prompter": guided["prompter"]}
    names = [n for n in IN_A_NAME if n in always or of.get(n, table[n]).nunique() > 1]
    shown = expanded(columns, classes)
    chosen = [names if column.key == "method" else column.numbers for column in shown]
    return table[[name for names in chosen for name in names]]


@dataclass(frozen=True)
class Figure:
    """A metric of a row as text, empty if the row lacks it.

    Attributes:
        mean: over runs.
        sd: over runs.
        sd_cases: over test cases.
    """

    mean: str
    sd: str
    sd_cases: str

    def joined(self, between: str = " ") -> str:
        """Return ``62.86 ± 1.20``, or the mean only if there is no SD."""
        return f"{self.mean}{between}± {self.sd}" if self.sd else self.mean


@dataclass(frozen=True)
class Cells:
    """A row of the comparison as text, in the form that every output shows.

    Attributes:
        name: of the method, with its options.
        paper: True for a row of the paper.
        labels: labeled and unlabeled cases, ``2/78``.
        runs: number of them.
        repeats: their seeds, subsets and folds, and their training data where rows differ in them.
        metrics: by name, Dice and Jaccard in percent, distances in voxels.
        classes: Dice of each class in percent, if there are several.
        empty: empty predictions.
        gain: in Dice, ``+4.48``.
        star: ``*`` where Holm's p of the gain is below 0.05.
        interval: of the gain, 95 % over cases, ``+1.2..+7.9``.
        p: of the gain, corrected by Holm.
        over_best: difference in Dice from the best row without the branch, with its interval,
            ``+0.31 -0.4..+1.1``.
        best: the method of that row.
        rank: among the rows at equal labels, with its 95 % interval over cases, ``2 (1..3)``; empty
            where the table was not ranked.
        control: True for a control of the branch.
    """

    name: str
    paper: bool
    labels: str
    runs: str
    repeats: str
    metrics: Mapping[str, Figure]
    classes: Mapping[str, str]
    empty: str
    gain: str
    star: str
    interval: str
    p: str
    over_best: str
    best: str
    rank: str
    control: bool

    @property
    def against(self) -> str:
        """Difference from the best row without the branch, and that row's method."""
        return f"{self.over_best} ({self.best})" if self.best else ""

    @property
    def apart(self) -> bool:
        """True if the row is not in the competition: of the paper, or a control."""
        return self.paper or self.control

    @property
    def title(self) -> str:
        """The name, marked if it is the paper's."""
        return f"{self.name} ({PAPER})" if self.paper else self.name

    def gained(self, between: str = " ") -> str:
        """Return gain, star and interval in one text."""
        return between.join(filter(None, (f"{self.gain}{self.star}", self.interval)))

    def text(self, column: Column, between: str = " ") -> str:
        """Return a cell.

        Args:
            column: any other than that of all classes.
            between: a figure and its SD or interval.
        """
        if column.metric:
            return self.metrics[column.metric].joined(between)
        if column.key == "gain":
            return self.gained(between)
        others = {
            "method": self.title,
            "sd": self.metrics["dice"].sd_cases,
            "best": self.against,
        }
        kind, _, name = column.key.partition(":")
        if name:
            return self.classes.get(name, "")
        return others[kind] if kind in others else str(getattr(self, kind))

    def figure(self, column: Column) -> str:
        """Return a cell without SD, star and interval."""
        if column.metric:
            return self.metrics[column.metric].mean
        return self.gain if column.key == "gain" else self.text(column)


def cells(row: Mapping[Any, Any]) -> Cells:
    """Return a row of the comparison as text."""
    paper = row["protocol"] == PAPER
    p = row.get("gain_p_holm", math.nan)
    sure = not math.isnan(p) and p < ALPHA
    low, high = row["gain_low"], row["gain_high"]
    return Cells(
        name=method_name(row),
        paper=paper,
        labels=f"{row['labeled']}/{row['unlabeled']}",
        runs="" if paper else f"{row['runs']:.0f}",
        repeats="; ".join(filter(None, (text_of(row, "repeats"), data_version(row)))),
        metrics={
            name: Figure(*(_number(row.get(f"{name}{end}")) for end in ("", "_sd", "_sd_cases")))
            for name in TABLE_METRICS
        },
        classes={name: f"{dice:.2f}" for name, dice in by_class(row).items()},
        empty="" if paper or math.isnan(row["dice"]) else f"{row['empty']:.0f}",
        gain="" if math.isnan(row["gain_dice"]) else signed(row["gain_dice"], 2),
        star="*" if sure else "",
        interval="" if math.isnan(low) else f"{signed(low, 1)}..{signed(high, 1)}",
        p="" if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}",
        over_best=_over_best(row),
        best=text_of(row, "best_bare"),
        rank=_rank(row),
        control=bool(text_of(row, "sam_control")),
    )


def in_competition(shown: Iterable[Cells]) -> list[Cells]:
    """Return the rows, of those at equal labels, that may be the best.

    These are neither of the paper nor a control, and no other row has more runs: the mean of fewer
    seeds, subsets or folds may be higher by chance. The list is empty if such rows have other
    seeds, subsets, folds or training data, since chance moves them apart, too.
    """
    own = [row for row in shown if not row.apart]
    most = max((int(row.runs) for row in own), default=0)
    rivals = [row for row in own if int(row.runs) == most]
    return rivals if len({row.repeats for row in rivals}) == 1 else []


def best_text(texts: Iterable[str], best: str) -> str:
    """Return the best number of several rows, or an empty text if there is one row only.

    Args:
        texts: of a column, at equal labels.
        best: of that `Column`.
    """
    found = [text for text in texts if text]
    if len(found) < 2 or not best:
        return ""
    return (min if best == "min" else max)(found, key=float)


def _over_best(row: Mapping[Any, Any]) -> str:
    gain, low = row.get("over_best", math.nan), row.get("over_best_low", math.nan)
    if math.isnan(gain):
        return ""
    interval = "" if math.isnan(low) else f" {signed(low, 1)}..{signed(row['over_best_high'], 1)}"
    return f"{signed(gain, 2)}{interval}"


def _rank(row: Mapping[Any, Any]) -> str:
    rank = row.get("rank", math.nan)
    return "" if math.isnan(rank) else f"{rank:.0f} ({row['rank_low']:.0f}..{row['rank_high']:.0f})"


def signed(value: float, digits: int) -> str:
    """Return a difference as text, such as ``+0.3``; zero has a plus whatever it was rounded from.

    Example:
        >>> signed(-0.04, 1)
        '+0.0'
    """
    return f"{round(float(value), digits) + 0.0:+.{digits}f}"


def _number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.2f}"


def by_class(row: Mapping[Any, Any]) -> dict[str, float]:
    """Return the Dice of each class, if a table has several classes."""
    return {
        key.removeprefix("dice:"): value
        for key, value in row.items()
        if key.startswith("dice:") and not math.isnan(value)
    }
