"""The rank of each row of a comparison among those at equal labels, and how certain it is."""

from __future__ import annotations

import math

import pandas as pd

from semisam.bench.columns import RANK
from semisam.bench.comparing import GROUP, by_case, keyed, patients_by_case
from semisam.bench.results import Finished
from semisam.bench.sections import data_version, section_key
from semisam.bench.statistics import ranks


def with_ranks(table: pd.DataFrame, found: Finished) -> pd.DataFrame:
    """Return a table with the columns of `RANK`, empty for controls.

    Rows are ranked that are in one part of the table and have equal numbers of labels and the same
    training data, over the seeds, subsets, folds and test cases that all of them have.

    Args:
        table: of ``found``.
        found: the runs.
    """
    cases = found.cases
    groups = dict(iter(keyed(found.results).groupby(list(GROUP), sort=False, dropna=False)))
    tested = set(cases["run"])
    places: dict[object, dict[int, pd.DataFrame]] = {}
    for at, row in enumerate(table.to_dict("records")):
        group = groups[tuple(row[name] for name in GROUP)]
        if not row["sam_control"] and tested.intersection(group["run"]):
            key = (section_key(row), data_version(row), row["labeled"])
            places.setdefault(key, {})[at] = group
    ranked = table.assign(**dict.fromkeys(RANK, math.nan))
    for place in places.values():
        shared = set.intersection(*(set(group["repeat"]) for group in place.values()))
        runs = {at: own["run"][own["repeat"].isin(shared)] for at, own in place.items()}
        rows = {at: by_case(cases, own, "dice") for at, own in runs.items()}
        common = pd.concat(rows, axis=1, join="inner")
        if len(rows) > 1 and len(common) > 1:
            patients = patients_by_case(cases, common.index, set().union(*runs.values()))
            placed = ranks(common.to_numpy().T, patients=patients)
            for at, own in zip(rows, placed, strict=True):
                ranked.loc[at, list(RANK)] = [own.rank, own.low, own.high, own.first]
    return ranked
