"""``semisam report``: tables, figures and pictures of a bench folder as one page."""

from __future__ import annotations

from pathlib import Path

import click

from semisam.cli.help import Command


@click.command(
    "report",
    cls=Command,
    short_help="Tables and figures of finished runs, as one page.",
    examples=("semisam report runs/la",),
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
    "--cases",
    type=click.IntRange(min=0),
    default=6,
    show_default=True,
    help="Test cases in pictures, at most.",
)
@click.option("--data", metavar="FOLDER", help="Folder of the scans, if they were moved.")
def command(runs: str, out: str | None, predict: bool, cases: int, data: str | None) -> None:
    """Make one HTML page of RUNS, the output folder of `semisam bench`, finished or not.

    The page needs no other file. It has comparison tables, Dice against labels, every test case,
    training curves, the quality of SAM's predictions, pictures of test cases, settings and the
    study file. The folder figures/ next to it has each figure as PNG and PDF.
    """
    from semisam.bench.report.build import Contents, make_report
    from semisam.cli.display import console, progress_bars
    from semisam.core.errors import InputError

    folder = Path(runs)
    place = folder / "report" if out is None else Path(out)
    if data is not None and not Path(data).is_dir():
        raise InputError(f"--data must be a folder of scans, got {data}. Check the path.")
    options = Contents(predict, cases, None if data is None else Path(data))
    with progress_bars() as bars:
        task, doing = bars.add_task("starting", total=None), ""

        def show(what: str, done: int, total: int) -> None:
            nonlocal task, doing
            if what != doing:
                bars.remove_task(task)
                task, doing = bars.add_task(what, total=total), what
            bars.update(task, completed=done)

        page = make_report(folder, place, options, show)
    console.print(f"Written: {page}", soft_wrap=True)
