"""The whole example of each page for plugin authors keeps its contract, and is short."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest

import semisam

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = ("framework", "backend", "prompter", "network", "dataset", "logger")


def blocks(page: str) -> tuple[str, str]:
    """Return the plugin and its test, the blocks that begin with the name of a file."""
    text = (DOCS / f"writing-a-{page}.md").read_text(encoding="utf-8")
    named = re.findall(r"```python\n(# \w+\.py\n.*?)```", text, re.DOTALL)
    plugin, test = named
    return plugin, test


@pytest.fixture
def page(request: Any, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType(f"page_of_{request.param}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile("".join(blocks(request.param)), module.__name__, "exec"), vars(module))
    return module


@pytest.mark.parametrize("page", PAGES, indirect=True)
def test_the_example_keeps_its_contract(page: types.ModuleType):
    (contract,) = (value for name, value in vars(page).items() if name.startswith("Test"))
    tests = [name for name in dir(contract) if name.startswith("test_")]
    assert len(tests) > 8
    for name in tests:
        getattr(contract(), name)()


@pytest.mark.parametrize("page", PAGES)
def test_the_example_has_at_most_25_lines_of_code(page: str):
    code = re.sub(r'""".*?"""', "", blocks(page)[0], flags=re.DOTALL)
    lines = [line for line in code.splitlines() if line.strip() and line[0] != "#"]
    assert len(lines) <= 25


def modules_of_the_api() -> list[str]:
    table = (DOCS / "plugin-api.md").read_text(encoding="utf-8").split("| --- | --- |")[1]
    cells = [line.split("|")[1] for line in table.split("\n\n")[0].splitlines() if line]
    return [name for cell in cells for name in re.findall(r"`([\w.]+)`", cell)]


def test_plugins_of_the_project_import_only_from_the_api():
    templates = Path(semisam.__file__).parent / "plugins" / "templates"
    texts = [path.read_text(encoding="utf-8") for path in templates.glob("*.py.txt")]
    texts += [text for page in PAGES for text in blocks(page)]
    known = tuple(modules_of_the_api())
    for text in texts:
        for name in re.findall(r"^from (semisam[\w.]*) import", text, re.MULTILINE):
            assert name in known or name.startswith(("semisam.core.", "semisam.testing")), name


def test_the_page_states_the_version():
    text = (DOCS / "plugin-api.md").read_text(encoding="utf-8")
    assert f"`semisam.api_version` is {semisam.api_version}." in text
