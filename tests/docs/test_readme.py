"""The commands of the README work word by word, on small scans and with short trainings."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from scan_files import scan, write, write_series

import semisam
from semisam.automatic import plan
from semisam.bench import study
from semisam.cli.main import main
from semisam.run.protocols import PROTOCOLS
from semisam.run.settings import flags_of_settings

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")


def _commands(title: str) -> list[list[str]]:
    """Return the words of the commands of a section."""
    section = README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```console\n(.*?)```", section, re.S)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


def _python(title: str) -> str:
    section = README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    (block,) = re.findall(r"```python\n(.*?)```", section, re.S)
    return block


@pytest.fixture
def short(monkeypatch, tmp_path, in_process):
    """The folder ``scans`` of the README in a working folder, and trainings of two steps."""
    for name in ("iterations", "sam_adapt"):
        monkeypatch.setitem(PROTOCOLS["default"].run, name, 2)
    for name in ("_LEAST", "_MOST", "_ADAPTING"):
        monkeypatch.setattr(plan, name, 2)
    monkeypatch.setattr(plan, "_SHARES", ())
    monkeypatch.chdir(tmp_path)
    scans = tmp_path / "scans"
    for number, case in enumerate(("anna", "ben", "dora", "emil", "carl")):
        image, label = scan(number, (24, 20, 16), classes=2)
        if case == "carl":
            write_series(scans / case, image, (1.0, 1.0, 1.5))
        else:
            write(scans / f"{case}.nii.gz", image, (1.0, 1.0, 1.5))
            write(scans / f"{case}_label.nii.gz", label, (1.0, 1.0, 1.5))
    return tmp_path


@pytest.mark.slow
def test_the_commands_for_your_own_scans(short):
    commands = _commands("Your own scans")
    assert len(commands) == 4
    for program, *words in commands:
        assert program == "semisam"
        found = [sorted(map(str, Path().glob(w))) if "*" in w else [w] for w in words]
        assert all(found), words
        result = CliRunner().invoke(main, [word for several in found for word in several])
        assert result.exit_code == 0, (words, result.output)
    assert (short / "masks" / "index.html").is_file() and (
        short / "masks" / "carl.nii.gz"
    ).is_file()
    assert (short / "runs" / "mine" / "table.csv").is_file()


def test_the_calls_of_python_have_parameters_that_exist():
    found = ast.walk(ast.parse(_python("Your own scans")))
    calls = [node for node in found if isinstance(node, ast.Call)]
    calls = [call for call in calls if ast.unparse(call.func).startswith("semisam.")]
    functions = (semisam.settings, study.bench)
    known = {*flags_of_settings(), *(n for f in functions for n in inspect.signature(f).parameters)}
    for call in calls:
        name = ast.unparse(call.func)
        if name.count(".") > 1:
            continue
        function = getattr(semisam, name.partition(".")[2])
        words = {word.arg: ast.unparse(word.value) for word in call.keywords}
        bound = inspect.signature(function).bind(*map(ast.unparse, call.args), **words)
        assert set(bound.arguments.get("given", {})) <= known, name
    assert len(calls) == 4
