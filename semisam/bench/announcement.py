"""Lines on the data, the settings and the test of a study, before its runs start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from semisam.bench.study import Grid
from semisam.run.build import describe_test, open_dataset
from semisam.run.settings import RunSettings, show_value


def announcement(grids: Sequence[Grid], runs: Sequence[RunSettings]) -> list[str]:
    """Return lines on what the user did not choose, for a person, in the markup of rich.

    Args:
        grids: of the study.
        runs: of the grids, resolved.
    """
    return [*_about_data(grids), *about_settings(grids, runs), *_about_test(runs)]


def _about_data(grids: Sequence[Grid]) -> list[str]:
    if any("data" in grid.settings for grid in grids):
        return []
    return [
        "No --data given: the scans are [bold]generated phantoms[/bold], the embedded default. "
        "Their figures do not apply to real scans."
    ]


def _about_test(runs: Sequence[RunSettings]) -> list[str]:
    """Return a line on the test cases of each way to choose them."""
    ways: dict[tuple[Any, ...], list[RunSettings]] = {}
    for run in runs:
        ways.setdefault((run.test, run.data, repr(run.dataset_options)), []).append(run)
    lines = []
    for alike in ways.values():
        several = len({run.fold for run in alike}) > 1
        run = alike[0].model_copy(update={"fold": None}) if several else alike[0]
        lines.append(describe_test(run, open_dataset(run)))
    return lines


def about_settings(grids: Sequence[Grid], runs: Sequence[RunSettings]) -> list[str]:
    """Return lines on the settings that the user did not give, and their source."""
    lines = []
    for grid in grids:
        suggested = grid.asked.suggested
        free = {key: value for key, value in suggested.items() if key not in grid.settings}
        own = [run for run in runs if run.method in grid.axes.methods]
        told = {k: v for k, v in free.items() if all(getattr(run, k) == v for run in own)}
        if told:
            lines.append(f"Settings fitted to these scans, unless you give others: {_list(told)}.")
        beaten = [key for key in free if key not in told]
        if beaten:
            values = {key: free[key] for key in beaten}
            lines.append(
                f"Protocol {own[0].protocol} replaces values fitted to these scans "
                f"({_list(values)}):"
            )
            by_method = {run.method: {key: getattr(run, key) for key in beaten} for run in own}
            lines += [f"  {method}: {_list(values)}" for method, values in by_method.items()]
    return lines


def _list(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {show_value(value)}" for key, value in sorted(settings.items()))
