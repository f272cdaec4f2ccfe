"""The notes of a comparison table: a sentence each on what a reader needs for its figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from semisam.bench.sections import PAPER, method_name, sections, text_of
from semisam.bench.statistics import ALPHA, cases_for, least_p
from semisam.bench.tables import cells

UNITS = "test cases (patients, where the data name them)"
"""The units of gains, intervals and ranks."""
_ENOUGH = 20
"""Units with which an interval holds the true gain in more than 90 % of draws."""


def empty_lines(table: pd.DataFrame) -> list[str]:
    """Return a sentence on classes that are rightly nowhere, if a row has one."""
    most = table["rightly_empty"].max() if "rightly_empty" in table else 0
    if not most > 0:
        return []
    return [
        f"Up to {most:.0f} scores of a row are of a class that neither mask of a case holds. Their "
        "Dice is 100, and every mean counts them; cases.csv has each."
    ]


def gain_lines(table: pd.DataFrame) -> list[str]:
    """Return the meaning of the marks next to the gains, if there are gains with a test."""
    tested = table[table["gain_p"].notna()]
    if tested.empty:
        return []
    line = (
        f"Gain: paired over {UNITS}, with its 95 % bootstrap interval. * p < 0.05 "
        f"(Wilcoxon, Holm over {len(tested)} comparison{'s' * (len(tested) > 1)})."
    )
    line += f" {reach}" if (reach := out_of_reach(table)) else ""
    if (fewest := int(tested["gain_cases"].min())) < _ENOUGH:
        line += f" An interval over {fewest} is too narrow: trust p more."
    if (tested["dice_sd"].isna() | (tested["gain_runs"] == 1)).any():
        line += " A gain over one pair of runs does not cover other seeds or other labeled scans."
    fewer = tested[tested["gain_runs"] < tested["runs"]].to_dict("records")
    return [line, *map(_pairs_line, fewer)]


def _pairs_line(row: Mapping[Any, Any]) -> str:
    shown = cells(row)
    return (
        f"{shown.name}, {shown.labels}: its gain is over {row['gain_runs']:.0f} of its "
        f"{shown.runs} runs, those with a partner without SAM."
    )


def rank_lines(table: pd.DataFrame) -> list[str]:
    """Return the meaning of the ranks, and how certain the first ones are, if there are ranks."""
    if "rank" not in table:
        return []
    if table["rank"].isna().all():
        return [
            "No ranks: they need two rows at equal labels with runs of the same seeds and subsets, "
            "and at least two test cases."
        ]
    lines = [
        "Rank: by Dice, among the rows at equal labels, over the runs and test cases that all of "
        f"them have; in brackets its 95 % interval over {UNITS}."
    ]
    for row in table[table["rank"] == 1].to_dict("records"):
        shown = cells(row)
        lines.append(
            f"{shown.name}, {shown.labels}: the first in {100 * row['rank_first']:.0f} % of the "
            "resamples."
        )
    return lines


def runs_lines(table: pd.DataFrame) -> list[str]:
    """Return a sentence if rows that may be compared have runs of other seeds or subsets."""
    for section in sections(table[table["protocol"] != PAPER]):
        rows = section.rows[section.rows["sam_control"] == ""]
        if (rows.groupby("labeled")["repeats"].nunique() > 1).any():
            return [
                "Some rows at equal labels have runs of other seeds, labeled subsets or folds, so "
                "their means differ by chance, too. Gains and ranks are over those that both have."
            ]
    return []


def out_of_reach(table: pd.DataFrame) -> str:
    """Return a sentence if no gain can be significant with so few test cases, or an empty text."""
    tested = table[table["gain_p"].notna()]
    if tested.empty:
        return ""
    cases = int(tested["gain_cases"].max())
    least = least_p(cases) * len(tested)
    if least < ALPHA:
        return ""
    return (
        f"With {cases} cases or patients the least p after this correction is "
        f"{min(least, 1.0):.2g}, so no gain can be significant. "
        f"At least {cases_for(len(tested))} are needed."
    )


def best_lines(table: pd.DataFrame) -> list[str]:
    """Return a sentence for each row with SAM of which another method's bare row is the best."""
    lines = []
    for row in table.to_dict("records"):
        shown = cells(row)
        if shown.over_best and shown.best != row["method"]:
            lines.append(
                f"{shown.name}, {shown.labels}: {shown.over_best} against {shown.best}, the best "
                "row without SAM."
            )
    return lines


def protocol_lines(table: pd.DataFrame) -> list[str]:
    """Return a sentence for each part of a table: its protocol and the departures from it."""
    return [f"{section.title}." for section in sections(table)]


GRID = "Scores are computed on the grid of each scan's file, against the label as drawn."


def notes(table: pd.DataFrame, part: pd.DataFrame | None = None) -> list[str]:
    """Return the notes that a reader of the table needs, a sentence each.

    Args:
        table: of `load`, with or without rows of `paper_rows`.
        part: the rows that are shown, without a sentence on their best rows; ``None``: all.
    """
    measured = table[table["protocol"] != PAPER]
    lines = [GRID] if measured["dice"].notna().any() else []
    lines += ["Mean ± SD over runs (seeds and labeled subsets)."] if _has_sd(measured) else []
    lines += gain_lines(measured)
    lines += [*runs_lines(measured), *rank_lines(measured), *empty_lines(measured)]
    if part is None:
        lines += best_lines(measured)
    else:
        table, measured = part, part[part["protocol"] != PAPER]
    if len(measured) < len(table):
        lines.append(
            f"Rows marked {PAPER} are figures of the SemiSAM paper; they were not measured here."
        )
    for row in table.to_dict("records"):
        if text_of(row, "doubt"):
            lines.append(f"{method_name(row)} at {row['labeled']} in the paper: {row['doubt']}.")
    return lines


def _has_sd(table: pd.DataFrame) -> bool:
    return bool(table["dice_sd"].notna().any())
