"""``semisam data``: what is done to scans before training."""

from __future__ import annotations

import click

from semisam.cli.main import LazyGroup

COMMANDS: dict[str, tuple[str, str]] = {
    "check": ("semisam.cli.check:command", "Look at every file of a folder; say what is wrong."),
    "prepare": ("semisam.cli.prepare:command", "Write the fast form of a folder of scans."),
    "download": ("semisam.cli.download:command", "Download a public benchmark, checked by hash."),
}
"""Name: where the command is, and its line in ``--help``, so that the help imports none."""


@click.group("data", cls=LazyGroup, table=COMMANDS)
def command() -> None:
    """Download, check and prepare scans."""
