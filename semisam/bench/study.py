"""A study: grids of runs in one folder, written there as ``study.toml``.

The file holds the values of all settings and options that the runs of a grid share. It therefore
gives the same runs under a later version or on another machine.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit

from semisam import __version__
from semisam.bench.grid import Axes
from semisam.core.errors import InputError
from semisam.core.files import (
    read_text,
    remove_leftovers,
    replace_file,
    writable_folder,
)
from semisam.core.layout import STUDY
from semisam.plugins.registry import nearest
from semisam.run.lock import locked
from semisam.run.protocols import BRANCH, PROTOCOLS
from semisam.run.request import Request, request
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
    with held(folder):
        before = read_study(folder) if (folder / STUDY).is_file() else []
        kept = [grid for grid in before if not any(_covers(other, grid) for other in grids)]
        write_study(folder, [*kept, *grids])


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the files of a study against other grids, and remove what a killed one left."""
    with locked(folder, _PATIENCE):
        remove_leftovers(folder, inside=False)
        yield


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
