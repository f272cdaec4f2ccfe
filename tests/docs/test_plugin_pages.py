"""The whole example of each page for plugin authors is installed, keeps its contract, is short."""

from __future__ import annotations

import importlib.util
import re
import sys
import types
from pathlib import Path

import pytest
from plugin_wheels import install_wheels

import semisam
from semisam.plugins.registry import GROUPS, find
from semisam.testing.plugins import check_plugin

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = ("framework", "backend", "prompter", "network", "dataset", "logger")


def blocks(page: str) -> tuple[str, str]:
    """Return the plugin and its test, the blocks that begin with the name of a file."""
    text = (DOCS / f"writing-a-{page}.md").read_text(encoding="utf-8")
    named = re.findall(r"```python\n(# \w+\.py\n.*?)```", text, re.DOTALL)
    plugin, test = named
    return plugin, test


def file_of(block: str) -> str:
    """Return the name of a block's file without its ending."""
    return block.split()[1].removesuffix(".py")


PROJECT = """
[build-system]
requires = ["hatchling>=1.25"]
build-backend = "hatchling.build"

[project]
name = "semisam-pages"
version = "1.0"

[tool.hatch.build.targets.wheel]
include = ["*.py"]
"""


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the examples of all pages, installed from one wheel."""
    project = tmp_path_factory.mktemp("pages") / "project"
    project.mkdir()
    text = PROJECT
    for page in PAGES:
        plugin = blocks(page)[0]
        module, (cls,) = file_of(plugin), re.findall(r"^class (\w+)", plugin, re.MULTILINE)
        (project / f"{module}.py").write_text(plugin, encoding="utf-8")
        text += f'\n[project.entry-points."{GROUPS[page]}"]\n{module} = "{module}:{cls}"\n'
    (project / "pyproject.toml").write_text(text, encoding="utf-8")
    return install_wheels([project], project.parent)


@pytest.fixture
def on_path(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(installed)
    return installed


def module_of_test(page: str, folder: Path) -> types.ModuleType:
    """Import the test of a page from a file."""
    text = blocks(page)[1]
    path = folder / f"{file_of(text)}.py"
    path.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES)
def test_the_example_is_installed_and_can_be_constructed(on_path: Path, page: str):
    name = file_of(blocks(page)[0])
    assert check_plugin(find(page, name)).startswith("ok")
    assert Path(str(sys.modules[name].__file__)).parent == on_path


@pytest.mark.parametrize("page", PAGES)
def test_the_example_keeps_its_contract(on_path: Path, tmp_path: Path, page: str):
    found = vars(module_of_test(page, tmp_path))
    (contract,) = (value for name, value in found.items() if name.startswith("Test"))
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
