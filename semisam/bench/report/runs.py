"""The contents of a bench folder: finished, unfinished and damaged runs, and their logs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from semisam.bench.comparing import GROUP, keyed, paired
from semisam.bench.results import Finished, read_finished
from semisam.bench.sections import Section, method_name, sections
from semisam.bench.tables import paper_rows
from semisam.core.errors import InputError, PluginError
from semisam.core.layout import LOG
from semisam.run.folder import RunFolder
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
class Bench(Finished):
    """The contents of a bench folder.

    Attributes:
        folder: its path.
        parts: the table in parts.
        about_paper: why the paper's rows are shown or left out; empty without finished runs.
    """

    folder: Path
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
    found = read_finished([folder] if folder.is_dir() else [])
    if not found.runs:
        raise InputError(
            f"the folder must hold runs, got {folder} "
            f"({'no run in it' if folder.is_dir() else 'no such folder'}). Name the --out of "
            "`semisam bench`."
        )
    table, results = found.table, found.results
    if table.empty:
        return Bench(**vars(found), folder=folder, parts=[], about_paper="")
    paper, about = paper_rows(table, results)
    whole = table if paper.empty else pd.concat([table, paper], ignore_index=True)
    frame = keyed(results)
    parts = [_part(section, frame) for section in sections(whole)]
    return Bench(**vars(found), folder=folder, parts=parts, about_paper=about)


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
