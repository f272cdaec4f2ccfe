"""The results of a study: run folders hold them; ``results.csv`` and ``table.csv`` collect them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from semisam.bench.comparing import TABLE_METRICS, comparison
from semisam.core.errors import InputError, first_line
from semisam.core.files import csv_cell, csv_text, replace_file
from semisam.core.layout import CASES, RESULT
from semisam.run.folder import RunFolder, list_runs

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


def write(frame: pd.DataFrame, path: Path, digits: int = 6) -> None:
    """Write a CSV atomically."""
    with replace_file(path) as temporary:
        frame.map(csv_cell).to_csv(
            temporary, index=False, float_format=f"%.{digits}g", lineterminator="\n"
        )


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
