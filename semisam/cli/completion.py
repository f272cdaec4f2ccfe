"""``semisam completion``."""

from __future__ import annotations

import click

from semisam.cli.help import Choice, Command


@click.command(
    "completion",
    cls=Command,
    short_help="The script that completes commands in your shell.",
    examples=("semisam completion bash >> ~/.bashrc",),
)
@click.argument("shell", type=Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the script that completes commands, options, plugins and protocols."""
    from click.shell_completion import get_completion_class

    from semisam.cli.main import main

    made = get_completion_class(shell)
    if made is None:
        raise click.ClickException(f"click must know the shell {shell}, got none. Update click.")
    click.echo(made(main, {}, "semisam", "_SEMISAM_COMPLETE").source())
