"""The pages of the site: links, navigation, commands, and a page for every plugin."""

from __future__ import annotations

import csv
import re
import shlex
from pathlib import Path
from posixpath import dirname, join, normpath

import click
import pytest
import site_hooks as docs
import yaml
from site_pages import FOLDERS, builtins, commands, pictures

from semisam.cli import options as cli_options
from semisam.cli.main import main
from semisam.core import layout
from semisam.core.errors import PluginError
from semisam.plugins import options, registry
from semisam.run.settings import flags_of_settings

ROOT = Path(__file__).resolve().parents[2]

PAGES = {page.site: page for page in docs.pages()}
PLACES = docs.places_of(list(PAGES.values()))
OTHERS = [
    docs.Page(name, name, (ROOT / name).read_text(encoding="utf-8")) for name in ["README.md"]
]


def written(page):
    """Return whether a page is a file of the repository, and not made from the program."""
    return (ROOT / page.source).is_file()


def anchors(text: str) -> set[str]:
    """The anchors of the headings of a page, as GitHub and MkDocs name them."""
    blocks = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    heads = re.findall(r"^#+ (.*)$", blocks, re.M)
    plain = [re.sub(r"[^\w\s-]", "", head.lower()).strip() for head in heads]
    return {re.sub(r"[-\s]+", "-", head) for head in plain}


@pytest.mark.parametrize("page", [*PAGES.values(), *OTHERS], ids=lambda page: page.site)
def test_every_link_leads_somewhere(page):
    for target in docs.links(page.text):
        path, _, anchor = target.partition("#")
        there = docs.in_repository(page.source, path) if path else page.source
        assert there in PLACES or (ROOT / there).exists(), target
        if written(page) and there not in PLACES.keys() - {p.source for p in PAGES.values()}:
            assert (ROOT / there).exists(), f"{target} is in the site only"
        if anchor:
            assert anchor in anchors((ROOT / there).read_text(encoding="utf-8")), target


def test_a_broken_link_would_be_found():
    page = docs.Page(
        "a.md", "docs/a.md", "[one](nowhere.md), [two\nlines](data.md#no-such) `[c](d)`"
    )
    assert docs.links(page.text) == ["nowhere.md", "data.md#no-such"]
    assert docs.in_repository(page.source, "nowhere.md") not in PLACES
    assert "no-such" not in anchors((ROOT / "docs" / "data.md").read_text(encoding="utf-8"))


def test_links_of_the_site_stay_in_it():
    for page in PAGES.values():
        for target in docs.links(docs.relink(page, PLACES)):
            path = target.partition("#")[0]
            there = normpath(join(dirname(page.site), path)) if path else page.site
            assert there in PLACES.values(), (page.site, target)


def test_plugins_in_tables_link_to_their_pages():
    (methods,) = (page for page in docs.pages() if page.site == "methods.md")
    text = docs.relink(methods, PLACES)
    assert "[`fixmatch`](methods/fixmatch.md)" in text and "[`semisam`](methods/semisam.md)" in text


def _named(nav):
    for item in nav:
        if isinstance(item, dict):
            (value,) = item.values()
            yield from _named(value if isinstance(value, list) else [value])
        else:
            yield item


def test_every_page_is_in_the_navigation_once():
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    named = list(_named(docs.expanded(nav, list(PAGES))))
    assert sorted(named) == sorted(PAGES)


@pytest.mark.parametrize("kind", registry.GROUPS)
def test_every_plugin_has_a_page_with_its_options_and_papers(kind):
    for name in builtins(kind):
        text = PAGES[f"{FOLDERS[kind]}/{name}.md"].text
        loaded = registry.load(kind, name)
        assert options.summary(loaded)[:40] in " ".join(text.split())
        for option in options.parameters(kind, loaded):
            assert f"| `{option}` |" in text
        for number in re.findall(r"arxiv.org/abs/([\d.]+\d)", text):
            assert f"eprint = {{{number}}}" in text, f"{name}: papers.bib lacks {number}"


def test_pictures_are_on_their_pages():
    drawn = dict(pictures())
    assert len([path for path in drawn if path.startswith("prompters/")]) == 8
    for path in drawn:
        page = PAGES[path.replace(".png", ".md")]
        assert f"]({path.rpartition('/')[2]})" in page.text
        assert f"]({path})" in PAGES["gallery.md"].text
    for path in ("prompters/box+points.png", "datasets/phantom.png", "gallery.png"):
        assert drawn[path]().startswith(b"\x89PNG")


def test_the_overviews_name_every_plugin():
    for kind in ("framework", "backend", "prompter"):
        for name in builtins(kind):
            assert f"| [`{name}`](" in PAGES[f"{FOLDERS[kind]}.md"].text


def test_results_are_those_of_the_tables():
    with (ROOT / "benchmarks" / "results" / "la_half_default.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["method"] == "fixmatch"]
    assert len(rows) > 3
    for row in rows:
        dice = f"{float(row['dice']):.1f} ± {float(row['dice_sd_cases']):.1f}"
        line = f"| {row['labeled']} | `{row['sam']}` | {row['runs']} | {dice} |"
        assert line in PAGES["methods/fixmatch.md"].text
    assert "| 1 | 81.0 ± 3.4 | published |" in PAGES["promptable-models/synthsam.md"].text
    assert "## Results" not in PAGES["prompters/box.md"].text


def test_the_reference_has_every_setting_command_and_file():
    for name in flags_of_settings():
        assert f"`{name}`" in PAGES["reference/settings.md"].text
    for path, _ in commands(main, "semisam"):
        assert f"## {path}\n" in PAGES["reference/cli.md"].text
    files = [value for name, value in vars(layout).items() if name.isupper()]
    assert len(files) > 10
    for file in files:
        assert f"`{file}`" in PAGES["run-files.md"].text


def test_messages_of_troubleshooting_are_those_of_the_program():
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "semisam").rglob("*.py"))
    code = re.sub(r'"\s*f?"', "", code)
    rows = re.findall(r"^\| (`.*?`) \|", PAGES["troubleshooting.md"].text, re.M)
    assert len(rows) > 5
    for row in rows:
        for message in re.findall(r"`([^`]+)`", row):
            assert message in code, message


def _console(page):
    for block in re.findall(r"^ *```(?:console|bash)\n(.*?)```", page.text, re.M | re.S):
        lines = re.sub(r"\\\n", " ", block).splitlines()
        yield from (line.split(" # ")[0].split(" >> ")[0].split(" > ")[0].strip() for line in lines)


COMMANDS = [
    (page.site, line)
    for page in [*PAGES.values(), *OTHERS]
    if written(page)
    for line in _console(page)
    if line.startswith("semisam ")
]


OF_EXAMPLES = {"pi-model", *(path.name for path in (ROOT / "docs/examples/plugins").iterdir())}
"""Plugins that the pages install, and that are not installed here."""


@pytest.fixture(autouse=True)
def examples(monkeypatch):
    """Let the program know the plugins of the pages by name."""
    check = cli_options._check_name
    monkeypatch.setattr(
        cli_options,
        "_check_name",
        lambda kind, name: None if name in OF_EXAMPLES else check(kind, name),
    )


def parsed(line: str) -> None:
    """Parse a command as the program does, without its execution."""
    command, words = main, shlex.split(line)[1:]
    while isinstance(command, click.Group) and words[0] not in ("-h", "--help"):
        words = words[words[0] == "--debug" :]
        command = command.get_command(click.Context(command), words[0])
        words = words[1:]
        assert command is not None, line
    with command.make_context("semisam", list(words)) as context:
        given = context.params.get("assignments") or ()
    for text in given:
        place, _, name = text.partition("=")[0].rpartition(".")
        known = [kind for kind in registry.GROUPS if place in registry.list_plugins(kind)]
        if place != "semisam" and not (ROOT / "docs" / "examples" / "plugins" / place).is_dir():
            assert any(
                name in options.parameters(kind, registry.load(kind, place)) for kind in known
            ), f"{text} is no option"


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=lambda text: text)
def test_a_command_of_a_page_exists(page, line):
    parsed(line)


@pytest.mark.parametrize(
    "line", ["semisam bnch", "semisam bench --labls 1", "semisam bench --set mt.decay=1"]
)
def test_a_wrong_command_would_be_found(line):
    with pytest.raises((click.ClickException, PluginError, AssertionError)):
        parsed(line)


def test_every_command_has_an_example_that_exists():
    for path, command in commands(main, "semisam"):
        if isinstance(command, click.Group):
            continue
        assert command.examples and command.examples[0].startswith(f"{path} "), path
        for example in command.examples:
            parsed(re.split(" >+ ", example)[0])
            assert f"\n  {example}\n" in PAGES["reference/cli.md"].text


def test_the_pages_hold_commands():
    assert len(COMMANDS) > 50
