"""Pages of the documentation site that are made from the program itself.

A page of each plugin, the command line, the settings, the protocols and the Python API come from
entry points, docstrings and signatures, so they cannot be out of date.
"""

from __future__ import annotations

import csv
import functools
import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from site_pictures import has_picture, picture, results

import semisam
from semisam.bench.papers import cited_by
from semisam.cli.main import main
from semisam.cli.options import usual_value
from semisam.frameworks.semisam import SemiSAM
from semisam.plugins import options, registry
from semisam.run.model import trains_network
from semisam.run.protocols import PROTOCOLS, Protocol
from semisam.run.settings import GROUPS, flags_of_settings, show_value

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
FOLDERS = {
    "framework": "methods",
    "backend": "promptable-models",
    "prompter": "prompters",
    "network": "networks",
    "dataset": "datasets",
    "logger": "loggers",
}
"""The folder of the site that has the pages of a kind of plugin."""
_PICTURES = {
    "prompter": "Left: a scan, and a proposal that is wrong at places (yellow). Right: its "
    "uncertainty, and the prompt of all rounds: positive clicks (green), negative clicks (red), a "
    "box (blue), a mask (orange). Between rounds `geodesic` predicts.",
    "backend": "A phantom in three planes, with one click at the deepest point of the organ "
    "(green), the truth (white) and the prediction (orange).",
    "dataset": "A slice of a phantom of each kind of organs, with the outline of each class.",
}
RESULTS = {
    "la_half_default": "600 iterations",
    "la_half_methods": "200 iterations, a short schedule that ranks no methods",
}
"""Tables under ``benchmarks/results`` with rows of methods."""


def generated() -> Iterator[tuple[str, str]]:
    """Yield path in the site and text of each page."""
    yield "methods/semisam.md", plugin_page("framework", "semisam", SemiSAM)
    for kind, folder in FOLDERS.items():
        for name in builtins(kind):
            yield f"{folder}/{name}.md", plugin_page(kind, name, registry.load(kind, name))
    yield "gallery.md", gallery_page()
    yield "reference/plugins.md", plugins_page()
    yield "reference/cli.md", cli_page()
    yield "reference/settings.md", settings_page()
    yield "reference/protocols.md", protocols_page()
    yield "reference/api.md", api_page()
    for path in sorted((DOCS / "examples").glob("*.ipynb")):
        yield f"examples/{path.stem}.md", notebook_page(path)


@functools.cache  # each page asks for them
def pages_of_plugins() -> dict[str, str]:
    """Return the page of the site by the source file of its plugin, as paths in the repository."""
    made = [("methods/semisam.md", SemiSAM)]
    for kind, folder in FOLDERS.items():
        made += [(f"{folder}/{n}.md", registry.load(kind, n)) for n in builtins(kind)]
    return {Path(inspect.getfile(plugin)).relative_to(ROOT).as_posix(): at for at, plugin in made}


def pictures() -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yield path in the site of each picture, and a function that draws it."""
    for kind, folder in FOLDERS.items():
        for name in builtins(kind):
            if has_picture(kind, name):
                yield f"{folder}/{name}.png", functools.partial(picture, kind, name)
    rows = [row for row in _measured("la_half_default") if not _apart(row)]
    yield "gallery.png", functools.partial(results, rows)


def _apart(row: Mapping[str, str]) -> bool:
    """Return whether a row is a control, or of a method that trains nothing."""
    return bool(row["sam_control"]) or not trains_network(row["method"])


def gallery_page() -> str:
    """Return the pictures of all pages on one, with links to the pages."""
    parts = [
        "# Gallery",
        "`make docs` draws every picture of this page. `semisam report` makes such pictures of "
        "your own runs, with a viewer of slices ([Compare methods](compare.md#the-report)).",
        "## Dice against labels",
        "![Dice against labels](gallery.png)",
        "The Left Atrium at half resolution, 20 test scans, 600 iterations, one or two runs each. "
        "[Benchmarks](../benchmarks/README.md) has intervals, commands and caveats.",
    ]
    titles = {"dataset": "Phantoms", "prompter": "Prompts", "backend": "Predictions by one click"}
    for kind, title in titles.items():
        parts += [f"## {title}", _PICTURES[kind]]
        for name in builtins(kind):
            if has_picture(kind, name):
                place = f"{FOLDERS[kind]}/{name}"
                parts.append(f"[`{name}`]({place}.md)\n\n![{name}]({place}.png)")
    return "\n\n".join(parts) + "\n"


def builtins(kind: str) -> list[str]:
    """Return the names of the built-in plugins of a kind."""
    return [name for name, plugin in registry.list_plugins(kind).items() if plugin.builtin]


def plugin_page(kind: str, name: str, loaded: Any) -> str:
    """Return the page of a plugin: description, paper, options, protocols, results, BibTeX."""
    module = inspect.getmodule(loaded)
    above = inspect.getdoc(module) or ""
    doc = inspect.getdoc(loaded) or ""
    source = (module.__name__ if module else "").replace(".", "/")
    lead = f"**{above.splitlines()[0]}**" if above else ""
    parts = [f"# {name}", lead, _prose(doc)]
    if has_picture(kind, name):
        parts.append(f"![{name}]({name}.png)\n\n{_PICTURES[kind]}")
    parts += [_references(above), _options(kind, name, loaded)]
    parts += [_in_protocols(kind, name), _results(kind, name), _bibtex(loaded)]
    parts.append(f"Source: `{source}.py`")
    return "\n\n".join(part for part in parts if part) + "\n"


def _prose(doc: str) -> str:
    """Return a docstring's text without its sections, with headings at the differences."""
    text = re.split(r"^(?:Args|Raises|Shape|Attributes|Returns|Example):$", doc, flags=re.M)[0]
    differs = r"(?:(?<=^)|(?<=\. ))Differs from the ([\w ]+?)(?: \(([^)\n]*)\))?:\s*"

    def heading(match: re.Match[str]) -> str:
        of = f"\n\nThe code is {match[2]}." if match[2] else ""
        return f"\n\n## Differences from the {match[1]}{of}\n\n{match[3].upper()}"

    text = re.sub(differs + r"(.)", heading, text.strip(), flags=re.M)
    return re.sub(r" *\n{3,}", "\n\n", text).strip()


def _references(doc: str) -> str:
    found = re.search(r"^References:\n((?:    .*\n?|\n)+)", doc, re.M)
    if found is None:
        return ""
    text = " ".join(found[1].split())
    return "## Paper\n\n" + re.sub(r"https?://[^\s,)]*[^\s,).]", r"<\g<0>>", text)


def _options(kind: str, name: str, loaded: Any) -> str:
    docs = options.documented_arguments(loaded)
    rows = [
        (
            f"`{p.name}`",
            f"`{p.type_name}`",
            "required" if p.required else f"`{_shown(p.default)}`",
            docs.get(p.name, ""),
        )
        for p in options.parameters(kind, loaded).values()
    ]
    if not rows:
        return "## Options\n\nIt has no options."
    first = next(iter(options.parameters(kind, loaded)))
    how = f"Set one by `--set {name}.{first}=VALUE`."
    return f"## Options\n\n{how}\n\n" + _table(("option", "type", "default", "meaning"), rows)


def _shown(value: Any) -> str:
    return show_value(value) if isinstance(value, tuple | Mapping) else f"{value}"


def _in_protocols(kind: str, name: str) -> str:
    rows = []
    for title, protocol in _protocols():
        places = {"framework": protocol.methods, "backend": protocol.backends}
        own = dict(places.get(kind, protocol.prompters if kind == "prompter" else {}).get(name, {}))
        if name == "semisam":
            own = dict(protocol.semisam)
        if own:
            rows.append((f"`{title}`", _pairs(own)))
    if not rows:
        return ""
    return "## In the protocols\n\n" + _table(("protocol", "options that it sets"), rows)


def _protocols() -> Iterator[tuple[str, Protocol]]:
    for name, protocol in PROTOCOLS.items():
        yield name, protocol
        if protocol.flat is not None:
            yield f"{name}, two axes", protocol.flat


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"`{key}={show_value(value)}`" for key, value in values.items())


def _results(kind: str, name: str) -> str:
    if kind == "framework":
        rows = _method_rows(name)
        columns = ("labels", "SAM", "runs", "Dice ± SD over scans", "gain (95 % over scans)", "how")
        text = (
            "On the Left Atrium at half resolution, published split, 20 test scans. One or two "
            "runs say little about differences below a point. "
            "[Benchmarks](../../benchmarks/README.md) has commands and caveats."
        )
    elif kind == "backend":
        rows, columns = _model_rows(name), ("clicks", "Dice ± SD over scans", "kind of clicks")
        text = (
            "On the Left Atrium at half resolution, 20 test scans, three seeds, clicks simulated "
            "from the truth (`table1_la_half.csv`). [Benchmarks](../../benchmarks/README.md#"
            "promptable-models-by-clicks) has commands and caveats."
        )
    else:
        return ""
    return f"## Results\n\n{text}\n\n{_table(columns, rows)}" if rows else ""


def _method_rows(name: str) -> list[tuple[str, ...]]:
    found = []
    for file, how in RESULTS.items():
        for row in _measured(file):
            if row["method"] == name and not row["sam_control"]:
                gain = f"{float(row['gain_dice']):+.1f}" if row["gain_dice"] else ""
                if row["gain_low"]:
                    gain += f" ({float(row['gain_low']):+.1f} to {float(row['gain_high']):+.1f})"
                dice = f"{float(row['dice']):.1f} ± {float(row['dice_sd_cases']):.1f}"
                sam = f"`{row['sam']}`" + ", as it is" * ("sam_adapt=0" in row["departures"])
                how_made = f"`{row['protocol']}`, {how}"
                found.append((row["labeled"], sam, row["runs"], dice, gain, how_made))
    return found


def _model_rows(name: str) -> list[tuple[str, ...]]:
    return [
        (
            row["points"],
            f"{float(row['dice']):.1f} ± {float(row['dice_sd']):.1f}",
            row["clicks"],
        )
        for row in _measured("table1_la_half")
        if row["model"] == name and row["source"] == "measured"
    ]


def _measured(name: str) -> list[dict[str, str]]:
    with (ROOT / "benchmarks" / "results" / f"{name}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _bibtex(loaded: Any) -> str:
    entries = "\n\n".join(paper.text for paper in cited_by(loaded))
    return f"## BibTeX\n\n```bibtex\n{entries}\n```" if entries else ""


def plugins_page() -> str:
    """Return the list of the built-in plugins of every kind."""
    parts = [
        "# Plugins",
        "`semisam plugins` prints this list with the plugins of other distributions.",
    ]
    for kind, folder in FOLDERS.items():
        rows = [
            (f"[`{name}`](../{folder}/{name}.md)", options.summary(registry.load(kind, name)))
            for name in builtins(kind)
        ]
        parts += [f"## {folder.replace('-', ' ').capitalize()}", _table(("name", "purpose"), rows)]
    return "\n\n".join(parts) + "\n"


def cli_page() -> str:
    """Return the help of every command, as the program prints it."""
    parts = ["# Command line", "The output of `--help` of each command."]
    for path, command in commands(main, "semisam"):
        context = click.Context(command, info_name=path, terminal_width=96, max_content_width=96)
        parts += [f"## {path}", f"```text\n{command.get_help(context)}\n```"]
    return "\n\n".join(parts) + "\n"


def commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """Yield the words and the object of a command and of all below it."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None:
                yield from commands(below, f"{path} {name}")


def settings_page() -> str:
    """Return the settings of a run: option, name, default and meaning."""
    parts = [
        "# Settings",
        "Every setting of a run has an option of `semisam train` and `semisam bench`, a key in the "
        "settings of a `study.toml`, and a keyword of `semisam.train` and `semisam.bench`. "
        "The defaults are those of the [protocol](protocols.md) `default`. Another one, or the "
        "data, may set another value. The run's `settings.json` holds the values that it had.",
    ]
    flags = flags_of_settings()
    for group, names in GROUPS.items():
        rows = []
        for name in names:
            default = flags[name].default or f"`{_shown(usual_value(name))}`"
            rows.append((f"`--{name.replace('_', '-')}`", f"`{name}`", default, flags[name].help))
        parts += [f"## {group}", _table(("option", "name", "default", "meaning"), rows)]
    return "\n\n".join(parts) + "\n"


def protocols_page() -> str:
    """Return the values that each protocol sets."""
    parts = ["# Values of the protocols", "[Protocols](../protocols.md) explains them."]
    for name, protocol in _protocols():
        rows = [("run", _pairs(protocol.run))]
        for kind in ("runs", "methods", "backends", "prompters"):
            noun = {"runs": "run of ", "methods": "method "}.get(kind, kind[:-1] + " ")
            given = getattr(protocol, kind).items()
            rows += [(f"{noun}`{place}`", _pairs(values)) for place, values in given if values]
        rows += [("branch", _pairs(protocol.semisam))] if protocol.semisam else []
        rows += [
            (f"not as its source, {f'`{place}`' if place else 'all'}", _pairs(values))
            for place, values in protocol.unlike.items()
        ]
        note = f"{protocol.note[0].upper()}{protocol.note[1:]}."
        parts += [f"## {name}", note, _table(("place", "values"), rows)]
    return "\n\n".join(parts) + "\n"


def api_page() -> str:
    """Return the names of the package, with directives of mkdocstrings."""
    parts = ["# Python API", "The names of the package `semisam`, each imported when it is used."]
    for name in semisam.__all__:
        # semisam.bench is the package, which can be called as its function.
        if callable(getattr(semisam, name)):
            parts.append(f"::: semisam{'.bench.running' * (name == 'bench')}.{name}")
    return "\n\n".join(parts) + "\n"


def notebook_page(path: Path) -> str:
    """Return a notebook as Markdown."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    parts = []
    for cell in cells:
        text = "".join(cell["source"]).strip()
        parts.append(f"```python\n{text}\n```" if cell["cell_type"] == "code" else text)
    parts.append(f"The notebook is `docs/examples/{path.name}`.")
    return "\n\n".join(parts) + "\n"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
