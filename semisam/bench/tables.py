"""The comparison table in the formats that people write in, and the paper's rows beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd

from semisam.bench.results import OnFault, collect, collect_cases, comparison
from semisam.bench.statistics import ALPHA
from semisam.errors import InputError

PAPER = "paper, Table II"
"""Marks a row that is the paper's own."""


def load(folder: Path, on_fault: OnFault = print) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the comparison table and the results of all finished runs of a bench folder.

    Args:
        folder: the bench's.
        on_fault: told of each result that cannot be read, and is left out.

    Raises:
        InputError: if the folder holds no finished run.
    """
    folders = sorted(path.parent for path in folder.glob("runs/*/result.json"))
    results = collect(folders, on_fault)
    if results.empty:
        raise InputError(
            f"the output folder of `semisam bench` with at least one finished run is required, got "
            f"{folder}: name that folder, or finish a run"
        )
    return comparison(results, collect_cases(folders, on_fault)), results


def paper_rows(table: pd.DataFrame, results: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Return the rows of the paper's Table II that may stand beside a table, and why.

    They may where the data are the published Left Atrium scans and the protocol is the paper's
    without any departure; then those of the same methods and labels are given.

    Args:
        table: of `load`.
        results: of `load`.

    Returns:
        The rows, perhaps none, in the columns of the table, and a sentence.
    """
    empty = table.iloc[:0]
    datasets = sorted(set(results["data.dataset"]))
    if datasets != ["la"]:
        return empty, f"The paper's rows are of the Left Atrium; these are of {datasets[0]}."
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


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of text: a row's name, its numbers as mean ± SD over runs, its gain.

    Args:
        table: of `load`, with or without rows of `paper_rows`.
    """
    rows = [_row(row) for row in table.to_dict("records")]
    return pd.DataFrame(rows).fillna("")  # a row may lack a class that another has


def _row(row: Mapping[Any, Any]) -> dict[str, str]:
    metrics = {
        "Dice [%]": "dice",
        "Jaccard [%]": "jaccard",
        "ASD [voxel]": "asd_voxel",
        "95HD [voxel]": "hd95_voxel",
    }
    is_paper = row["protocol"] == PAPER
    return {
        "Method": method_name(row) + (f" ({PAPER})" if is_paper else ""),
        "Labeled/unlabeled": f"{row['labeled']}/{row['unlabeled']}",
        "Runs": "" if is_paper else f"{row['runs']:.0f}",
        **{title: mean_sd(row[m], row[f"{m}_sd"]) for title, m in metrics.items()},
        **{f"Dice {name} [%]": mean_sd(dice, math.nan) for name, dice in by_class(row).items()},
        "Empty": "" if is_paper else f"{row['empty']:.0f}",
        "Gain [Dice]": gain(row),
    }


def method_name(row: Mapping[Any, Any]) -> str:
    """Return ``mt`` or ``mt + SemiSAM (geodesic, gated, control: oracle)``."""
    if row["sam"] == "none":
        return str(row["method"])
    parts = [str(row["sam"])]
    if row["sam_weight"] == "gated":
        parts.append("gated")
    if isinstance(row["sam_control"], str) and row["sam_control"]:
        parts.append(f"control: {row['sam_control']}")
    return f"{row['method']} + SemiSAM ({', '.join(parts)})"


def by_class(row: Mapping[Any, Any], metric: str = "dice") -> dict[str, float]:
    """Return a metric of each class, where a table has several."""
    start = f"{metric}:"
    return {
        key.removeprefix(start): value
        for key, value in row.items()
        if key.startswith(start) and not math.isnan(value)
    }


def mean_sd(mean: float, sd: float, between: str = " ") -> str:
    """Return ``62.86 ± 1.20``, without the SD where there is none."""
    return f"{mean:.2f}" if math.isnan(sd) else f"{mean:.2f}{between}± {sd:.2f}"


def gain(row: Mapping[Any, Any], between: str = " ") -> str:
    """Return ``+4.48* [+1.2..+7.9]``: starred where Holm's p is below 0.05, interval over cases."""
    if math.isnan(row["gain_dice"]):
        return ""
    star = "*" if row["gain_p_holm"] < ALPHA else ""
    text = f"{row['gain_dice']:+.2f}{star}"
    if math.isnan(row["gain_low"]):
        return text
    return f"{text}{between}{row['gain_low']:+.1f}..{row['gain_high']:+.1f}"


FORMATS: Mapping[str, Callable[[pd.DataFrame], str]] = {
    "csv": lambda table: table.to_csv(index=False, float_format="%.6g", lineterminator="\n"),
    "md": lambda table: readable(table).to_markdown(index=False, disable_numparse=True) + "\n",
    "latex": lambda table: readable(table).to_latex(index=False, escape=True),
    "html": lambda table: readable(table).to_html(index=False, border=0, escape=True) + "\n",
}
"""Text of a table by the name of its format."""
