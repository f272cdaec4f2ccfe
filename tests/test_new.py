"""``semisam new``: what it writes works, as a third party would use it."""

from __future__ import annotations

import json
import os
import site
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from click.testing import CliRunner

import semisam
from semisam.cli.main import main
from semisam.errors import InputError
from semisam.scaffold import write_project

NAMES = {"framework": "pi-model", "backend": "near-and-like", "prompter": "surest"}


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A fresh environment with the three projects installed, and semisam beside them."""
    root = tmp_path_factory.mktemp("plugins")
    projects = [write_project(kind, name, root) for kind, name in NAMES.items()]
    folder = root / "env"
    venv.create(folder, with_pip=False)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    asked = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(
        subprocess.run(asked, check=True, capture_output=True, encoding="utf-8").stdout.strip()
    )
    # What is installed where the tests run (torch among it) is seen from there, not copied.
    here = [*site.getsitepackages(), str(Path(semisam.__file__).parents[1])]
    lines = [f"import site; site.addsitedir({path!r})" for path in here]
    (packages / "host.pth").write_text("\n".join(lines) + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps"]
    subprocess.run(
        [*pip, "--no-build-isolation", "--no-index", *map(str, projects)],
        check=True,
        capture_output=True,
    )
    return python, projects


def _semisam(python, *args, cwd):
    command = [str(python), "-m", "semisam", *args]
    return subprocess.run(command, capture_output=True, encoding="utf-8", cwd=cwd)


def test_they_are_listed_and_load(environment, tmp_path):
    python, _ = environment
    done = _semisam(python, "plugins", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    listed = {(p["kind"], p["name"]): p for p in json.loads(done.stdout)}
    for kind, name in NAMES.items():
        assert listed[kind, name]["distribution"] == f"semisam-{name}"
    assert _semisam(python, "plugins", "--check", cwd=tmp_path).returncode == 0


def test_they_keep_their_contracts(environment):
    python, projects = environment
    folders = [str(project / "tests") for project in projects]
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *folders]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", cwd=projects[0].parent)
    assert done.returncode == 0, done.stdout[-3000:]


def test_bench_trains_a_third_partys_method_with_its_backend_and_prompter(environment, tmp_path):
    python, _ = environment
    done = _semisam(
        python,
        *("bench", "--method", "pi-model", "--labels", "2", "--sam", "none,near-and-like"),
        *("--prompter", "surest", "--iterations", "2", "--patch", "16x16x16"),
        *("--stride", "16x16x16", "--set", "vnet.filters=2", "--set", "phantom.size=32"),
        *("--set", "phantom.cases=3", "--set", "phantom.test_cases=1"),
        *("--set", "pi-model.noise=0.2", "--out", str(tmp_path / "out")),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    table = (tmp_path / "out" / "table.csv").read_text()
    assert "pi-model,none" in table and "pi-model,near-and-like" in table


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("framework", "My Method", "lower-case words with hyphens"),
        ("framework", "../escape", "lower-case words with hyphens"),
        ("framework", "mt", "an installed framework"),
        ("backend", "none", "reserved"),
    ],
)
def test_names_that_cannot_be(tmp_path, kind, name, words):
    result = CliRunner().invoke(main, ["new", kind, name, "--out", str(tmp_path)])
    assert result.exit_code == 2 and words in result.stderr
    assert not list(tmp_path.iterdir())


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
