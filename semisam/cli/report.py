"""``semisam report``: tables, figures and pictures of a bench folder as one page."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from semisam.cli.help import Command

if TYPE_CHECKING:
    from semisam.bench.report.build import Contents

_SECONDS = 30  # between two looks at the runs, and between two loads of the page
_PATIENCE = 300  # seconds without a run at work after which a study counts as ended


@click.command(
    "report",
    cls=Command,
    short_help="Tables and figures of finished runs, as one page.",
    examples=(
        "semisam report runs/la --open",
        "semisam report runs/la --no-figures --watch",
    ),
)
@click.argument("runs")
@click.option("-o", "--out", metavar="FOLDER", help="Folder of the report.  [default: RUNS/report]")
@click.option(
    "--predict/--no-predict",
    default=True,
    show_default=True,
    help="Segment the test cases shown where no prediction is saved.",
)
@click.option(
    "--all-cases",
    is_flag=True,
    help="Segment every test case for the slices, of one pair of runs per row. It takes as long as "
    "their tests.",
)
@click.option(
    "--cases",
    type=click.IntRange(min=0),
    default=6,
    show_default=True,
    help="Test cases in pictures, at most.",
)
@click.option(
    "--figures/--no-figures",
    default=True,
    show_default=True,
    help="Draw figures, pictures and slices. Without them the page has tables only, in seconds.",
)
@click.option(
    "--watch",
    is_flag=True,
    help="Make the page again whenever a run ends, as long as runs are at work. The page loads "
    "itself again.",
)
@click.option("--open", "show", is_flag=True, help="Open the page in the browser.")
@click.option("--data", metavar="FOLDER", help="Folder of the scans, if they were moved.")
def command(
    runs: str,
    out: str | None,
    predict: bool,
    all_cases: bool,
    cases: int,
    figures: bool,
    watch: bool,
    show: bool,
    data: str | None,
) -> None:
    """Make one HTML page of RUNS, the output folder of `semisam bench`, finished or not.

    The page needs no other file and no network. It has comparison tables to sort, filter and copy,
    gains with their intervals, the slices of test cases, every test case, training curves, a
    methods paragraph with BibTeX, settings and the study file. The folder figures/ next to it has
    each figure as PNG, PDF and SVG, and its numbers as CSV.
    """
    from semisam.bench.report.build import Contents
    from semisam.cli.display import tell
    from semisam.core.errors import InputError

    folder = Path(runs)
    place = folder / "report" if out is None else Path(out)
    if data is not None and not Path(data).is_dir():
        raise InputError(f"--data must be a folder of scans, got {data}. Check the path.")
    if all_cases and not predict:
        raise InputError("--all-cases must come without --no-predict, got both. Leave one out.")
    options = Contents(
        predict=predict,
        all_cases=all_cases,
        figures=figures,
        cases=cases,
        data=None if data is None else Path(data),
        refresh=_SECONDS if watch else 0,
    )
    page = _make(folder, place, options)
    tell(f"Written: {page}")
    if show:
        click.launch(str(page))
    if watch:
        _watch(folder, place, options)


def _make(folder: Path, place: Path, options: Contents) -> Path:
    """Write the page with a progress bar, and return its path."""
    from semisam.bench.report.build import make_report
    from semisam.cli.display import Bars

    with Bars() as bars:
        task, doing = bars.add_task("starting", total=None), ""

        def show(what: str, done: int, total: int) -> None:
            nonlocal task, doing
            if what != doing:
                bars.remove_task(task)
                task, doing = bars.add_task(what, total=total), what
            bars.update(task, completed=done)

        return make_report(folder, place, options, show)


def _watch(folder: Path, place: Path, options: Contents) -> None:
    """Write the page again whenever a run ends, until no run was at work for a while."""
    from semisam.cli.display import tell
    from semisam.run.folder import list_runs

    before = {run.name: run.state for run in list_runs(folder)}
    idle = 0
    while idle < _PATIENCE:  # the next run may be about to start
        time.sleep(_SECONDS)
        runs = list_runs(folder)
        idle = 0 if any(run.state == "running" for run in runs) else idle + _SECONDS
        states = {run.name: run.state for run in runs}
        if states != before:
            _make(folder, place, options)
            before = states
    page = _make(folder, place, replace(options, refresh=0))
    tell(f"No run is at work. Written: {page}")
