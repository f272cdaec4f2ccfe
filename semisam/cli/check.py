"""``semisam data check``: the content of a folder of scans, and its faults."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from semisam.cli.help import Command
from semisam.cli.options import dataset_options

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from semisam.data.tools.report import FolderReport


@click.command(
    "check",
    cls=Command,
    short_help="Check every file of a folder of scans; list its faults.",
    examples=(
        "semisam data check scans",
        "semisam data check scans --set folder.labels=255=1",
    ),
)
@click.argument("path", metavar="PATH")
@click.option("--json", "json_file", metavar="FILE", help="Write the report, case by case.")
@dataset_options
def command(
    path: str, json_file: str | None, dataset: str | None, assignments: tuple[str, ...]
) -> None:
    """Report cases, shapes, spacings, classes, intensities and every fault of PATH.

    Each fault names the file and a remedy. The exit code is 1 if there are faults. Nothing in PATH
    is changed. All labels are read, including those that a run would not read.
    """
    import SimpleITK

    from semisam.cli.display import Bars, console, tell
    from semisam.cli.options import named_dataset
    from semisam.core.files import check_parent, write_json
    from semisam.data.tools.check import check_folder
    from semisam.inference.inputs import describe_left_out, unread_entries

    if json_file is not None:
        check_parent("--json", Path(json_file))
    # Its warnings of a damaged file have many lines; the report has one.
    sitk: Any = SimpleITK  # its functions have no types
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    name, options = named_dataset(Path(path), dataset, assignments)
    with Bars() as bars:
        task = bars.add_task("checking", total=None)
        report = check_folder(
            Path(path),
            name,
            options,
            lambda done, total: bars.update(task, completed=done, total=total),
        )
    _print(report, console)
    unread = unread_entries(Path(path), name) if report.cases else []
    for line in describe_left_out("not scans", unread):
        tell(line)
    if json_file is not None:
        write_json(Path(json_file), report.to_json())
    if report.faults:
        raise SystemExit(1)


def _print(report: FolderReport, console: Any) -> None:
    from rich.markup import escape

    cases = report.cases
    labeled = sum(case.labeled for case in cases)
    parts = [sum(case.part == part for case in cases) for part in ("train", "test")]
    console.print(
        f"{escape(report.path)}: dataset [bold]{report.dataset}[/bold], {len(cases)} cases, "
        f"{labeled} labeled and {len(cases) - labeled} unlabeled; {parts[0]} for training, "
        f"{parts[1]} for the test"
    )
    _print_ranges(report, console)
    _print_classes(report, console)
    for fault in report.faults:
        console.print(
            f"[red]Fault[/red] {escape(fault.file)}: {escape(fault.problem)}. "
            f"[bold]To do:[/bold] {escape(fault.remedy)}."
        )
    for note in report.notes:
        console.print(f"[yellow]Note[/yellow] {escape(note)}")
    count = len(report.faults)
    console.print("No faults." if not count else f"{count} fault{'s' if count > 1 else ''}.")


def _print_ranges(report: FolderReport, console: Any) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    read = [case for case in report.cases if case.shape]
    if not read:
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for head in ("", "least", "median", "most"):
        table.add_column(head, justify="left" if not head else "right")
    axes = len(read[0].shape)
    same = [case for case in read if len(case.shape) == axes]
    table.add_row("shape [voxels]", *_each([case.shape for case in same], "{:.0f}"))
    table.add_row("spacing [mm]", *_each([case.spacing for case in same], "{:.4g}"))
    for channel in range(len(read[0].intensities)):
        ranges = [case.intensities[channel] for case in read if channel < len(case.intensities)]
        low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
        name = "intensity" if len(read[0].intensities) == 1 else f"intensity, channel {channel}"
        table.add_row(name, f"{low:.4g}", "", f"{high:.4g}")
    console.print(table)


def _each(rows: Sequence[Sequence[float]], form: str) -> Iterable[str]:
    """Return least, median and most per axis."""
    import statistics

    columns = list(zip(*rows, strict=True))
    for pick in (min, statistics.median, max):
        yield " x ".join(form.format(pick(column)) for column in columns)


def _print_classes(report: FolderReport, console: Any) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    values = sorted({value for case in report.cases for value in case.voxels})
    if not values:
        return
    total = sum(sum(case.voxels.values()) for case in report.cases)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for head in ("class", "name", "labels with it", "voxels", "share"):
        table.add_column(head, justify="left" if head == "name" else "right")
    for value in sorted({*values, *range(len(report.class_names))}):
        known = value < len(report.class_names)
        voxels = sum(case.voxels.get(value, 0) for case in report.cases)
        table.add_row(
            str(value),
            escape(report.class_names[value]) if known else "[red]not a class[/red]",
            str(sum(value in case.voxels for case in report.cases)),
            f"{voxels:,}",
            f"{100 * voxels / total:.2f} %",
        )
    console.print(table)
