"""The scripts and notebooks under docs/examples run as they are printed."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import matplotlib
import pandas as pd
import pytest

from semisam.automatic import plan

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"


def test_the_notebook_is_short():
    lines = (EXAMPLES / "notebook.py").read_text().splitlines()
    code = [line for line in lines if line.strip() and not line.startswith(('"""', "#"))]
    assert len(code) < 15


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_an_example_runs(name, monkeypatch, tmp_path, capsys, in_process):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    printed = capsys.readouterr().out
    assert "(48, 48, 40) ('background', 'atrium')" in printed
    assert "supervised" in printed


SMALL = {
    "first-table": {
        "iterations": 2,
        "phantoms": {"phantom.cases": 3, "phantom.test_cases": 2, "phantom.size": 32},
    },
    "own-scans": {"budget": 1, "size": 32},
}


@pytest.fixture
def notebook(request, monkeypatch, tmp_path, in_process):
    """The variables of a notebook after its code cells, run with smaller settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plan, "_LEAST", 2)
    before = matplotlib.get_backend()
    matplotlib.use("agg")
    cells = json.loads((EXAMPLES / f"{request.param}.ipynb").read_text(encoding="utf-8"))["cells"]
    found = {"__name__": "notebook"}
    for cell in cells:
        if cell["cell_type"] == "code":
            assert not cell["outputs"]
            exec(compile("".join(cell["source"]), request.param, "exec"), found)
            if "parameters" in cell["metadata"].get("tags", ()):
                assert SMALL[request.param].keys() <= found.keys()
                found |= SMALL[request.param]
    yield found
    matplotlib.use(before)


def test_every_notebook_has_small_settings():
    assert {path.stem for path in EXAMPLES.glob("*.ipynb")} == set(SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("notebook", ["first-table"], indirect=True)
def test_the_notebook_of_a_first_table(notebook):
    table = notebook["table"]
    assert table[["sam", "labeled"]].to_numpy().tolist() == [
        ["none", 1], ["synthsam", 1], ["none", 2], ["synthsam", 2],
    ]  # fmt: skip
    assert notebook["found"].labelmap.shape == notebook["truth"].shape


@pytest.mark.slow
@pytest.mark.parametrize("notebook", ["own-scans"], indirect=True)
def test_the_notebook_of_own_scans(notebook, tmp_path):
    assert len(list((tmp_path / "masks").glob("*.nii.gz"))) == 4
    assert len(notebook["volumes"]) == 6 and isinstance(notebook["volumes"], pd.DataFrame)
    assert (tmp_path / "clicked.nii.gz").is_file()
