"""The plugin that is at fault is named: where its code fails, and where it is not installed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from grid_runs import runs_in_this_process, words
from tiny_runs import TINY_NET, tiny_phantoms

from semisam.cli.main import main
from semisam.core.errors import InputError
from semisam.plugins.blame import note_plugin
from semisam.plugins.registry import GROUPS
from semisam.run.execute import execute
from semisam.run.model import load_run

METHOD = """
from semisam.frameworks.supervised import Supervised

class Fails(Supervised):
    def training_step(self, batch, clock):
        return super().training_step(None, clock)

class Works(Supervised):
    pass
"""
NOTE = "of distribution theirs 1.2 (method 'fails', method 'works'). Report it there."
PHANTOMS = ("--set", "phantom.size=32", "--set", "phantom.cases=2", "--set", "phantom.test_cases=1")
TINY = ("--patch", "16x16x16", "--stride", "16x16x16", "--iterations", "1", *TINY_NET, *PHANTOMS)


@pytest.fixture
def theirs(install: Callable[..., Path]) -> Path:
    methods = {"fails": "their_package:Fails", "works": "their_package:Works"}
    return install("theirs", {GROUPS["framework"]: methods}, modules={"their_package": METHOD})


def test_a_training_names_the_plugin_that_fails(theirs: Path, tmp_path: Path):
    given = ["train", "--method", "fails", "--labels", "2", *TINY, "--out", str(tmp_path / "run")]
    with pytest.raises(AttributeError) as fault:
        CliRunner().invoke(main, given, catch_exceptions=False)
    (note,) = fault.value.__notes__
    # Their code called semisam's, which failed: their line counts, not the innermost one.
    assert note == f"Raised in {theirs / 'their_package.py'}, line 6, {NOTE}"


def test_a_grid_names_the_plugin_that_fails(theirs: Path, tmp_path: Path):
    given = ["bench", "--method", "fails", "--labels", "2", "--sam", "none", *TINY]
    with runs_in_this_process():
        result = CliRunner().invoke(main, [*given, "--out", str(tmp_path / "runs")])
    assert result.exit_code == 1
    assert NOTE in words(result.output)


def test_an_error_of_other_code_gets_no_note(theirs: Path):
    with pytest.raises(ZeroDivisionError) as fault:
        1 / 0  # noqa: B018
    note_plugin(fault.value)
    assert not hasattr(fault.value, "__notes__")


def test_a_run_of_a_plugin_that_was_removed(theirs: Path, tmp_path: Path):
    run = tmp_path / "run"
    execute(tiny_phantoms(method="works"), run)
    load_run(run)
    shutil.rmtree(theirs / "theirs-1.2.dist-info")
    with pytest.raises(InputError) as fault:
        load_run(run)
    assert str(fault.value) == (
        "the plugins of a run must be installed, got none for its method 'works', which was of "
        "distribution theirs 1.2. Install it: pip install theirs==1.2"
    )
