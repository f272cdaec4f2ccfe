"""The comparison of finished runs: rows of means, gains with their tests, and the best bare row."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from semisam.bench.sections import method_name, section_key
from semisam.bench.statistics import compare, holm
from semisam.bench.versions import TRAINED_ON, as_text, differences, join_sets, versions_of_test
from semisam.core.errors import SemisamWarning, first_few
from semisam.run.settings import NOT_IDENTITY, OF_THE_BRANCH, RunSettings

TABLE_METRICS = ("dice", "jaccard", "asd_voxel", "hd95_voxel")
_PERCENT = {"dice", "jaccard"}
GROUP = (
    "protocol",
    "dataset",
    "data",
    "method",
    "sam",
    "sam_control",
    "prompter",
    "labeled",
    "unlabeled",
    "made_by",
    "choices",
    "departures",
)
"""Columns that the runs of a row have in common; these runs differ only in seed and subset."""
LONG = ("made_by", "choices", "departures")
"""The columns of a table with long texts, which are the last ones."""
_REPEAT = ("labels", "first", "test", "subset", "fold", "seed", "data_key")
"""Settings and data in which runs of a row differ; rows are compared over runs that share them."""
_PAIRED_ON = tuple(
    name for name in RunSettings.model_fields if name not in OF_THE_BRANCH | NOT_IDENTITY
)


def comparison(results: pd.DataFrame, cases: pd.DataFrame) -> pd.DataFrame:
    """Return the comparison table: mean and SD over runs (seeds and labeled subsets).

    Runs of different protocols, data or options, or that depart from their protocol in different
    ways, never share a row. Dice and Jaccard are in percent, distances in voxels, as in the paper.
    ``gain_dice`` is the mean difference, in points, to runs that differ only in the branch.
    ``empty`` counts empty predictions of something, over all runs. ``choices`` has values that no
    protocol prescribes. ``data`` distinguishes the test data of otherwise equal rows, ``made_by``
    their training data; both are empty if there is nothing to distinguish.

    Of a run per fold, a figure is over all cases of the folds of one seed and subset.

    ``<metric>_sd`` is over these; ``<metric>_sd_cases`` over test cases, each the mean of its runs.
    With several classes a metric is the mean of theirs, and ``<metric>:<class>`` are its parts.
    ``gain_low`` and ``gain_high`` bound the gain's 95 % bootstrap interval over ``gain_cases``
    cases (patients, where the data name them), ``gain_p`` is Wilcoxon's p, and ``gain_p_holm`` is
    corrected for all gains of the table. The gain is over ``gain_runs`` pairs of runs.
    ``best_bare`` is the row without the branch, of the same part of the table, from which the
    difference is the lowest over the seeds, subsets and folds that both have, and ``over_best``
    with its interval is that difference, over ``over_best_runs`` runs of each. ``repeats`` tells
    which seeds, subsets and folds are in the row.

    Args:
        results: of `Finished`.
        cases: of `Finished`.
    """
    scaled = cases.copy()
    for metric in _PERCENT:
        scaled[metric] = 100.0 * scaled[metric]
    frame = keyed(results)
    for metric in (*TABLE_METRICS, "empty_predictions", "rightly_empty"):  # missing without a test
        scale = 100.0 if metric in _PERCENT else 1.0
        frame[metric] = frame.get(f"metrics.{metric}", math.nan) * scale
    groups = [
        (dict(zip(GROUP, key, strict=True)), group)
        for key, group in frame.groupby(list(GROUP), sort=False, dropna=False)
    ]
    bare = [(row, group) for row, group in groups if row["sam"] == "none"]
    rows = []
    for row, group in groups:
        compared = _gain(frame, group, scaled) | _over_best(row, group, bare, scaled)
        whole = row | _means(group, scaled) | compared | _cost(group)
        whole["repeats"] = _shown_repeats(group)
        last = {name: whole.pop(name) for name in LONG}
        rows.append(whole | last)
    table = pd.DataFrame(rows)
    after = list(table.columns).index("gain_p") + 1
    table.insert(after, "gain_p_holm", holm(table["gain_p"].tolist()))
    return table.sort_values(
        ["protocol", "dataset", "data", "labeled", "method", "sam", "sam_control"],
        key=_none_first,
        kind="stable",
        ignore_index=True,
    )


def _means(group: pd.DataFrame, cases: pd.DataFrame) -> dict[str, Any]:
    """Return the means and SDs of a row's metrics, of all classes and of each."""
    row: dict[str, Any] = {"runs": len(group)}
    for metric in TABLE_METRICS:
        repeats = _over_folds(group, metric)
        row[metric] = repeats.mean()
        row[f"{metric}_sd"] = repeats.std(ddof=1)
        row[f"{metric}_sd_cases"] = by_case(cases, group["run"], metric).std(ddof=1)
    for metric in TABLE_METRICS:
        scale = 100.0 if metric in _PERCENT else 1.0
        for column in map(str, group.columns[group.columns.str.startswith(f"metrics.{metric}:")]):
            name = column.removeprefix("metrics.")
            row[name] = _over_folds(group, column).mean() * scale
    for column, name in {"empty_predictions": "empty", "rightly_empty": "rightly_empty"}.items():
        row[name] = int(group[column].sum())
    return row


def _cost(group: pd.DataFrame) -> dict[str, float]:
    """Return the mean seconds of a row's runs, the memory of the largest, and SAM's part."""
    row = {
        "train_seconds": group["cost.train_seconds"].mean(),
        "peak_memory_gib": group["cost.peak_memory_gib"].max(),
    }
    for name in ("sam_adapt_seconds", "sam_seconds_share", "sam_calls"):
        # No run of the grid has it if every run is bare.
        row[name] = group.get(f"cost.{name}", pd.Series(dtype=float)).mean()
    return row


def keyed(results: pd.DataFrame) -> pd.DataFrame:
    """Return the results with the columns of `GROUP`, ``data_key`` and ``repeat``.

    ``data_key`` is equal for equal data in equal parts, whether or not a control reads the truth of
    unlabeled cases. Rows are compared over the repeats that both have: the labeled cases, subset,
    fold, seed and data.

    ``data`` separates the parts of a table: it names the test data over all folds. Within a part,
    ``made_by`` separates the rows of other training data, plugins and versions of the numbers. Both
    are empty where there is nothing to distinguish.
    """
    frame = results.rename(columns={"data.labeled": "labeled", "data.unlabeled": "unlabeled"})
    for name in ({*GROUP, *TRAINED_ON} - {"data"}) - set(frame):
        frame[name] = ""
    unknown = pd.Series("", frame.index, dtype=object)
    whole = frame.get("data.hash", unknown)
    frame["data_key"] = frame.get("data.key", whole).fillna(whole).fillna("")
    frame["data"] = versions_of_test(frame)
    frame["made_by"] = differences(frame)
    repeat = [as_text(frame[name]) for name in _REPEAT if name in frame]
    frame["repeat"] = list(zip(*repeat, strict=True))
    folded = frame["fold"].replace("", math.nan).notna()
    if folded.any():  # folds of unequal size share a row
        sizes = frame[folded].groupby(["dataset", "labels", "test", "data"])["unlabeled"]
        frame.loc[folded, "unlabeled"] = sizes.transform("mean").round().astype(int)
    return frame


def _gain(frame: pd.DataFrame, group: pd.DataFrame, cases: pd.DataFrame) -> dict[str, float]:
    """Return the gain in Dice over the same method without SAM, with interval and p."""
    names = ("gain_dice", "gain_low", "gain_high", "gain_runs", "gain_cases", "gain_p")
    nothing = dict.fromkeys(names, math.nan)
    if group.iloc[0]["sam"] == "none":
        return nothing
    pairs = paired(group, frame[frame["sam"] == "none"])
    if pairs.empty:
        return nothing
    with_sam = by_case(cases, pairs["run"], "dice")
    without = by_case(cases, pairs["run_bare"], "dice")
    common = with_sam.index.intersection(without.index, sort=False)
    if common.empty:  # the scores of one of them are missing
        return nothing
    pair = (without[common].to_numpy(), with_sam[common].to_numpy())
    runs = {*pairs["run"], *pairs["run_bare"]}
    found = compare(*pair, patients=patients_by_case(cases, common, runs))
    figures = (found.gain, found.low, found.high, len(pairs), found.cases, found.p)
    return dict(zip(names, figures, strict=True))


def _over_best(
    row: Mapping[str, Any],
    group: pd.DataFrame,
    bare: Sequence[tuple[Mapping[str, Any], pd.DataFrame]],
    cases: pd.DataFrame,
) -> dict[str, Any]:
    """Return the difference in Dice from the best row without the branch, over the same runs."""
    nothing = {"best_bare": "", "over_best": math.nan}
    nothing |= dict.fromkeys(("over_best_low", "over_best_high", "over_best_runs"), math.nan)
    if row["sam"] == "none":
        return nothing
    rivals = []
    for other, runs in bare:
        shared = set(group["repeat"]) & set(runs["repeat"])
        if section_key(other) != section_key(row) or not shared:
            continue
        both = [own["run"][own["repeat"].isin(shared)] for own in (runs, group)]
        dice, ours = (by_case(cases, own, "dice") for own in both)
        common = ours.index.intersection(dice.index, sort=False)
        if len(common):
            rivals.append((other, dice[common], ours[common], both))
    if not rivals:
        return nothing
    best, theirs, own, both = min(rivals, key=lambda rival: (rival[2] - rival[1]).mean())
    patients = patients_by_case(cases, own.index, {*both[0], *both[1]})
    found = compare(theirs.to_numpy(), own.to_numpy(), patients=patients)
    return {
        "best_bare": method_name(best),
        "over_best": found.gain,
        "over_best_low": found.low,
        "over_best_high": found.high,
        "over_best_runs": len(both[1]),
    }


def paired(group: pd.DataFrame, bare: pd.DataFrame) -> pd.DataFrame:
    """Return pairs of runs that differ only in the branch, with ``bare`` as ``*_bare``.

    Args:
        group: rows of `keyed`.
        bare: rows of `keyed` without the branch.
    """
    on = [name for name in (*_PAIRED_ON, "data", "data_key") if name in group]
    return group.merge(bare, on=on, suffixes=("", "_bare"))


def _over_folds(group: pd.DataFrame, column: str) -> pd.Series[Any]:
    """Return a figure of each seed and subset, over all cases of its folds."""
    size = group["data.test"] if "data.test" in group else pd.Series(1, group.index)
    weight = size.where(group[column].notna()).astype(float)
    repeat = [group[name].astype(str) for name in ("seed", "subset")]
    total = (group[column] * weight).groupby(repeat, sort=False).sum(min_count=1)
    return total / weight.groupby(repeat, sort=False).sum()


def _shown_repeats(group: pd.DataFrame) -> str:
    """Return ``subset 0 seed 0; subset 1 seed 1``, with the fold if there are folds."""
    parts = {name: as_text(group[name]) for name in ("subset", "fold", "seed")}
    own = [
        " ".join(f"{name} {value[at]}" for name, value in parts.items() if value[at])
        for at in group.index
    ]
    return "; ".join(sorted(own))


def by_case(cases: pd.DataFrame, runs: pd.Series[Any], metric: str) -> pd.Series[Any]:
    """Return a metric per test case, the mean of the runs."""
    chosen = cases[cases["run"].isin(runs)]
    return chosen.groupby("case", sort=False)[metric].mean()


def patients_by_case(cases: pd.DataFrame, index: pd.Index[Any], runs: Iterable[str]) -> list[str]:
    """Return the patients of test cases as the compared runs name them; empty if none does.

    Of runs with other patients, those count that join more cases. A run whose data named no
    patient joins none.

    Args:
        cases: of `Finished`.
        index: the cases.
        runs: that are compared; the patients of other runs do not count.

    Warns:
        SemisamWarning: the runs contradict each other. All cases that one of them joins are joined.
    """
    if "patient" not in cases:
        return []
    rows = cases[cases["run"].isin(set(runs)) & cases["case"].isin(index)]
    named = rows.drop_duplicates(["case", "patient"])
    # A case that is its own patient is joined by a run that names another one.
    named = named[(named["patient"] != named["case"]) | ~named["case"].duplicated(keep=False)]
    if not named["case"].duplicated().any():
        return list(named.set_index("case")["patient"].loc[index])
    whole = [frozenset(own) for _, own in named.groupby("patient", sort=False)["case"]]
    joined = join_sets(whole)
    if unclear := sorted(case for own in joined if own not in whole for case in own):
        warnings.warn(
            "the compared runs must name the same patients, got different ones of "
            f"{first_few(unclear)}. Run the older ones again; until then, cases that any of them "
            "joins are one patient.",
            SemisamWarning,
            stacklevel=2,
        )
    owner = {case: min(own) for own in joined for case in own}
    return [owner[case] for case in index]


def _none_first(column: pd.Series[Any]) -> pd.Series[Any]:
    """Sort a method's bare row before its rows with SAM."""
    return column.where(column != "none", "") if column.name == "sam" else column
