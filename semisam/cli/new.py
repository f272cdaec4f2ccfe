"""``semisam new``: the start of a new plugin."""

from __future__ import annotations

import click

from semisam.cli.help import Choice, Command
from semisam.plugins.registry import GROUPS


@click.command(
    "new",
    cls=Command,
    short_help="Start a plugin: a project with a working part and its tests.",
    examples=("semisam new framework pi-model",),
)
@click.argument("kind", type=Choice(list(GROUPS)))
@click.argument("name")
@click.option(
    "--out", default=".", show_default=True, metavar="FOLDER", help="Folder of the project."
)
def command(kind: str, name: str, out: str) -> None:
    """Write an installable project for a KIND called NAME, e.g. `semisam new framework pi-model`.

    The project works at once. Install it, run its tests, and semisam lists it. Then change it.
    """
    from pathlib import Path

    from semisam.plugins.scaffold import write_project

    folder = write_project(kind, name, Path(out))
    click.echo(
        f"Written: {folder}\nNext: pip install -e '{folder}[test]' && pytest {folder} && "
        f"semisam plugins {name}"
    )
