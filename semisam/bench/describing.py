"""All that a run's folder tells of it, finished or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from semisam.bench.sharing import read_progress
from semisam.bench.store import PARTS, RunInfo, read_result, runs_of
from semisam.core.errors import InputError
from semisam.core.layout import LOG, RESULT, SETTINGS

_LOG_END = 65536


def describe(folder: Path, run: RunInfo) -> dict[str, dict[str, Any]]:
    """Return the parts of a run that can be read: settings, options, data, metrics, and so on.

    ``losses`` are those of its last iteration, with its number under ``step``.
    """
    place = runs_of(folder) / run.name
    try:
        result = read_result(place / RESULT)
    except InputError:
        result = {}
    settings = result.get("settings") or read_progress(place / SETTINGS) or {}
    parts = {"settings": settings, "metrics": result.get("metrics", {})}
    parts["losses"] = _last_line(place / LOG)
    parts |= {part: result.get(part, {}) for part in PARTS if part not in parts}
    return parts


def _last_line(path: Path) -> dict[str, Any]:
    """Return the last whole line of a log, reading its end alone."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _LOG_END))
            lines = file.read().splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            figures = json.loads(line)
        except ValueError:  # cut off
            continue
        return figures if isinstance(figures, dict) else {}
    return {}
