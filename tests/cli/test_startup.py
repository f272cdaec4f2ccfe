"""``semisam --help`` and ``semisam plugins`` start without the heavy libraries."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys

import pytest

from semisam import __version__
from semisam.cli.main import COMMANDS

HEAVY = (
    "torch",
    "pandas",
    "numpy",
    "scipy",
    "pydantic",
    "skimage",
    "SimpleITK",
    "transformers",
    "rich.progress",
    "matplotlib",
    "jinja2",
)

# Refuses instead of looking afterwards: an import that is swallowed by a try would still count.
GUARDED = """
import sys
class Guard:
    def find_spec(self, name, path=None, target=None):
        if name in {heavy!r}:
            sys.exit("imported " + name)
sys.meta_path.insert(0, Guard())
from semisam.cli.main import run
sys.argv = ["semisam", *{args!r}]
run()
"""


def guarded(*args: str, allowed: str = "") -> subprocess.CompletedProcess[str]:
    heavy = tuple(name for name in HEAVY if name != allowed)
    code = GUARDED.format(heavy=heavy, args=list(args))
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False, timeout=60
    )


@pytest.mark.parametrize(
    "args",
    [
        ["--help"],
        ["--version"],
        ["plugins"],
        ["plugins", "--json"],
        ["plugins", "--help"],
        ["report", "--help"],
    ],
)
def test_starts_without_heavy_imports(args: list[str]):
    done = guarded(*args)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_guard_guards():
    done = guarded("plugins", "mt")  # describing a plugin imports it
    assert done.returncode == 1
    assert "imported " in done.stderr


def test_help_lists_every_command_and_imports_none():
    done = guarded("--help")
    for name, (_, line) in COMMANDS.items():
        assert name in done.stdout
        assert line in done.stdout


def test_every_command_is_where_the_table_says():
    for target, _ in COMMANDS.values():
        module, attribute = target.split(":")
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not written yet")
        assert hasattr(importlib.import_module(module), attribute)


def test_module_and_version():
    done = subprocess.run(
        [sys.executable, "-m", "semisam", "--version"],
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert done.stdout.strip() == f"semisam, version {__version__}"


def test_runs_are_listed_without_heavy_imports(tmp_path):
    run = tmp_path / "runs" / "mt-n2"
    run.mkdir(parents=True)
    (run / "settings.json").write_text(
        '{"labels": 2, "method": "mt", "sam": "none", "iterations": 9}'
    )
    for command in (["list", str(tmp_path)], ["show", str(tmp_path / "mt")]):
        done = guarded("runs", *command, allowed="pydantic")
        assert done.returncode == 0 and "waiting" in done.stdout, done.stderr


def test_the_help_of_a_table_names_its_columns_without_pandas():
    done = guarded("table", "--help", allowed="pydantic")
    assert "hd95, sd (over cases), classes" in " ".join(done.stdout.split()), done.stderr
