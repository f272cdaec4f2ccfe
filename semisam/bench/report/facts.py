"""The facts to reproduce the runs: settings, seeds, versions, hashes and the study file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from semisam.bench.report.runs import Bench, Part
from semisam.core.layout import STUDY
from semisam.run.folder import RunFolder
from semisam.run.settings import show_value


def study(bench: Bench) -> str:
    """Return the text of the folder's study file, or an empty text if it has no such file."""
    try:
        return (bench.folder / STUDY).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def settings_tables(bench: Bench) -> tuple[list[tuple[str, str]], list[dict[str, str]]]:
    """Return the settings that all finished runs have in common, and each run with its others."""
    runs = _finished(bench)
    flat = {run.path.name: _flat(run) for run in runs}
    names = list(dict.fromkeys(name for values in flat.values() for name in values))
    common = [
        (name, next(iter(flat.values()))[name])
        for name in names
        if len({values.get(name) for values in flat.values()}) == 1
    ]
    same = {name for name, _ in common}
    others = [
        {"run": folder, **{n: values.get(n, "") for n in names if n not in same}}
        for folder, values in flat.items()
    ]
    return common, others


def _flat(run: RunFolder) -> dict[str, str]:
    assert run.result is not None
    found = {
        name: _shown(value)
        for name, value in run.settings.items()
        if name not in ("data", "checkpoint_every", "save_predictions")
    }
    data: Mapping[str, Any] = run.result["data"]
    for name in ("hash", "split_hash", "labeled_cases", "test", "note"):
        value = data.get(name, "")
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        # The first digits distinguish the hashes of one table; results.csv has the full hashes.
        found[f"data: {name}"] = text[:16] if name.endswith("hash") else text
    for name, value in run.result.get("versions", {}).items():
        found[f"version: {name}"] = str(value)
    return found


def _shown(value: Any) -> str:
    if value is None or value == {}:
        return "–"
    if isinstance(value, dict):
        return ", ".join(f"{key}={show_value(v)}" for key, v in value.items())
    if isinstance(value, list) and any(isinstance(v, str) for v in value):
        return ", ".join(value)
    return show_value(value)


def cost(part: Part) -> list[dict[str, str]]:
    """Return the cost of the rows: seconds of training, memory, SAM's share and calls a run."""
    found = []
    for row in part.rows:
        figures = row.figures
        share, calls = figures.get("sam_seconds_share"), figures.get("sam_calls")
        found.append(
            {
                "Method": row.name,
                "Labeled": str(row.labels),
                "Training [s]": f"{figures['train_seconds']:.0f}",
                "Peak memory [GiB]": f"{figures['peak_memory_gib']:.2f}",
                "SAM's share of the time [%]": _number(share, 100.0),
                "Calls of SAM": _number(calls, 1.0),
            }
        )
    return found


def _number(value: Any, scale: float) -> str:
    return "" if value is None or value != value else f"{scale * value:.0f}"


def _finished(bench: Bench) -> list[RunFolder]:
    return [run for run in bench.runs if run.state == "done"]
