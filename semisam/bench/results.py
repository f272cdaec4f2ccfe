"""The results of a study: run folders hold them; ``results.csv`` and ``table.csv`` collect them."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from semisam.bench.sections import method_name, section_key
from semisam.bench.statistics import compare, holm
from semisam.bench.versions import TRAINED_ON, as_text, differences, join_sets, versions_of_test
from semisam.core.errors import InputError, SemisamWarning, first_few, first_line
from semisam.core.files import csv_cell, csv_text, replace_file
from semisam.core.layout import CASES, RESULT
from semisam.run.folder import RunFolder, list_runs
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
OnFault = Callable[[str], None]


def ignore(fault: str) -> None:
    """Ignore a fault."""


@dataclass(frozen=True)
class Finished:
    """The finished runs of some folders, as every table and report reads them.

    Attributes:
        runs: all runs, in any state; one without its scores is damaged, not done.
        results: a row for each finished run: settings, metrics, cost, versions and hashes.
            ``study`` numbers the folders that hold runs, and in each the paths of scans.
        cases: ``run``, ``case``, ``patient`` and the metrics of test cases, classes averaged.
        table: of `comparison`; empty without a finished run.
    """

    runs: list[RunFolder]
    results: pd.DataFrame
    cases: pd.DataFrame
    table: pd.DataFrame


def read_finished(folders: Iterable[Path], on_fault: OnFault = ignore) -> Finished:
    """Read the runs of some folders, each run once.

    A finished run whose files cannot be used is damaged, and so is one without its scores. It is
    named, and it is in no table.

    Args:
        folders: of studies or runs. A run may be in several of them, by any path.
        on_fault: called with a sentence about each run that is left out.

    Raises:
        InputError: a path is not a folder.
    """
    once: dict[Path, RunFolder] = {}
    for folder in folders:
        for run in list_runs(folder):
            once.setdefault(run.path.resolve(), run)
    runs: list[RunFolder] = []
    rows: list[dict[str, Any]] = []
    scores = [pd.DataFrame(columns=["run", "case", "patient", *TABLE_METRICS])]
    places: dict[str, Path] = {}
    studies: dict[object, int] = {}
    for run in once.values():
        if run.result is not None:
            try:
                row, own = _flatten(run), _scores(run)
            except InputError as error:
                run = replace(run, state="damaged", detail=str(error), result=None)
        runs.append(run)
        if run.state == "damaged":
            on_fault(run.detail)
        if run.result is None:
            continue
        first = places.setdefault(run.run, run.path)
        if first != run.path:
            on_fault(f"{run.path}: each run must be there once, got a copy of {first}. Remove one.")
            continue
        study = (run.path.parent, run.result["settings"].get("data"))
        rows.append(row | {"study": studies.setdefault(study, len(studies) + 1)})
        scores += [] if own.empty else [own]
    results = pd.DataFrame(rows)
    cases = pd.concat(scores[1:] or scores, ignore_index=True)
    return Finished(runs, results, cases, comparison(results, cases) if rows else pd.DataFrame())


def _scores(run: RunFolder) -> pd.DataFrame:
    """Return the scores of a finished run's test cases; no rows without a test.

    Raises:
        InputError: they are missing or damaged.
    """
    assert run.result is not None  # the run is done
    if not run.result["metrics"]:
        return pd.DataFrame()
    try:
        frame = pd.read_csv(
            run.path / CASES,
            dtype={"case": str, "patient": str},
            keep_default_na=False,  # a case may have the name "NA"
            na_values={metric: ["", "nan"] for metric in TABLE_METRICS},
        )
        frame["case"] = frame["case"].map(csv_text)
        owner = frame["patient"].map(csv_text) if "patient" in frame else frame["case"]
        by = frame.assign(patient=owner.astype(str)).groupby(["case", "patient"], sort=False)
        means = by[list(TABLE_METRICS)].mean().reset_index()
        _check_scores(frame, means, run.result)
    except Exception as error:  # a damaged file raises many kinds of error
        raise InputError(
            f"{run.path / CASES}: the scores of a finished run must be there, got "
            f"{first_line(error)}. Delete {RESULT} of that run and give the same command again to "
            "run it once more."
        ) from None
    means.insert(0, "run", run.run)
    return means


def _check_scores(frame: pd.DataFrame, means: pd.DataFrame, result: Mapping[str, Any]) -> None:
    """Raise a ``ValueError`` if scores are not those of which a result has the mean."""
    numbers = means[list(TABLE_METRICS)].to_numpy(float)
    if means.empty or not np.isfinite(numbers).all():
        raise ValueError("no scores of every case")
    if frame.duplicated(["case", "class"]).any():
        raise ValueError("two scores of one case and class")
    tested, told = result["data"].get("test", len(means)), result["metrics"]["dice"]
    if len(means) != tested:
        raise ValueError(f"scores of {len(means)} of {tested} cases")
    if not math.isclose(found := means["dice"].mean(), told, rel_tol=1e-6):
        raise ValueError(f"a mean Dice of {found:.6g}, where {RESULT} has {told:.6g}")


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
    parts = [
        (metric, column, column.removeprefix("metrics."))
        for metric in TABLE_METRICS
        for column in frame.columns
        if column.startswith(f"metrics.{metric}:")
    ]
    rows = []
    groups = list(frame.groupby(list(GROUP), sort=False, dropna=False))
    bare = [(dict(zip(GROUP, key, strict=True)), group) for key, group in groups]
    bare = [(row, group) for row, group in bare if row["sam"] == "none"]
    for key, group in groups:
        row: dict[str, Any] = dict(zip(GROUP, key, strict=True))
        row["runs"] = len(group)
        for metric in TABLE_METRICS:
            repeats = _over_folds(group, metric)
            row[metric] = repeats.mean()
            row[f"{metric}_sd"] = repeats.std(ddof=1)
            row[f"{metric}_sd_cases"] = by_case(scaled, group["run"], metric).std(ddof=1)
        for metric, column, name in parts:
            scale = 100.0 if metric in _PERCENT else 1.0
            row[name] = _over_folds(group, column).mean() * scale
        row["empty"] = int(group["empty_predictions"].sum())
        row["rightly_empty"] = int(group["rightly_empty"].sum())
        row |= _gain(frame, group, scaled)
        row |= _over_best(row, group, bare, scaled)
        row["train_seconds"] = group["cost.train_seconds"].mean()
        row["peak_memory_gib"] = group["cost.peak_memory_gib"].max()
        for name in ("sam_adapt_seconds", "sam_seconds_share", "sam_calls"):
            # No run of the grid has it if every run is bare.
            row[name] = group.get(f"cost.{name}", pd.Series(dtype=float)).mean()
        row["repeats"] = _shown_repeats(group)
        for name in LONG:
            row[name] = row.pop(name)
        rows.append(row)
    table = pd.DataFrame(rows)
    after = list(table.columns).index("gain_p") + 1
    table.insert(after, "gain_p_holm", holm(table["gain_p"].tolist()))
    return table.sort_values(
        ["protocol", "dataset", "data", "labeled", "method", "sam", "sam_control"],
        key=_none_first,
        kind="stable",
        ignore_index=True,
    )


def write(frame: pd.DataFrame, path: Path, digits: int = 6) -> None:
    """Write a CSV atomically."""
    with replace_file(path) as temporary:
        frame.map(csv_cell).to_csv(
            temporary, index=False, float_format=f"%.{digits}g", lineterminator="\n"
        )


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


def _flatten(run: RunFolder) -> dict[str, Any]:
    """Return the row of a finished run.

    Raises:
        InputError: its result is not of this version.
    """
    assert run.result is not None  # the run is done
    try:
        return _row(run.result)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{run.path / RESULT}: the result must be of this version, got {first_line(error)}."
        ) from None


def _row(result: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"run": result["run"]}
    settings = result["settings"]
    for key, value in settings.items():
        if key == "data":  # a path of one machine; the hash identifies the data
            continue
        row[key] = json.dumps(value, sort_keys=True) if isinstance(value, list | dict) else value
    bare = settings["sam"] == "none"
    row["sam_control"] = row.get("sam_control") or ""
    if bare:
        row["prompter"] = ""
    row["departures"] = "; ".join(settings["departures"])
    row["choices"] = "; ".join(settings["choices"])
    for part in ("data", "metrics", "validation", "training", "cost", "versions"):
        for key, value in result.get(part, {}).items():
            if isinstance(value, dict):
                value = json.dumps(value, sort_keys=True)
            row[f"{part}.{key}"] = " ".join(value) if isinstance(value, list) else value
    return row
