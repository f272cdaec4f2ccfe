"""A study: grids of runs in one folder, written there as ``study.toml``.

The file holds the values of all settings and options that the runs of a grid share. It therefore
gives the same runs under a later version or on another machine.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import tomllib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import pandas as pd
import tomlkit

from semisam import __version__
from semisam.bench.executors.contract import Display, Executor, Outcome
from semisam.bench.executors.local import Local
from semisam.bench.grid import Axes, Run, check, expand
from semisam.bench.results import OnFault, ignore, read_finished, write
from semisam.core.errors import InputError, SemisamError, SemisamWarning
from semisam.core.files import (
    check_writable,
    read_text,
    remove_leftovers,
    replace_file,
    writable_folder,
)
from semisam.core.layout import STUDY
from semisam.plugins.registry import nearest
from semisam.run.lock import locked
from semisam.run.protocols import BRANCH, PROTOCOLS
from semisam.run.request import Request, by_plugin, request
from semisam.run.settings import (
    DEFAULT_BACKEND,
    RESULTS_VERSION,
    RunSettings,
    flags_of_settings,
)

AXES = {
    "method": "methods",
    "labels": "labels",
    "sam": "sams",
    "sam_control": "sam_controls",
    "seeds": "seeds",
    "subsets": "subsets",
}
"""The axes of a grid: the name of their option, and their name in `Axes`."""
DEFAULT_SAMS = ("none", DEFAULT_BACKEND)
"""Backends of a grid without others."""
_NUMBERS = ("labels", "seeds", "subsets")
_OF_THE_PLACE = ("device",)
_OF_THE_BRANCH = ("prompter", "sam_adapt")
_PATIENCE = 60.0
_HEAD = """\
# The runs of this folder: every setting and option that they share, as they ran.
# `semisam bench FOLDER` finishes them, `semisam bench FOLDER --seeds 0,1,2` adds to them, and
# `semisam bench study.toml --out OTHER` runs them again.
"""


@dataclass(frozen=True)
class Grid:
    """A product of axes under one set of settings.

    Attributes:
        axes: of the grid.
        settings: of all its runs.
        options: by plugin name; ``semisam`` is the branch.
    """

    axes: Axes
    settings: Mapping[str, Any]
    options: Mapping[str, Mapping[str, Any]]

    @functools.cached_property
    def asked(self) -> Request:
        """The checked settings that its runs have in common.

        Raises:
            InputError: a setting is wrong.
            PluginError: a plugin or an option is wrong.
        """
        return request(self.settings, self.options, self.axes.methods, self.axes.sams)

    def extended(self, more: Mapping[str, Sequence[Any]]) -> Grid:
        """Return the grid with further values on some axes, by the names in `AXES`."""
        changes = {
            AXES[name]: tuple(dict.fromkeys([*getattr(self.axes, AXES[name]), *values]))
            for name, values in more.items()
        }
        return dataclasses.replace(self, axes=dataclasses.replace(self.axes, **changes))

    def as_it_runs(self, runs: Sequence[RunSettings]) -> Grid:
        """Return the grid with every setting and option that its runs share.

        What the user gave stays, also if only runs that are added later have a use for it. What the
        protocol prescribes for single methods, and an adaptation that nobody asked for, stays open,
        so that an added method or backend gets its own.

        Args:
            runs: of the grid, resolved.
        """
        protocol = PROTOCOLS[runs[0].protocol].for_axes(len(runs[0].patch))
        left_open = {*_OF_THE_PLACE, *_OF_THE_BRANCH}
        left_open |= protocol.of_single_methods - set(self.settings)
        shared = {
            name: getattr(runs[0], name)
            for name in flags_of_settings()
            if name not in left_open and len({repr(getattr(run, name)) for run in runs}) == 1
        }
        shared |= {name: self.settings[name] for name in _OF_THE_BRANCH if name in self.settings}
        if len(prompters := {run.prompter for run in runs if run.sam != "none"}) == 1:
            shared["prompter"] = prompters.pop()
        options: dict[str, list[Mapping[str, Any]]] = {}
        for run in runs:
            options.setdefault(run.method, []).append(run.method_options)
            options.setdefault(run.dataset, []).append(run.dataset_options)
            options.setdefault(run.network, []).append(run.network_options)
            if run.logger != "none":
                options.setdefault(run.logger, []).append(run.logger_options)
            if run.sam != "none":
                options.setdefault(run.sam, []).append(run.sam_options)
                options.setdefault(run.prompter, []).append(run.prompter_options)
                options.setdefault(BRANCH, []).append(run.semisam_options)
        common = {name: _common(found) for name, found in options.items()}
        whole = {**self.options, **common}
        return Grid(self.axes, shared, {name: found for name, found in whole.items() if found})


def read_study(path: Path) -> list[Grid]:
    """Read the grids of a ``study.toml``, or of the folder that holds one.

    Raises:
        InputError: the file is missing or not TOML, or a key is unknown.
    """
    file = path / STUDY if path.is_dir() else path
    try:
        found = tomllib.loads(read_text(file))
    except (InputError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(
            f"the study must be a TOML file or a folder with {STUDY}, got {path} ({error}). Name "
            "the --out of an earlier bench."
        ) from None
    _check_keys(file, found, ("semisam", "results_version", "grid"))
    version = found.get("results_version", RESULTS_VERSION)
    if not isinstance(version, int) or version > RESULTS_VERSION:
        raise InputError(
            f"{file}: results_version must be at most {RESULTS_VERSION}, got {version!r}. Use the "
            "version of semisam that wrote the file, or remove the line."
        )
    grids = found.get("grid")
    if not (isinstance(grids, list) and grids and all(isinstance(g, dict) for g in grids)):
        raise InputError(f"{file}: a study must have at least one [[grid]], got 0. Add one.")
    return [_grid(file, grid) for grid in grids]


def write_study(folder: Path, grids: Iterable[Grid]) -> None:
    """Write ``study.toml`` atomically; equal grids are written once."""
    written: list[dict[str, Any]] = []
    for grid in grids:
        plain = _plain(grid)
        if plain not in written:
            written.append(plain)
    head = {"semisam": __version__, "results_version": RESULTS_VERSION}
    with replace_file(folder / STUDY) as temporary:
        text = _HEAD + tomlkit.dumps({**head, "grid": written})
        temporary.write_text(text, encoding="utf-8")


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


def continued(
    path: Path,
    axes: Mapping[str, Sequence[Any]],
    settings: Mapping[str, Any],
    options: Mapping[str, Any],
) -> list[Grid]:
    """Return the grids of a study with further values on their axes, and on another machine.

    Args:
        path: of the study's file or folder.
        axes: further values, by the names in `AXES`.
        settings: that the user gave. Only the device, and the place of scans, may be others.
        options: of plugins that the user gave, of which there may be none.

    Raises:
        InputError: there is no such study, or a setting is given that must stay.
    """
    grids = [grid.extended(axes) for grid in read_study(path)]
    free = {"device", "data"} if all("data" in grid.settings for grid in grids) else {"device"}
    idle = [f"--{name.replace('_', '-')}" for name in settings if name not in free]
    idle += ["--set"] * bool(options)
    if idle:
        raise InputError(
            f"the settings of a study must stay, got {', '.join(idle)}. Leave it out, or start "
            "another study with --out."
        )
    return [dataclasses.replace(grid, settings={**grid.settings, **settings}) for grid in grids]


def add_to_study(folder: Path, grids: Sequence[Grid]) -> None:
    """Add grids to the study of a folder; they replace those whose runs they have.

    Args:
        folder: of the study; it is made if missing.
        grids: of `checked`.
    """
    writable_folder(folder)
    with _held(folder):
        before = read_study(folder) if (folder / STUDY).is_file() else []
        kept = [grid for grid in before if not any(_covers(other, grid) for other in grids)]
        write_study(folder, [*kept, *grids])


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold the files of a study against other grids, and remove what a killed one left."""
    with locked(folder, _PATIENCE):
        remove_leftovers(folder, inside=False)
        yield


def tabulate(folder: Path, on_fault: OnFault = ignore) -> pd.DataFrame:
    """Write ``results.csv`` and ``table.csv`` of all finished runs and return the comparison.

    Args:
        folder: of the study.
        on_fault: called with a sentence about each run that cannot be used and is left out.
    """
    found = read_finished([folder] if folder.is_dir() else [], on_fault)  # it may be gone by now
    if not found.table.empty:
        with _held(folder):
            write(found.results, folder / "results.csv", digits=10)
            write(found.table, folder / "table.csv")
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
    (places,) = _numbers("jobs", jobs)[:1]
    if places < 1:
        raise InputError(f"jobs must be at least 1, got {jobs}. Correct it.")
    folder = Path(out).absolute()  # the current folder may change before the end
    check_writable(folder)
    runs, ran = checked([Grid(axes, given, by_plugin(options or {}))], on_lost=_warn)
    add_to_study(folder, ran)
    outcomes = finish_runs(runs, folder, Local(places, []), _Calls(progress))
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


def _common(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the options that have one value in all runs."""
    return {
        key: value
        for key, value in found[0].items()
        if all(key in other and other[key] == value for other in found)
    }


def _covers(one: Grid, other: Grid) -> bool:
    """Return whether every run of ``other`` is one of ``one``."""
    mine, theirs = _plain(one), _plain(other)
    options = mine["options"]
    return (
        mine["settings"] == theirs["settings"]
        and all(options.get(name) == given for name, given in theirs["options"].items())
        and all(set(theirs[axis]) <= set(mine[axis]) for axis in AXES)
    )


def _plain(grid: Grid) -> dict[str, Any]:
    """Return a grid as values of TOML, which has no null."""
    return {
        **{name: list(getattr(grid.axes, field)) for name, field in AXES.items()},
        "settings": {k: _value(v) for k, v in grid.settings.items() if v is not None},
        "options": {
            name: {k: "none" if v is None else _value(v) for k, v in options.items()}
            for name, options in grid.options.items()
        },
    }


def _value(value: Any) -> Any:
    if isinstance(value, Mapping):  # TOML has no numbers as keys
        return {str(key): _value(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _grid(file: Path, found: Mapping[str, Any]) -> Grid:
    _check_keys(file, found, (*AXES, "settings", "options"))
    axes: dict[str, tuple[Any, ...]] = {}
    for name, field in AXES.items():
        if name not in found:
            continue
        values = found[name] if isinstance(found[name], list) else [found[name]]
        kind = int if name in _NUMBERS else str
        wrong = [v for v in values if not isinstance(v, kind) or isinstance(v, bool)]
        if wrong or not values:
            what = "whole numbers" if kind is int else "names"
            raise InputError(f"{file}: {name} must be a list of {what}, got {found[name]!r}.")
        axes[field] = tuple(values)
    if "methods" not in axes:
        raise InputError(f"{file}: every [[grid]] must name a method. Add method = [...].")
    axes.setdefault("sams", DEFAULT_SAMS)
    for name in ("settings", "options"):
        if not isinstance(found.get(name, {}), dict):
            raise InputError(f"{file}: {name} must be a table, got {found[name]!r}.")
    settings = dict(found.get("settings", {}))
    _check_keys(file, settings, tuple(flags_of_settings()))
    options = found.get("options", {})
    if not all(isinstance(values, dict) for values in options.values()):
        raise InputError(f"{file}: options must be tables named by plugin, e.g. [grid.options.mt].")
    sizes = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    return Grid(Axes(**axes), sizes, options)


def _check_keys(file: Path, found: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in found:
        if key not in known:
            raise InputError(
                f"{file}: a key must be one of {', '.join(known)}, got {key}"
                f"{nearest(key, known)}. Correct it."
            )
