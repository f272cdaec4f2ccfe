"""``semisam new``: what it writes works, as a third party would use it."""

from __future__ import annotations

import json
import tomllib

import pytest
from click.testing import CliRunner

from semisam import api_version
from semisam.cli.main import main
from semisam.core.errors import InputError
from semisam.plugins.scaffold import write_project

NAMES = {
    "framework": "pi-model",
    "backend": "near-and-like",
    "prompter": "surest",
    "network": "small-u",
    "dataset": "npz",
    "logger": "lines",
}


def test_they_are_listed_and_load(plugin_environment, tmp_path):
    done = plugin_environment.semisam("plugins", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    listed = {(p["kind"], p["name"]): p for p in json.loads(done.stdout)}
    for kind, name in NAMES.items():
        assert listed[kind, name]["distribution"] == f"semisam-{name}"
    assert plugin_environment.semisam("plugins", "--check", cwd=tmp_path).returncode == 0


def test_they_keep_their_contracts(plugin_environment):
    """Those of all kinds but the framework, which is the documentation's example."""
    done = plugin_environment.test("near-and-like", "surest", "small-u", "npz", "lines")
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.slow
def test_bench_trains_with_a_third_partys_plugins(plugin_environment, tmp_path):
    done = plugin_environment.semisam(
        *("bench", "--method", "pi-model", "--labels", "2", "--sam", "near-and-like"),
        *("--prompter", "surest", "--iterations", "2", "--patch", "16x16x16"),
        *("--stride", "16x16x16", "--network", "small-u", "--set", "small-u.width=2"),
        *("--set", "phantom.size=32"),
        *("--set", "phantom.cases=3", "--set", "phantom.test_cases=1"),
        *("--out", str(tmp_path / "out")),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pi-model,near-and-like" in (tmp_path / "out" / "table.csv").read_text()


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("framework", "My Method", "lower-case words with hyphens"),
        ("framework", "../escape", "lower-case words with hyphens"),
        ("framework", "mt", "an installed method"),
        ("backend", "none", "reserved"),
    ],
)
def test_names_that_cannot_be(tmp_path, kind, name, words):
    result = CliRunner().invoke(main, ["new", kind, name, "--out", str(tmp_path)])
    assert result.exit_code == 2 and words in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_project_states_the_versions_that_it_fits(tmp_path):
    folder = write_project("network", "mine", tmp_path)
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["dependencies"] == ["semisam>=0.1.0,<0.2"]
    assert project["entry-points"]["semisam.api"] == {str(api_version): "semisam_mine"}


def test_a_project_is_never_overwritten(tmp_path):
    folder = write_project("prompter", "mine", tmp_path)
    (folder / "README.md").write_text("my own words")
    with pytest.raises(InputError, match="must not exist yet"):
        write_project("prompter", "mine", tmp_path)
    assert (folder / "README.md").read_text() == "my own words"


def test_what_is_written_is_clean_python(tmp_path):
    for kind, name in NAMES.items():
        for path in write_project(kind, name, tmp_path).rglob("*.py"):
            assert "$" not in path.read_text()
            compile(path.read_text(), str(path), "exec")
