"""Small runs of a grid, and a look at them, for the tests of the executors."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
from click.testing import CliRunner

from semisam.bench import worker
from semisam.bench.executors.contract import Outcome
from semisam.bench.executors.local import Local
from semisam.bench.grid import Axes, Run, check, expand
from semisam.cli.main import main
from semisam.run.request import request

PATIENCE = 240
"""Seconds after which a test gives up; two slow cores that import torch take a while."""
GRID = {
    **{"patch": "16x16x16", "stride": "16x16x16", "iterations": "40", "checkpoint-every": "5"},
    **{"network": "vnet", "set": "vnet.filters=2", "method": "mt", "labels": "1,2", "sam": "none"},
    **{"dataset": "phantom", "precision": "fp32"},
}
PHANTOM = ("phantom.cases=4", "phantom.test_cases=2", "phantom.size=32")


def arguments(out: Path, *more: str) -> list[str]:
    """Return the arguments of `semisam bench` for the grid."""
    given = [text for key, value in GRID.items() for text in (f"--{key}", value)]
    for option in PHANTOM:
        given += ["--set", option]
    return ["bench", *given, "--out", str(out), *more]


def bench(out: Path, *more: str) -> Any:
    """Execute the grid by the command line, in this process."""
    return CliRunner().invoke(main, arguments(out, *more))


@contextlib.contextmanager
def runs_in_this_process() -> Iterator[None]:
    """Let a grid execute its runs in this process: to start one takes longer than a tiny run."""

    def spawn(executor: Local, run: Run, folder: Path, *more: Any) -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("default")  # as in a process of its own
            return worker.main(folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Local, "_spawn", spawn)
        patch.setattr(worker, "_end_with_parent", lambda parent: None)
        yield


def words(text: str) -> str:
    """Return an output without its line breaks, which the width of a terminal decides."""
    return " ".join(text.split())


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """Return what a condition yields as soon as it is true."""
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {PATIENCE} s for {what}"
        time.sleep(0.02)
    return value


def make_runs(labels: tuple[int, ...] = (2,), iterations: int = 40) -> list[Run]:
    """Return runs of a grid, checked and named."""
    common = {
        **{"dataset": "phantom", "patch": (16, 16, 16), "stride": (16, 16, 16)},
        **{"iterations": iterations, "checkpoint_every": 5, "precision": "fp32"},
        "network": "vnet",
    }
    options = {
        "phantom": {"cases": 4, "test_cases": 2, "size": 32},
        "vnet": {"filters": 2},
    }
    asked = request(common, options, ["mt"], ["none"])
    return check(expand(Axes(["mt"], labels=labels), asked), here=False)


def processes_of(text: str | Path) -> list[psutil.Process]:
    """Return the processes that have a text in their command."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and str(text) in " ".join(
                process.cmdline()
            ):
                found.append(process)
    return found


class Recorder:
    """A display that remembers, and may press Ctrl-C once a run trains."""

    def __init__(self, interrupt: bool = False) -> None:
        self.notes: list[str] = []
        self.moves: list[dict[str, Any]] = []
        self.ends: list[Outcome] = []
        self._interrupt = interrupt

    def started(self, run: Run) -> None:
        pass

    def moved(self, run: Run, state: dict[str, Any]) -> None:
        self.moves.append(state)
        if self._interrupt and state["phase"] == "train" and state["done"] > 5:
            self._interrupt = False
            raise KeyboardInterrupt

    def ended(self, outcome: Outcome) -> None:
        self.ends.append(outcome)

    def note(self, text: str) -> None:
        self.notes.append(text)


def results_of(out: Path) -> pd.DataFrame:
    """Return what a run's place must not change: all but its cost and when it was cut off."""
    frame = pd.read_csv(out / "results.csv").sort_values("run", ignore_index=True)
    kept = [name for name in frame if name.startswith(("metrics.", "data.", "run", "settings."))]
    return frame[[name for name in kept if "second" not in name and "device" not in name]]
