"""Settings and scores of runs as tests write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from semisam.run.resolve import make_settings
from semisam.run.settings import RunSettings

TINY_NET = ("--network", "vnet", "--set", "vnet.filters=2")
"""Arguments of the narrowest V-Net, whose steps take milliseconds."""


def settings_of(**given: Any) -> RunSettings:
    """Return the resolved settings of a run."""
    return make_settings(given)


def tiny_phantoms(**updates: Any) -> RunSettings:
    """Return the settings of a run of one step on two phantoms, with some others."""
    usual: dict[str, Any] = {
        "dataset_options": {"cases": 2, "test_cases": 1, "size": 32},
        "method": "supervised",
        "labels": 2,
        "network": "vnet",
        "network_options": {"filters": 2},
        "iterations": 1,
        "patch": (16, 16, 16),
        "stride": (16, 16, 16),
    }
    return settings_of(**{**usual, **updates})


def changed(settings: RunSettings, **updates: Any) -> RunSettings:
    """Return settings with some others, resolved once more."""
    decided = {"sources", "sam_sources", "departures", "choices"}
    given = settings.model_dump(
        exclude=decided | ({"prompter"} if settings.sam == "none" else set())
    )
    return make_settings({**given, **updates})


def write_scores(folder: Path, scores: pd.DataFrame) -> None:
    """Replace the scores of a run's test cases, and their number and mean Dice in its result."""
    scores.to_csv(folder / "cases.csv", index=False)
    path = folder / "result.json"
    result = json.loads(path.read_text())
    result["data"]["test"] = scores["case"].nunique()
    result["metrics"]["dice"] = float(scores.groupby("case")["dice"].mean().mean())
    path.write_text(json.dumps(result))
