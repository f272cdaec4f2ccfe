"""``semisam data``: commands for scans before training."""

from __future__ import annotations

import click

from semisam.cli.main import LazyGroup

COMMANDS: dict[str, tuple[str, str]] = {
    "check": ("semisam.cli.check:command", "Check every file of a folder; list its faults."),
    "first": ("semisam.cli.first:command", "Name the scans to label first."),
    "prepare": ("semisam.cli.prepare:command", "Write the fast form of a folder of scans."),
    "download": ("semisam.cli.download:command", "Download a public benchmark, checked by hash."),
}
"""The module and the ``--help`` line of each command, so that the help imports no command."""


@click.group("data", cls=LazyGroup, table=COMMANDS)
def command() -> None:
    """Download, check and prepare scans."""
