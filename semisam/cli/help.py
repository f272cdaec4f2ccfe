"""The help of a command: its options in groups, and examples; its wrong words, and its paths."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

if TYPE_CHECKING:
    _Choice = click.Choice[str]
else:  # not generic before click 8.2
    _Choice = click.Choice

_REST = "Options"
_PATHS = {
    *("DST", "FILE", "FOLDER", "INPUT", "MASK", "MASKS", "PATH", "PREDICTIONS"),
    *("RUN", "RUNS", "SCAN", "SCANS", "SRC", "STUDY", "TRUTH"),
}
"""The words for a path in a help text, which a shell completes."""


class Choice(_Choice):
    """A type of a word out of a few."""

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """Return the word; name the nearest one instead of a wrong one."""
        if value in self.choices:
            return str(value)
        from semisam.plugins.registry import nearest

        near = nearest(str(value), self.choices)
        self.fail(f"it must be one of {', '.join(self.choices)}, got {value!r}{near}", param, ctx)


class Suggesting(click.Command):
    """A command that names the nearest option instead of a wrong one."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, and give the message of a wrong option the form of all others."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            from semisam.plugins.registry import nearest

            known = [name for parameter in self.get_params(ctx) for name in parameter.opts]
            long = [name for name in known if name.startswith("--")]
            name = error.option_name
            ctx.fail(f"No such option {name!r}{nearest(name, long)}.")


class Option(click.Option):
    """An option with the title of its group in the help.

    Args:
        group: the title.
    """

    def __init__(self, *args: Any, group: str = _REST, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group = group


class Command(Suggesting):
    """A command whose help has groups of options, and examples at its end.

    A shell completes a path for each parameter whose word in the help is one of a path.

    Args:
        examples: command lines.
    """

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)
        for parameter in self.params:
            word = (parameter.metavar or parameter.name or "").upper().strip("[].")
            if word in _PATHS and isinstance(parameter.type, type(click.STRING)):
                parameter.type = click.Path(readable=False)

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
