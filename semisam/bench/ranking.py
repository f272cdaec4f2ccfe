"""The rank of each row of a comparison among those at equal labels, and how certain it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from semisam.bench.results import GROUP, by_case, collect_cases, keyed
from semisam.bench.statistics import ranks
from semisam.bench.tables import section_key
from semisam.run.folder import list_runs

RANK = ("rank", "rank_low", "rank_high", "rank_first")
"""The columns: the rank by Dice, its 95 % interval, and the share of resamples with rank 1."""


def with_ranks(table: pd.DataFrame, results: pd.DataFrame, folders: Sequence[Path]) -> pd.DataFrame:
    """Return a table with the columns of `RANK`, empty for controls.

    Rows are ranked that are in one part of the table and have equal numbers of labels, over the
    test cases that all of them have.

    Args:
        table: of `semisam.bench.tables.load`.
        results: of the same call.
        folders: of the same call.
    """
    cases = collect_cases([run for folder in folders for run in list_runs(folder)])
    groups = keyed(results).groupby(list(GROUP), sort=False, dropna=False)
    runs = {key: group["run"] for key, group in groups}
    places: dict[object, dict[int, pd.Series[float]]] = {}
    for at, row in enumerate(table.to_dict("records")):
        dice = by_case(cases, runs[tuple(row[name] for name in GROUP)], "dice")
        if not row["sam_control"] and not dice.empty:
            places.setdefault((section_key(row), row["labeled"]), {})[at] = dice
    ranked = table.assign(**dict.fromkeys(RANK, math.nan))
    for rows in places.values():
        common = pd.concat(rows, axis=1, join="inner")
        if len(rows) > 1 and len(common) > 1:
            for at, own in zip(rows, ranks(common.to_numpy().T), strict=True):
                ranked.loc[at, list(RANK)] = [own.rank, own.low, own.high, own.first]
    return ranked
