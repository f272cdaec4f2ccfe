"""``semisam plugins``: the installed plugins, a check that they work, and their options."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import Any

import click

from semisam import __version__
from semisam.cli.help import Choice, Command
from semisam.core.errors import PluginError
from semisam.plugins import registry
from semisam.plugins.registry import GROUPS, Plugin
from semisam.run.protocols import BRANCH, PROTOCOLS, Protocol


@click.command(
    "plugins",
    cls=Command,
    examples=(
        "semisam plugins mt",
        "semisam plugins --check",
    ),
)
@click.argument("name", required=False)
@click.option("--kind", type=Choice(list(GROUPS)), help="Only plugins of this kind.")
@click.option("--check", is_flag=True, help="Construct each plugin; exit with 1 if one fails.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
@click.pass_context
def command(
    ctx: click.Context, name: str | None, kind: str | None, check: bool, as_json: bool
) -> None:
    """List the installed plugins, or describe the plugin NAME with its options.

    NAME may be semisam, the branch.
    """
    if name == BRANCH and kind is None and not check:
        described = [_describe_branch()]
        click.echo(json.dumps(described, indent=2)) if as_json else _print_described(described)
        return
    found = [p for k in ([kind] if kind else GROUPS) for p in registry.all_plugins(k)]
    if name is not None:
        found = _named(found, name)
    checks = _checks(found) if check else None
    if name is not None and not check:
        described = [_describe(p) for p in found]
        click.echo(json.dumps(described, indent=2)) if as_json else _print_described(described)
    elif as_json:
        click.echo(json.dumps(_rows(found, checks), indent=2))
    else:
        _print_table(found, checks)
    if checks is not None and not all(result.startswith("ok") for result in checks):
        ctx.exit(1)


def _named(found: list[Plugin], name: str) -> list[Plugin]:
    names = {p.name for p in found}
    if name not in names and len(registry.members("backend", name)) > 1:
        return [registry.find("backend", name)]
    if name not in names:
        raise PluginError(
            f"NAME must be an installed plugin, got {name!r}{registry.nearest(name, names)}. "
            "See `semisam plugins`."
        )
    return [p for p in found if p.name == name]


def _checks(found: list[Plugin]) -> list[str]:
    # A check must not download weights. The library reads this when it is imported.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from semisam.testing.plugins import check_plugin

    return [check_plugin(plugin) for plugin in found]


def _rows(found: list[Plugin], checks: list[str] | None) -> list[dict[str, Any]]:
    rows = [asdict(p) for p in found]
    for row, result in zip(rows, checks or [], strict=False):
        row["check"] = result
    return rows


def _describe(plugin: Plugin) -> dict[str, Any]:
    described: dict[str, Any] = asdict(plugin)
    if plugin.problem:
        return described
    from semisam.plugins import options as _options

    try:
        loaded = registry.load_plugin(plugin)
    except PluginError as error:
        return described | {"problem": str(error)}
    described["summary"] = _options.summary(loaded)
    described["prompts"] = sorted(registry.prompt_kinds(plugin.kind, loaded))
    found = registry.describe_options(plugin.kind, plugin.name)
    return described | {"options": [_option(option) for option in found]}


def _option(option: registry.Option) -> dict[str, str]:
    return {
        "name": option.name,
        "type": option.type,
        "default": "required" if option.required else repr(option.default),
        "doc": option.doc,
    }


def _describe_branch() -> dict[str, Any]:
    """Return the SemiSAM branch as a plugin is described, which it is not."""
    from semisam.frameworks.semisam import SemiSAM
    from semisam.plugins import options as _options

    value = f"{SemiSAM.__module__}:{SemiSAM.__qualname__}"
    about = Plugin("branch", BRANCH, value, "semisam", __version__, builtin=True)
    found = registry.described_options(SemiSAM)
    parts = {"summary": _options.summary(SemiSAM), "prompts": []}
    return asdict(about) | parts | {"options": [_option(option) for option in found]}


def _print_table(found: list[Plugin], checks: list[str] | None) -> None:
    heads = ["kind", "name", "distribution", "origin", "problem"]
    rows = [
        [
            p.kind,
            p.name,
            f"{p.distribution} {p.version}",
            "built-in" if p.builtin else p.value,
            p.problem or "",
        ]
        for p in found
    ]
    if checks is not None:
        heads[-1] = "check"
        rows = [[*row[:-1], result] for row, result in zip(rows, checks, strict=True)]
    elif not any(p.problem for p in found):
        heads, rows = heads[:-1], [row[:-1] for row in rows]
    _print_rows(heads, rows)


def _print_described(described: list[dict[str, Any]]) -> None:
    for plugin in described:
        click.echo(
            f"{plugin['kind']} {plugin['name']}: {plugin['value']} "
            f"({plugin['distribution']} {plugin['version']})"
        )
        if plugin["problem"]:
            click.echo(f"Refused: {plugin['problem']}\n")
            continue
        click.echo(_plain(plugin["summary"]))
        if plugin["prompts"]:
            what = "Accepts" if plugin["kind"] == "backend" else "Makes"
            click.echo(f"{what} prompts of the kinds: {', '.join(plugin['prompts'])}")
        heads = ["name", "type", "default", "doc"]
        if options := plugin["options"]:
            _print_rows(heads, [[_plain(option[head]) for head in heads] for option in options])
            first = options[0]
            # A list or an object has no form that a command line takes as it is printed.
            plain = first["default"][0] not in "([{" and first["default"] != "required"
            value = first["default"].strip("'") if plain else "VALUE"
            click.echo(f"Set one by --set {plugin['name']}.{first['name']}={value}")
            for name, protocol in _protocols():
                methods = protocol.methods if plugin["kind"] == "framework" else {}
                branch = {BRANCH: protocol.semisam} if plugin["kind"] == "branch" else {}
                if own := {**methods, **branch}.get(plugin["name"]):
                    values = ", ".join(f"{key}={value}" for key, value in own.items())
                    click.echo(f"--protocol {name} sets {values}")
        else:
            click.echo("No options.")
        click.echo()


def _protocols() -> list[tuple[str, Protocol]]:
    """Return the protocols by the text that names them, also those for two axes."""
    flat = {f"{name} (2-D)": protocol.flat for name, protocol in PROTOCOLS.items()}
    return [*PROTOCOLS.items(), *((name, found) for name, found in flat.items() if found)]


def _plain(text: str) -> str:
    """Return a docstring without markup, for a terminal."""
    return text.replace("``", "")


def _print_rows(heads: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console = Console(width=200)  # a pipe has no width: do not fold at 80
    table = Table(*(head.capitalize() for head in heads))
    for row in rows:
        table.add_row(*(Text(cell, overflow="fold") for cell in row))  # Text: no markup in names
    console.print(table)
