"""``semisam runs``: the runs of a folder."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from semisam.cli.help import Command
from semisam.core.words import spoken_size

if TYPE_CHECKING:
    from semisam.run.folder import RunFolder

_WIDTH = 80
_COLOURS = {"done": "green", "running": "cyan", "waiting": "blue", "stopped": "yellow"}


@click.group("runs")
def command() -> None:
    """List and show the runs of a folder."""


@command.command(
    "list",
    cls=Command,
    short_help="Every run: state, method, labels, Dice, age, size.",
    examples=("semisam runs list runs/la",),
)
@click.argument("folder")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def list_command(folder: str, as_json: bool) -> None:
    """List the runs of FOLDER, the --out of `semisam bench` or any folder of run folders.

    A run has one state. done: it has a result. running: another process holds it. waiting: it has
    not begun. stopped: the same command resumes it. failed: the reason is shown. damaged: one of
    its files cannot be read, and it is in no table.
    """
    from semisam.run.folder import list_runs

    runs = list_runs(Path(folder))
    if as_json:
        _print_json({"folder": folder, "runs": [run.summary() for run in runs]})
        return
    # Without rich, which takes a millisecond a row; there may be ten thousand rows.
    click.echo("\n".join(_table(runs)))


@command.command(
    "show",
    cls=Command,
    short_help="One run: settings, metrics, cost, last losses, versions.",
    examples=("semisam runs show runs/la#0123",),
)
@click.argument("run")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def show_command(run: str, as_json: bool) -> None:
    """Show all of one RUN: its path, FOLDER#HASH, or the start of its path."""
    from semisam.run.folder import find_run, read_run

    found = read_run(find_run(run))
    parts = found.describe()
    if as_json:
        _print_json({**found.summary(), **parts})
        return
    click.echo("\n".join(_described(found, parts)))


def _table(runs: list[RunFolder]) -> Iterator[str]:
    """Yield lines of at most 80 columns."""
    yield (
        f"{'run':<8} {'method':<21} {'lab':>3} {'sub':>3} {'seed':>4} {'state':<17} {'Dice':>5} "
        f"{'age':>3} {'size':>8}"
    )
    now = time.time()
    for run in runs:
        detail = run.detail.rpartition(" ")[2] if run.state in ("running", "stopped") else ""
        state = f"{run.state} {detail}".rstrip()
        if len(state) > 17:
            state = state[:16] + "…"
        method = run.method if len(run.method) <= 21 else run.method[:20] + "…"
        dice = "" if run.dice is None else f"{100 * run.dice:.2f}"
        coloured = click.style(f"{state:<17}", fg=_COLOURS.get(run.state, "red"))
        yield (
            f"{run.short:<8} {method:<21} {_text(run, 'labels'):>3} {_text(run, 'subset'):>3} "
            f"{_text(run, 'seed'):>4} {coloured} {dice:>5} {_age(now - run.modified):>3} "
            f"{spoken_size(run.size):>8}"
        )
        if run.state in ("failed", "damaged"):
            yield from _wrapped(run.detail, " " * 9)
    states = [run.state for run in runs]
    counts = [f"{states.count(state)} {state}" for state in dict.fromkeys(states)]
    yield f"{len(runs)} run{'s' * (len(runs) != 1)}" + (": " if runs else "") + ", ".join(counts)


def _described(run: RunFolder, parts: Mapping[str, Any]) -> Iterator[str]:
    yield click.style(run.name, bold=True)
    state = click.style(run.state, fg=_COLOURS.get(run.state, "red"))
    yield from _wrapped(f"{state} {run.detail}".rstrip())
    yield f"{spoken_size(run.size)}, last changed {_age(time.time() - run.modified)} ago"
    for title, values in parts.items():
        if not values:
            continue
        yield ""
        yield click.style(title, bold=True)
        widest = max(len(key) for key in values)
        for key, value in values.items():
            head = f"  {key:<{widest}}  "
            lines = _wrapped(_value(value), " " * len(head)) or [head]
            yield from (head + lines[0][len(head) :], *lines[1:])


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        numbers = all(isinstance(item, int) for item in value)
        return ("x" if numbers else ", ").join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{key}={_value(item)}" for key, item in value.items()) or "-"
    return "-" if value is None else str(value)


def _print_json(value: Any) -> None:
    import json

    click.echo(json.dumps(value, indent=2))


def _text(run: RunFolder, name: str) -> str:
    value = run.whole(name)
    return "" if value is None else str(value)


def _age(seconds: float) -> str:
    """Return ``45s``, ``12m``, ``3h``, ``40d``."""
    for unit, size, most in (("s", 1, 100), ("m", 60, 100), ("h", 3600, 48)):
        if seconds < most * size:
            return f"{max(0, int(seconds / size))}{unit}"
    return f"{int(seconds / 86400)}d"
