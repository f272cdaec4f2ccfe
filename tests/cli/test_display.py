import io
from pathlib import Path

import pytest
from rich.console import Console
from tiny_runs import settings_of

from semisam.bench.grid import Run
from semisam.cli import display
from semisam.cli.display import Bars, GridDisplay, PhaseDisplay, tell


class Clock:
    """A time that only the test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(display.console, "get_time", clock)
    monkeypatch.setattr(display.time, "monotonic", clock)
    return clock


def test_without_a_terminal_a_line_every_half_minute_says_how_long_the_rest_takes(clock, capsys):
    with Bars() as bars:
        task = bars.add_task("adapting", total=20)
        for done in range(1, 11):
            clock.now += 10
            bars.update(task, completed=done)
    out, err = capsys.readouterr()
    assert out == ""  # the results of a command are not mixed with its progress
    assert err.splitlines() == [
        "adapting, 4 of 20, about 3 min left.",
        "adapting, 8 of 20, about 2 min left.",
    ]


def test_in_a_terminal_there_are_no_lines(clock, capsys, monkeypatch):
    monkeypatch.setattr(display.console, "_force_terminal", True)
    with Bars() as bars:
        task = bars.add_task("adapting", total=20)
        clock.now += 100
        bars.update(task, completed=1)
    assert capsys.readouterr().err == ""


def test_a_path_keeps_its_brackets_and_is_not_broken(capsys):
    path = "runs/my study " + "x" * 100 + "/o[bold]/ev.csv"
    tell(f"Written: {path}")
    assert capsys.readouterr().out == f"Written: {path}\n"


def test_a_task_of_unknown_length_is_counted(clock, capsys):
    with Bars() as bars:
        task = bars.add_task("checking [scans]", total=None)
        clock.now += 31
        bars.update(task, advance=1)
    assert capsys.readouterr().err == "checking [scans], 1.\n"


def test_a_phase_has_its_own_count_and_loss(clock, capsys):
    with PhaseDisplay() as show:
        for phase, figures in (("adapt", {}), ("train", {"loss": 0.25})):
            for done in (0, 1, 2):
                clock.now += 31
                show(phase, done, 4, figures)
    assert capsys.readouterr().err.splitlines() == [
        "adapting the model, 0 of 4.",
        "adapting the model, 1 of 4.",
        "adapting the model, 2 of 4, about 62 s left.",
        "training, 0 of 4, loss 0.250.",
        "training, 1 of 4, loss 0.250.",
        "training, 2 of 4, loss 0.250, about 62 s left.",
    ]


def test_a_grid_says_which_run_is_where_and_what_is_left_of_all(clock, capsys, tmp_path: Path):
    run = Run(settings_of(method="mt", labels=2, iterations=4), "one")
    with GridDisplay([run], tmp_path) as show:
        show.started(run)
        for done in (0, 1, 2):
            clock.now += 31
            show.moved(run, {"phase": "train", "done": done, "total": 4, "figures": {}})
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "mt, 2 labeled, seed 0: training, 0 of 4; 0 of 1 runs ended."
    assert lines[-1].startswith("mt, 2 labeled, seed 0: training, 2 of 4; 0 of 1 runs ended, about")


@pytest.mark.parametrize("width", [60, 80])
def test_bars_keep_their_figures_and_whole_titles_in_a_narrow_terminal(
    width, monkeypatch, tmp_path
):
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    monkeypatch.setattr(display, "console", console)
    settings = settings_of(method="fixmatch", sam="synthsam", labels=2, subset=1, iterations=600)
    run = Run(settings, "one")
    show = GridDisplay([run], tmp_path)
    show.started(run)
    show.moved(run, {"phase": "train", "done": 123, "total": 600, "figures": {"loss": 0.25}})
    with console.capture() as caught:
        console.print(show._bars.get_renderable())
    lines = caught.get().splitlines()
    assert max(map(len, lines)) <= width
    text = " ".join(" ".join(lines).split())
    for word in ("123/600", "loss 0.250", "fixmatch + synthsam,", "subset 1:", "training", "━━"):
        assert word in text
