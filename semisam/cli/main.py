"""The entry point of the command line: a group that imports a command when it is invoked."""

from __future__ import annotations

import contextlib
import errno
import importlib
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import click

from semisam import __version__
from semisam.cli.help import Suggesting
from semisam.core.errors import InputError, PluginError, SemisamError, SemisamWarning

COMMANDS: dict[str, tuple[str, str]] = {
    "auto": ("semisam.cli.auto:command", "From scans and a few masks to masks of all scans."),
    "bench": (
        "semisam.cli.bench:command",
        "Compare methods, with and without SemiSAM.",
    ),
    "table": ("semisam.cli.table:command", "The table of finished runs, in any format."),
    "report": ("semisam.cli.report:command", "Tables and figures of finished runs, as one page."),
    "runs": ("semisam.cli.runs:command", "List the runs of a folder, or show one."),
    "train": ("semisam.cli.train:command", "Train one method on one labeled subset."),
    "evaluate": ("semisam.cli.evaluate:command", "Score a trained method on the test cases."),
    "predict": ("semisam.cli.predict:command", "Segment volumes with a trained method."),
    "click": ("semisam.cli.click:command", "Segment what is clicked at in one scan."),
    "serve": ("semisam.cli.serve:command", "Serve SynthSAM to viewers of scans."),
    "score": ("semisam.cli.score:command", "Score a folder of masks against another."),
    "export": ("semisam.cli.export:command", "Write a trained model as one file, with a card."),
    "zero-shot": (
        "semisam.cli.zero_shot:command",
        "Score promptable models by clicks from the truth.",
    ),
    "adapt": ("semisam.cli.adapt:command", "Adapt a promptable model to labeled scans."),
    "pretrain": ("semisam.cli.pretrain:command", "Train SynthSAM from synthetic volumes."),
    "data": ("semisam.cli.data:command", "Download, check and prepare scans."),
    "plugins": ("semisam.cli.plugins:command", "List the installed plugins and their options."),
    "new": ("semisam.cli.new:command", "Start a new plugin."),
    "info": ("semisam.cli.info:command", "Versions, devices and plugins, for a report of a fault."),
    "completion": (
        "semisam.cli.completion:command",
        "The script that completes commands in your shell.",
    ),
}
"""The module and the ``--help`` line of each command, so that the help imports no command."""


class LazyGroup(Suggesting, click.Group):
    """A group that imports a command when it is invoked.

    Args:
        table: its commands, as in `COMMANDS`.
    """

    def __init__(
        self, *args: Any, table: Mapping[str, tuple[str, str]] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.table = dict(table or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the table's order."""
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        """Import one command."""
        if cmd_name not in self.table:
            from semisam.plugins.registry import nearest

            ctx.fail(f"No such command {cmd_name!r}{nearest(cmd_name, self.table)}.")
        module, _, attribute = self.table[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table, without an import."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self.table.items()])


@contextlib.contextmanager
def _plain_notes() -> Iterator[None]:
    """Print each warning of semisam once, as a sentence without the line of code that gave it."""
    before = warnings.formatwarning
    seen: set[str] = set()

    def plain(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        line: str | None = None,
    ) -> str:
        text = str(message)
        if not issubclass(category, SemisamWarning):
            return before(message, category, filename, lineno, line)
        shown = "" if text in seen else f"Note: {text}\n"
        seen.add(text)
        return shown

    warnings.formatwarning = plain
    try:
        yield
    finally:
        warnings.formatwarning = before


class MainGroup(LazyGroup):
    """The outermost group, which prints errors in one sentence."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; exit with 2 after wrong input, with 130 after an interrupt."""
        try:
            with _plain_notes():
                return super().invoke(ctx)
        except SemisamError as error:
            if ctx.params.get("debug"):
                click.echo(traceback.format_exc(), err=True)
            from semisam.core.files import printable

            click.echo(printable(f"Error: {error}"), err=True)
            ctx.exit(2 if isinstance(error, InputError | PluginError) else 1)
        except OSError as error:
            if error.errno == errno.EPIPE:  # click ends quietly
                raise
            if ctx.params.get("debug"):
                click.echo(traceback.format_exc(), err=True)
            from semisam.core.files import printable, system_fault

            click.echo(printable(f"Error: {system_fault(error)}"), err=True)
            ctx.exit(1)
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(130)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            if "torch" in sys.modules and not ctx.params.get("debug"):
                from semisam.training.accumulation import is_out_of_memory, too_little

                if is_out_of_memory(error):
                    click.echo(f"Error: {too_little(error)}", err=True)
                    ctx.exit(1)
            from semisam.plugins.blame import note_plugin

            note_plugin(error)
            raise


@click.group(
    cls=MainGroup, table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="semisam")
@click.option(
    "--debug", is_flag=True, envvar="SEMISAM_DEBUG", help="Show the traceback of an error."
)
def main(debug: bool) -> None:
    """Semi-supervised medical image segmentation with a promptable foundation model."""


def _after_thread(args: threading.ExceptHookArgs) -> None:
    """Print what ended a thread, other than an error of the system.

    TensorBoard's thread raises that again at the next write, and the command ends with a sentence.
    """
    if not isinstance(args.exc_value, OSError):
        threading.__excepthook__(args)


def run() -> None:
    """Run the command line; the console script's entry point."""
    threading.excepthook = _after_thread
    try:
        main(prog_name="semisam")
    except SystemExit as stop:
        # Only the commands that need it import it.
        processes = sys.modules.get("semisam.training.processes")
        if processes is None or not isinstance(stop.code, int):
            raise
        processes.end(stop.code)
