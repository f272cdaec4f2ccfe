"""The running of a study: its runs checked, executed and tabulated; `bench` is the function.

`semisam.bench.study` holds the study's file.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import pandas as pd

from semisam.bench.executors.contract import Display, Executor, Outcome
from semisam.bench.executors.local import Local
from semisam.bench.grid import Axes, Run, check, expand
from semisam.bench.results import OnFault, ignore, read_finished, write
from semisam.bench.study import DEFAULT_SAMS, Grid, add_to_study, held
from semisam.core.errors import InputError, SemisamError, SemisamWarning
from semisam.core.files import check_writable
from semisam.core.layout import RESULTS, TABLE
from semisam.run.request import by_plugin


def checked(
    grids: Sequence[Grid],
    on_case: Callable[[int, int], None] | None = None,
    *,
    here: bool = True,
    on_lost: Callable[[str], None] | None = None,
) -> tuple[list[Run], list[Grid]]:
    """Check every run of some grids.

    Runs of a method whose heads the network cannot serve are left out.

    Args:
        grids: to run.
        on_case: called with (cases read, number of cases).
        here: True if the runs train on this machine, whose device and memory can be checked.
        on_lost: called with a sentence for each reason by which runs are lost.

    Returns:
        The runs, and the grids with every setting that their runs share.

    Raises:
        InputError: if any setting or volume cannot be used.
        PluginError: if any plugin or option cannot be used.
    """
    named: dict[str, Run] = {}
    ran = []
    for grid in grids:
        settings = expand(grid.axes, grid.asked)
        named |= {run.name: run for run in check(settings, on_case, here=here, on_lost=on_lost)}
        ran.append(grid.as_it_runs(settings))
    return list(named.values()), ran


def tabulate(folder: Path, on_fault: OnFault = ignore) -> pd.DataFrame:
    """Write ``results.csv`` and ``table.csv`` of all finished runs and return the comparison.

    Args:
        folder: of the study.
        on_fault: called with a sentence about each run that cannot be used and is left out.
    """
    found = read_finished([folder] if folder.is_dir() else [], on_fault)  # it may be gone by now
    if not found.table.empty:
        with held(folder):
            write(found.results, folder / RESULTS, digits=10)
            write(found.table, folder / TABLE)
    return found.table


def bench(
    methods: str | Sequence[str],
    *,
    labels: int | Sequence[int] = (1, 2, 4),
    sams: str | Sequence[str] = DEFAULT_SAMS,
    sam_controls: str | Sequence[str] = ("none",),
    seeds: int | Sequence[int] = (0,),
    subsets: int | Sequence[int] = (0,),
    out: str | Path = "runs/bench",
    options: Mapping[str, Any] | None = None,
    jobs: int = 1,
    progress: Callable[[str, Mapping[str, Any]], None] | None = None,
    **given: Any,
) -> pd.DataFrame:
    """Compare methods, with and without SemiSAM, and return the comparison table.

    The unfinished runs of the grid are executed, each in its own process, as ``semisam bench``
    does.

    Args:
        methods: names of method plugins.
        labels: numbers of labeled cases.
        sams: names of backend plugins; ``none`` is the bare method.
        sam_controls: ``none`` and controls of the branch.
        seeds: of the runs.
        subsets: labeled subsets; 0 is the first of the list.
        out: folder of the study.
        options: of plugins, e.g. ``{"mt.ema_decay": 0.995}``.
        jobs: runs at a time.
        progress: called with the name of a run and its progress: ``phase``, ``done``, ``total``,
            ``figures``.
        **given: any other setting by name, e.g. ``data="folder"``, ``iterations=500``.

    Returns:
        A row per method, backend and number of labels: mean and SD of each metric, and the gain.

    Raises:
        InputError: if a setting or a volume cannot be used.
        PluginError: if a plugin or an option cannot be used.
        SemisamError: if a run fails; the others are finished, and the table is written.
        KeyboardInterrupt: after Ctrl-C, when the runs at work have saved a checkpoint and the table
            of the finished ones is written. The same call resumes.
    """
    axes = Axes(
        *(_names("methods", methods), _names("sams", sams)),
        *(_numbers("labels", labels), _numbers("subsets", subsets), _numbers("seeds", seeds)),
        _names("sam_controls", sam_controls),
    )
    places = _numbers("jobs", jobs)
    if len(places) != 1 or places[0] < 1:
        raise InputError(f"jobs must be a whole number of at least 1, got {jobs!r}. Correct it.")
    folder = Path(out).absolute()  # the current folder may change before the end
    check_writable(folder)
    runs, ran = checked([Grid(axes, given, by_plugin(options or {}))], on_lost=_warn)
    add_to_study(folder, ran)
    outcomes = finish_runs(runs, folder, Local(places[0], []), _Calls(progress))
    table = tabulate(folder)
    if any(outcome.status == "interrupted" for outcome in outcomes):
        raise KeyboardInterrupt
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    if failed:
        first = failed[0]
        raise SemisamError(
            f"{len(failed)} of {len(outcomes)} runs failed. The first is {first.run.name}: "
            f"{first.message}"
        )
    return table


def finish_runs(
    runs: Sequence[Run], folder: Path, executor: Executor, display: Display
) -> list[Outcome]:
    """Execute the unfinished runs of a study and return the outcome of each.

    Args:
        runs: of `checked`.
        folder: of the study.
        executor: executes the runs.
        display: called with every start, progress and end.
    """
    place = folder / "runs"
    place.mkdir(exist_ok=True)
    return executor.run_all(runs, place, display)


class _Calls:
    """A display that passes progress on to a function."""

    def __init__(self, progress: Callable[[str, Mapping[str, Any]], None] | None) -> None:
        self._progress = progress or (lambda name, state: None)

    def started(self, run: Run) -> None:
        """Report that a run begins."""
        self._progress(run.name, {"phase": "start", "done": 0, "total": 1, "figures": {}})

    def moved(self, run: Run, state: Mapping[str, Any]) -> None:
        """Report the progress of a run."""
        self._progress(run.name, state)

    def ended(self, outcome: Outcome) -> None:
        """Report the outcome of a run."""
        state: dict[str, Any] = {"phase": outcome.status, "done": 1, "total": 1, "figures": {}}
        self._progress(outcome.run.name, state)

    def note(self, text: str) -> None:
        """Ignore a note, which is for a person at a terminal."""


def _warn(reason: str) -> None:
    warnings.warn(f"Runs are left out: {reason}", SemisamWarning, stacklevel=2)


def _names(axis: str, given: Any) -> tuple[str, ...]:
    """Return the names that a user gave for an axis: one, or several.

    Raises:
        InputError: they are no texts.
    """
    found = (given,) if isinstance(given, str) else _several(given)
    if not found or not all(isinstance(name, str) for name in found):
        raise InputError(f"{axis} must be a name or a list of names, got {given!r}. Correct it.")
    return tuple(map(str, found))


def _numbers(axis: str, given: Any) -> tuple[int, ...]:
    """Return the whole numbers that a user gave for an axis, of Python or NumPy: one, or several.

    Raises:
        InputError: they are no whole numbers.
    """
    found = (given,) if isinstance(given, Integral) else _several(given)
    if not found or not all(isinstance(n, Integral) and not isinstance(n, bool) for n in found):
        raise InputError(
            f"{axis} must be a whole number or a list of them, got {given!r}. Correct it."
        )
    return tuple(map(int, found))


def _several(given: Any) -> tuple[Any, ...]:
    """Return the values of a list; nothing of what is no list."""
    return tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else ()
