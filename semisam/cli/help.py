"""The help of a command: its options in groups, and examples."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

_REST = "Options"


class Option(click.Option):
    """An option with the title of its group in the help.

    Args:
        group: the title.
    """

    def __init__(self, *args: Any, group: str = _REST, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group = group


class Command(click.Command):
    """A command whose help has groups of options, and examples at its end.

    Args:
        examples: command lines.
    """

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options in their groups, those without one last."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                # click puts two spaces before a default, the texts of this program put one.
                shown = (record[0], record[1].replace("  [", " ["))
                groups.setdefault(getattr(parameter, "group", _REST), []).append(shown)
        groups[_REST] = groups.pop(_REST)  # it has --help
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, which are not wrapped."""
        if self.examples:
            with formatter.section("Examples" if len(self.examples) > 1 else "Example"):
                for line in self.examples:
                    formatter.write(f"{' ' * formatter.current_indent}{line}\n")


class AddOption(Protocol):
    """``click.option``."""

    def __call__(self, *names: Any, **kwargs: Any) -> Callable[[F], F]:
        """Return a decorator that adds an option to a command."""


def options_of(group: str) -> AddOption:
    """Return ``click.option`` for the options of a group."""
    return functools.partial(click.option, cls=Option, group=group)
