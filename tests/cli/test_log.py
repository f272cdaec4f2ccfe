"""The log of a study, and what ``--quiet`` and ``--verbose`` print."""

from __future__ import annotations

import re
from pathlib import Path

from click.testing import CliRunner
from tiny_runs import settings_of

from semisam.bench.executors.contract import Outcome
from semisam.bench.grid import Run
from semisam.cli import display
from semisam.cli.display import GridDisplay
from semisam.cli.log import log, logged
from semisam.cli.main import main
from semisam.core.layout import STUDY_LOG

TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}"


def _show(folder: Path, *, verbose: bool) -> None:
    runs = [Run(settings_of(method=name, labels=2, iterations=4), name) for name in ("mt", "dtc")]
    with GridDisplay(runs, folder) as show, logged(folder, verbose=verbose):
        for run in runs:
            show.started(run)
        show.moved(runs[0], {"phase": "train", "done": 0, "total": 4, "figures": {}})
        show.ended(Outcome(runs[0], "interrupted"))
        show.ended(Outcome(runs[1], "failed", "no memory [left]\nat all"))
        show.note("Runs wait.")
    log("after the block")


def test_the_log_has_every_line_with_its_time(tmp_path, capsys):
    _show(tmp_path, verbose=False)
    lines = (tmp_path / STUDY_LOG).read_text(encoding="utf-8").splitlines()
    assert [re.sub(f"^{TIME} ", "", line) for line in lines] == [
        "DEBUG mt, 2 labeled, seed 0: starts as mt",
        "DEBUG dtc, 2 labeled, seed 0: starts as dtc",
        "DEBUG mt, 2 labeled, seed 0: training, 4 to do",
        "INFO 1/2 mt, 2 labeled, seed 0: not finished",
        "ERROR 2/2 dtc, 2 labeled, seed 0: failed, no memory [left] at all",
        "INFO Runs wait.",
    ]
    assert "training" not in capsys.readouterr().err


def test_verbose_adds_what_the_terminal_lacks(tmp_path, capsys):
    _show(tmp_path, verbose=True)
    out, err = capsys.readouterr()
    assert "training, 4 to do" in err and "not finished" not in err
    assert "not finished" in out


def test_a_second_study_is_appended(tmp_path):
    _show(tmp_path, verbose=False)
    _show(tmp_path, verbose=False)
    assert len((tmp_path / STUDY_LOG).read_text(encoding="utf-8").splitlines()) == 12


def test_a_quiet_bench_prints_errors_only(tmp_path, monkeypatch):
    for console in (display.console, display._errors):
        monkeypatch.setattr(console, "quiet", False)
    given = ["bench", "--method", "center-ball", "--sam", "none", "--device", "cpu", "--quiet"]
    done = CliRunner().invoke(main, [*given, "--labels", "1", "--out", str(tmp_path)])
    assert done.exit_code == 0 and done.output == ""
    assert (tmp_path / "table.csv").is_file() and "1 done" in (tmp_path / STUDY_LOG).read_text()
    wrong = CliRunner().invoke(main, [*given, "--labels", "900", "--out", str(tmp_path)])
    assert wrong.exit_code == 2 and "--labels must be at most" in wrong.output
    both = CliRunner().invoke(main, [*given, "--verbose"])
    assert both.exit_code == 2 and "--quiet must come without --verbose" in both.output
