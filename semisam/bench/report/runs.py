"""The contents of a bench folder: finished, unfinished and damaged runs, and their logs."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from semisam.bench.results import (
    GROUP,
    TABLE_METRICS,
    collect,
    collect_cases,
    comparison,
    keyed,
    paired,
)
from semisam.bench.sections import Section, method_name, sections
from semisam.bench.tables import paper_rows
from semisam.core.errors import InputError, PluginError, first_line
from semisam.core.layout import CASES, LOG
from semisam.run.folder import RunFolder, list_runs
from semisam.run.model import trains_network


@dataclass(frozen=True)
class Log:
    """``train.jsonl`` of a run.

    Attributes:
        frame: a row for each step.
        damaged: number of damaged lines.
        metrics: names of the figures that are no losses.
    """

    frame: pd.DataFrame
    damaged: int
    metrics: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Row:
    """A row of the comparison table, and the runs behind it.

    Attributes:
        name: as shown in the table.
        figures: of the table.
        runs: their results, a row each.
        bare: index of the row without SemiSAM for its gain, or ``None``.
    """

    name: str
    figures: Mapping[str, Any]
    runs: pd.DataFrame
    bare: int | None

    @property
    def method(self) -> str:
        """The method's name, without SemiSAM."""
        return str(self.figures["method"])

    @property
    def competes(self) -> bool:
        """True if the row is neither a control nor of a method that trains nothing."""
        return competes(self.figures)

    @property
    def with_sam(self) -> bool:
        """True if the method has the SemiSAM branch."""
        return bool(self.figures["sam"] != "none")

    @property
    def scored(self) -> bool:
        """True if a run of the row has a test."""
        return not math.isnan(self.figures["dice"])

    @property
    def labels(self) -> int:
        """The number of labeled cases."""
        return int(self.figures["labeled"])


def competes(figures: Mapping[Any, Any]) -> bool:
    """Return whether a row of the table compares a training without and with SemiSAM.

    A method that is not installed here counts as one that trains.
    """
    if isinstance(figures["sam_control"], str) and figures["sam_control"]:
        return False
    try:
        return trains_network(str(figures["method"]))
    except PluginError:
        return True


@dataclass(frozen=True)
class Part:
    """Rows that may be compared, with rows of the paper if those may be compared too."""

    title: str
    table: pd.DataFrame
    rows: list[Row]


@dataclass(frozen=True)
class Bench:
    """The contents of a bench folder.

    Attributes:
        folder: its path.
        runs: every run's folder.
        table: the comparison of the finished ones, as `semisam table` makes it.
        results: a row a finished run.
        cases: a row a test case and run, Dice and Jaccard in [0, 1].
        parts: the table in parts.
        about_paper: why the paper's rows are shown or left out; empty without finished runs.
    """

    folder: Path
    runs: list[RunFolder]
    table: pd.DataFrame
    results: pd.DataFrame
    cases: pd.DataFrame
    parts: list[Part]
    about_paper: str

    def folder_of(self, run: str) -> RunFolder:
        """Return the folder of a finished run by its identity."""
        return next(r for r in self.runs if r.state == "done" and r.run == run)


def read_bench(folder: Path) -> Bench:
    """Read the output folder of ``semisam bench``, or a single run's.

    Raises:
        InputError: if it holds no run.
    """
    runs, frames = [], []
    for run in _runs(folder):
        try:
            frames.append(_scores(run) if run.state == "done" else pd.DataFrame())
            runs.append(run)
        except Exception as error:  # a damaged file raises many kinds of error
            reason = first_line(error)
            detail = f"its results cannot be read: {reason}"
            runs.append(dataclasses.replace(run, state="damaged", detail=detail, result=None))
    results = collect(run for run in runs if run.state == "done")
    empty = pd.DataFrame()
    if results.empty:
        return Bench(folder, runs, empty, empty, empty, [], "")
    tested = [frame for frame in frames if not frame.empty]
    cases = pd.concat(tested, ignore_index=True) if tested else collect_cases([])
    table = comparison(results, cases)
    paper, about = paper_rows(table, results)
    whole = table if paper.empty else pd.concat([table, paper], ignore_index=True)
    frame = keyed(results)
    parts = [_part(section, frame) for section in sections(whole)]
    return Bench(folder, runs, table, results, cases, parts, about)


def read_log(run: RunFolder) -> Log:
    """Read a run's log without its damaged lines, which a killed run leaves."""
    steps: dict[int, dict[str, float]] = {}
    metrics: set[str] = set()
    damaged = 0
    try:
        lines = (run.path / LOG).read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        try:
            raw = json.loads(line)
            step = int(raw["step"])
            figures = {
                str(name): float(value)
                for name, value in raw.items()
                if name != "step" and isinstance(value, int | float)
            }
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            damaged += 1
            continue
        steps[step] = {n: v for n, v in figures.items() if math.isfinite(v)}
        names = list(figures)
        # The trainer writes the losses, the learning rate, and then the metrics.
        metrics |= set(names[names.index("lr") :] if "lr" in names else ())
    frame = pd.DataFrame.from_dict(steps, orient="index").sort_index()
    return Log(frame, damaged, frozenset(metrics))


def _runs(folder: Path) -> list[RunFolder]:
    """Return the runs of a bench or a folder of runs; of a run folder, this one run."""
    runs = list_runs(folder) if folder.is_dir() else []
    if not runs:
        raise InputError(
            f"the folder must hold runs, got {folder} "
            f"({'no run in it' if folder.is_dir() else 'no such folder'}). Name the --out of "
            "`semisam bench`."
        )
    return runs


def _scores(run: RunFolder) -> pd.DataFrame:
    """Return the scores of a finished run, or raise an error about its files.

    A run without a test has no scores.
    """

    def fail(fault: str) -> None:
        raise ValueError(fault)

    collect([run], fail)
    frame = collect_cases([run], fail)
    assert run.result is not None  # the run is done
    lost = run.result["metrics"] and frame.empty
    if lost or frame[list(TABLE_METRICS)].isna().to_numpy().any():
        raise ValueError(f"{CASES} holds no scores of every case")
    return frame


def _part(section: Section, frame: pd.DataFrame) -> Part:
    groups = {
        tuple(map(str, key)): group
        for key, group in frame.groupby(list(GROUP), sort=False, dropna=False)
    }
    found = []
    for raw in section.rows.to_dict("records"):
        figures = {str(name): value for name, value in raw.items()}
        group = groups.get(tuple(str(figures[name]) for name in GROUP))
        if group is not None:  # else it is the paper's
            found.append((figures, group))
    rows = []
    for figures, group in found:
        bare = None
        if figures["sam"] != "none" and not math.isnan(figures["gain_dice"]):
            bare = _bare_of(group, [other for _, other in found])
        rows.append(Row(method_name(figures), figures, group, bare))
    return Part(section.title, section.rows, rows)


def _bare_of(group: pd.DataFrame, others: list[pd.DataFrame]) -> int | None:
    """Return the group with the bare runs for the gain, or ``None``."""
    for index, other in enumerate(others):
        if other.iloc[0]["sam"] == "none" and not paired(group, other).empty:
            return index
    return None
