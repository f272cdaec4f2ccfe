"""``semisam table``: the comparison of finished runs in several formats."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from semisam.bench.columns import COLUMNS, TableForm
from semisam.cli.help import Choice, Command
from semisam.cli.options import Names

_KEYS = [f"{own.key} ({own.about})" if own.about else own.key for own in COLUMNS.values()]


@click.command(
    "table",
    cls=Command,
    short_help="The comparison table of finished runs, in any format.",
    examples=(
        "semisam table runs/la",
        "semisam table runs/la runs/more -o table.md",
        "semisam table runs/la --rank",
        "semisam table runs/la --columns dice,hd95,gain --label tab:la -o table.tex",
    ),
)
@click.argument("folders", metavar="FOLDER...", nargs=-1, required=True)
@click.option(
    "--format",
    "kind",
    type=Choice(["terminal", "csv", "md", "latex", "html", "xlsx"]),
    help="Format of the table. [default: by the ending of -o, or terminal]",
)
@click.option("--paper/--no-paper", default=True, show_default=True, help="Add the paper's rows.")
@click.option(
    "--columns",
    type=Names(),
    default=(),
    help=f"Columns in this order, of {', '.join(_KEYS)}. [default: those of the format]",
)
@click.option(
    "--rank",
    is_flag=True,
    help="Add the rank of each row by Dice at equal labels, with its 95 % interval.",
)
@click.option("--caption", default="", metavar="TEXT", help="Caption in LaTeX.")
@click.option("--label", default="", metavar="KEY", help="Label in LaTeX, e.g. tab:la.")
@click.option("--cite", is_flag=True, help="Cite in LaTeX; with -o, write the .bib file as well.")
@click.option("-o", "--out", metavar="FILE", help="File: .csv, .md, .tex, .html or .xlsx.")
def command(
    folders: tuple[str, ...],
    kind: str | None,
    paper: bool,
    columns: tuple[str, ...],
    rank: bool,
    caption: str,
    label: str,
    cite: bool,
    out: str | None,
) -> None:
    """Make the comparison table of each FOLDER, the output of `semisam bench`, finished or not.

    The runs of several folders share one table. The paper's figures are added if data and protocol
    are the same, and they are marked. Figures of different protocols are never in one table.
    """
    import pandas as pd

    from semisam.bench import formats, tables
    from semisam.cli.display import console, print_table
    from semisam.core.files import check_no_folder, printable, writable_folder

    form = TableForm(columns, caption, label, cite)
    path = Path(out) if out is not None else None
    if path is not None:
        check_no_folder("-o", path)
    chosen = formats.format_of(kind, path, form)

    def say(text: str) -> None:
        click.echo(printable(text), err=True)

    found = tables.load(
        *map(Path, folders),
        on_fault=lambda fault: say(f"Left out: {fault}"),
        on_left_out=lambda run: say(f"Not in the table: {run.name}, {run.state}: {run.detail}"),
    )
    table = found.table
    if rank or "rank" in columns:
        from semisam.bench.ranking import with_ranks

        if columns and "rank" not in columns:
            form = replace(form, columns=(*columns, "rank"))
        table = with_ranks(table, found)
    told = ""
    if paper:
        rows, told = tables.paper_rows(table, found.results)
        if not rows.empty:  # a note of the table names them
            table, told = pd.concat([table, rows], ignore_index=True), ""
    if chosen == "terminal":
        print_table(table, form.columns)
        if told:
            console.print(told)
    elif path is None:
        click.echo(formats.FORMATS[chosen](table, form), nl=False)
    else:
        writable_folder(path.parent)
        for file in formats.write(table, chosen, form, path):
            click.echo(f"Written: {file}", err=True)
