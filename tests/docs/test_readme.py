"""The commands and the Python of the README work word by word, on small scans, in two steps."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from scan_files import scan, write, write_series

from semisam.automatic import plan
from semisam.cli.main import main
from semisam.run.protocols import PROTOCOLS

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
    assert (short / "predicted" / "carl.nii.gz").is_file()
    assert (short / "runs" / "mine" / "table.csv").is_file()


@pytest.mark.slow
def test_the_lines_of_python(short):
    shutil.copy(short / "scans" / "anna.nii.gz", short / "scan.nii.gz")
    found = {}
    exec(compile(_python("Your own scans"), "README.md", "exec"), found)
    assert found["found"].labelmap.shape == (24, 20, 16)
    assert sorted(set(found["table"]["labeled"])) == [1, 2]
    assert set(found["table"]["method"]) == {"supervised", "fixmatch"}
