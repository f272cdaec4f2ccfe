"""The entry point of the command line: a group that imports a command when it is invoked."""

from __future__ import annotations

import importlib
import traceback
from typing import Any

import click

from semisam import __version__
from semisam.errors import InputError, PluginError, SemisamError

COMMANDS: dict[str, tuple[str, str]] = {
    "bench": (
        "semisam.cli.bench:command",
        "Compare methods, with and without SemiSAM.",
    ),
    "train": ("semisam.cli.train:command", "Train one method on one labeled subset."),
    "evaluate": ("semisam.cli.evaluate:command", "Score a trained method on the test cases."),
    "predict": ("semisam.cli.predict:command", "Segment volumes with a trained method."),
    "zero-shot": (
        "semisam.cli.zero_shot:command",
        "Ask promptable models alone, by clicks from the truth.",
    ),
    "pretrain": ("semisam.cli.pretrain:command", "Train SynthSAM from synthetic volumes."),
    "plugins": ("semisam.cli.plugins:command", "List what is installed, and its options."),
    "new": ("semisam.cli.new:command", "Start a plugin of your own."),
}
"""Name: where the command is, and its line in ``--help``, so that the help imports none."""


class LazyGroup(click.Group):
    """A group that imports a command when it is invoked, and ends errors in one sentence."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the table's order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        """Import one command."""
        if cmd_name not in COMMANDS:
            from semisam.plugins import nearest

            ctx.fail(f"No such command {cmd_name!r}{nearest(cmd_name, COMMANDS)}.")
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table, importing none."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; 2: the user's input, 130: interrupted; bugs keep their traceback."""
        try:
            return super().invoke(ctx)
        except SemisamError as error:
            if ctx.params.get("debug"):
                click.echo(traceback.format_exc(), err=True)
            click.echo(f"Error: {error}", err=True)
            ctx.exit(2 if isinstance(error, InputError | PluginError) else 1)
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(130)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="semisam")
@click.option(
    "--debug", is_flag=True, envvar="SEMISAM_DEBUG", help="Show the traceback of an error."
)
def main(debug: bool) -> None:
    """Semi-supervised medical image segmentation with a promptable foundation model."""


def run() -> None:
    """Run the command line; the console script's entry point."""
    main(prog_name="semisam")
