"""``semisam table``: the comparison of finished runs in several formats."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("table", short_help="The comparison table of finished runs, in any format.")
@click.argument("folder")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["terminal", "csv", "md", "latex", "html"]),
    default="terminal",
    show_default=True,
)
@click.option("--paper/--no-paper", default=True, show_default=True, help="Add the paper's rows.")
@click.option("-o", "--out", metavar="FILE", help="Write to a file instead of printing.")
def command(folder: str, kind: str, paper: bool, out: str | None) -> None:
    """Make the comparison table of FOLDER, the output of `semisam bench`, finished or not.

    The paper's figures are added if data and protocol are the same, and they are marked. Figures of
    different protocols are never in one table.
    """
    import pandas as pd

    from semisam.bench import tables
    from semisam.cli.display import console, print_table
    from semisam.core.errors import InputError
    from semisam.core.files import replace_file, writable_folder

    if out is not None and kind == "terminal":
        raise InputError("-o must come with --format csv, md, latex or html, got -o only. Add one.")
    table, results = tables.load(
        Path(folder), lambda fault: click.echo(f"Left out: {fault}", err=True)
    )
    told = ""
    if paper:
        rows, told = tables.paper_rows(table, results)
        if not rows.empty:
            table = pd.concat([table, rows], ignore_index=True)
    if kind == "terminal":
        print_table(table)
        if told:
            console.print(told)
        return
    text = tables.FORMATS[kind](table)
    if out is None:
        click.echo(text, nl=False)
        return
    path = Path(out)
    writable_folder(path.parent)
    with replace_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    click.echo(f"Written: {path}", err=True)
