"""Options that several commands share, and their conversion to settings."""

from __future__ import annotations

import re
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click
from click.shell_completion import CompletionItem

from semisam.cli.help import Choice, options_of
from semisam.run.protocols import PROTOCOLS
from semisam.run.settings import GROUPS, Flag, RunSettings, flags_of_settings

if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:  # not generic before click 8.4
    _ParamType = click.ParamType

F = TypeVar("F", bound=Callable[..., Any])


device_option = click.option(
    "--device",
    metavar="NAME",
    default="auto",
    show_default=True,
    help=flags_of_settings()["device"].help,
)
"""``--device`` of every command without a grid of runs."""


def _completed(kind: str, incomplete: str) -> list[CompletionItem]:
    """Return the plugins of a kind, or the protocols, that a shell may complete a word with."""
    if kind == "protocol":
        known: Iterable[str] = PROTOCOLS
    else:
        from semisam.plugins import registry

        known = registry.list_plugins(kind) if kind in registry.GROUPS else ()
    # A plus joins backends; it may be part of another plugin's name.
    signs = ",+" if kind == "backend" else ","
    cut = max(incomplete.rfind(sign) for sign in signs) + 1
    before, word = incomplete[:cut], incomplete[cut:]
    names = [*known, "none"] if kind == "backend" else known
    return [CompletionItem(f"{before}{name}") for name in names if name.startswith(word)]


def _check_name(kind: str, name: str) -> None:
    """Refuse a name that is no plugin's, before the heavy libraries are imported."""
    from semisam.plugins import registry

    if kind in registry.GROUPS and name not in registry.RESERVED_NAMES.get(kind, ()):
        registry.find(kind, name)


class Name(_ParamType):
    """A type of one name, which a shell completes.

    Args:
        kind: of the plugin, or ``protocol``. The name of a plugin must be installed.
    """

    name = "NAME"

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """Return the name."""
        _check_name(self.kind, str(value))
        return str(value)

    def shell_complete(self, ctx: Any, param: Any, incomplete: str) -> list[CompletionItem]:
        """Return the names that begin like this."""
        return _completed(self.kind, incomplete)


class Names(_ParamType):
    """A type of names separated by commas: ``a,b,c``.

    Args:
        kind: of the plugins, which a shell completes, and which must be installed.
    """

    name = "NAME,..."

    def __init__(self, kind: str = "") -> None:
        self.kind = kind

    def shell_complete(self, ctx: Any, param: Any, incomplete: str) -> list[CompletionItem]:
        """Return the lists that end with a name that begins like the last one."""
        return _completed(self.kind, incomplete)

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, ...]:
        """Split at commas."""
        if not isinstance(value, str):
            return tuple(value)
        names = tuple(part.strip() for part in value.split(","))
        if not all(names):
            self.fail(f"it must be names separated by commas, got {value!r}", param, ctx)
        for name in names:
            _check_name(self.kind, name)
        return tuple(dict.fromkeys(names))


class _Integers(_ParamType):
    """A type of whole numbers between signs.

    Attributes:
        between: regular expression of the signs, in lower case.
        wanted: words for the message of a wrong value.
    """

    between: str = ","
    wanted: str

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        """Split at the signs and convert to numbers."""
        if not isinstance(value, str):
            return tuple(value)
        try:
            return tuple(int(part) for part in re.split(self.between, value.lower()))
        except ValueError:
            self.fail(f"it must be {self.wanted}, got {value!r}", param, ctx)


class Numbers(_Integers):
    """A type of different whole numbers separated by commas: ``1,2,4``, or with ranges, ``0-4,9``.

    Args:
        times: ``5x`` means the first five numbers, from 0.
    """

    name = "N,..."
    wanted = "whole numbers separated by commas, or a range such as 0-4"

    def __init__(self, *, times: bool = False) -> None:
        self.times = times
        if times:
            self.wanted = f"{self.wanted} or 5x"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        """Replace ranges by their numbers, and keep each number once."""
        if isinstance(value, str):
            value = ",".join(map(self._expanded, value.lower().split(",")))
        return tuple(dict.fromkeys(super().convert(value, param, ctx)))

    def _expanded(self, part: str) -> str:
        match = re.fullmatch(r"\s*(\d+)-(\d+)\s*", part)
        if self.times and (count := re.fullmatch(r"\s*0*([1-9]\d*)x\s*", part)):
            first, last = 0, int(count[1]) - 1
        elif match and int(match[1]) <= int(match[2]):
            first, last = int(match[1]), int(match[2])
        else:
            return part
        if last - first >= _MOST:
            return ""  # refused, since nobody means it
        return ",".join(map(str, range(first, last + 1)))


_MOST = 1000  # numbers of a range


class Voxel(_Integers):
    """A type of a voxel's indices separated by commas: ``30,40,22``."""

    name = "I,J,K"
    wanted = "a voxel such as 30,40,22"


class Size(_Integers):
    """A type of voxels per axis: ``64x64x48``."""

    name = "WxHxD"
    between = "[x,]"
    wanted = "voxels per axis such as 64x64x48"


class Duration(_ParamType):
    """A type of a time such as ``30m``, ``1.5h`` or ``90s``, in seconds."""

    name = "TIME"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """Convert to seconds."""
        if not isinstance(value, str):
            return float(value)
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smh])", value.strip().lower())
        if match is None or not float(match[1]):
            self.fail(f"it must be a time such as 90s, 30m or 12h, got {value!r}", param, ctx)
        return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


OVER = 75
"""The exit code of a command that ran out of time and can be given again."""

_MAX_TIME = options_of("Execution")(
    "--max-time",
    type=Duration(),
    help="Stop the training at a checkpoint after this time, e.g. 30m. The exit code is then "
    f"{OVER}, and the same command resumes. [default: no limit]",
)

_ASSIGNMENTS = options_of("Plugins")(
    "--set",
    "assignments",
    multiple=True,
    metavar="PLUGIN.OPTION=VALUE",
    help="An option of a method, backend, prompter, network, dataset, or of the branch "
    "(semisam.weight=0.2). `semisam plugins NAME` lists them. Repeatable.",
)


def run_options(function: F) -> F:
    """Add the options of a run to a command, one for each setting that declares one.

    The command takes ``max_time``, in seconds or ``None``, by itself.
    """
    for option in reversed([*_setting_options(), _MAX_TIME, _ASSIGNMENTS]):
        function = option(function)
    return function


def _setting_options() -> Iterator[Callable[[F], F]]:
    flags = flags_of_settings()
    for group, names in GROUPS.items():
        for name in names:
            yield _click_option(name, flags[name], group)
    add = options_of("Promptable model")
    yield add(
        "--sam-every",
        type=int,
        metavar="N",
        help="Query SAM every N iterations and scale its loss weight by N. [default: 1]",
    )
    yield add(
        "--sam-floor",
        type=float,
        metavar="WEIGHT",
        help="Query SAM only while its loss weight is at least this. [default: 0]",
    )


def _click_option(name: str, option: Flag, group: str) -> Callable[[F], F]:
    add = options_of(group)
    field = RunSettings.model_fields[name]
    kinds = [k for k in _flat(field.annotation) if k is not type(None)]
    flag = f"--{name.replace('_', '-')}"
    default = option.default if option.default is not None else _shown(usual_value(name))
    about = f"{option.help} [default: {default}]"
    if kinds == [bool]:
        return add(flag, name, is_flag=True, default=None, help=about)
    kind: Any = kinds[0]
    metavar = None
    if typing.get_origin(kind) is Literal:
        kind = Choice(list(typing.get_args(kind)))
    elif typing.get_origin(kind) is tuple:
        kind = Size()
    elif name in ("data", "init"):
        kind, metavar = click.Path(), "FOLDER"
    elif kind is str:
        kind = Name(name)
    return add(flag, name, type=kind, metavar=metavar, help=about)


def usual_value(name: str) -> Any:
    """Return a setting's value where neither a user nor the data set it: that of ``default``."""
    protocol = PROTOCOLS["default"]
    return {**protocol.usual, **protocol.run}.get(name, RunSettings.model_fields[name].default)


def _flat(annotation: Any) -> list[Any]:
    """Return the members of a union without their constraints."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _flat(typing.get_args(annotation)[0])
    members = typing.get_args(annotation)
    if members and typing.get_origin(annotation) not in (Literal, tuple):
        return [kind for member in members for kind in _flat(member)]
    return [annotation]


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "x".join(map(str, value)) if isinstance(value, tuple) else f"{value}"


def dataset_option(function: F) -> F:
    """Add the option for the dataset plugin of a folder to a command."""
    return click.option(
        "--dataset",
        type=Name("dataset"),
        help="Dataset plugin. [default: the one that reads the folder]",
    )(function)


def dataset_options(function: F) -> F:
    """Add the options for the dataset plugin of a folder, and its options, to a command."""
    for option in (
        click.option(
            "--set",
            "assignments",
            multiple=True,
            metavar="DATASET.OPTION=VALUE",
            help="An option of the dataset, e.g. folder.spacing=1,1,2. Repeatable.",
        ),
        dataset_option,
    ):
        function = option(function)
    return function


def named_dataset(
    path: Path, dataset: str | None, given: Sequence[str]
) -> tuple[str, dict[str, Any]]:
    """Return the name of the dataset plugin that reads a folder, and its options.

    Raises:
        InputError: no plugin recognises the folder, or ``--set`` names another plugin.
        PluginError: the plugin has no such option, or the option has another type.
    """
    from semisam.core.errors import InputError
    from semisam.plugins import registry
    from semisam.run.build import recognise_dataset

    name = dataset or recognise_dataset(path)
    options = assignments(given)
    idle = sorted(set(options) - {name})
    if idle:
        raise InputError(f"--set must name the dataset {name} here, got {', '.join(idle)}.")
    return name, registry.check_options("dataset", name, options.get(name, {}))


def assignments(given: Sequence[str]) -> dict[str, dict[str, str]]:
    """Parse ``--set`` values into options by plugin name.

    Raises:
        InputError: a value is not of the form ``plugin.option=value``.
    """
    from semisam.run.request import by_plugin

    return by_plugin(option_pairs(given))


def option_pairs(given: Sequence[str]) -> dict[str, str]:
    """Parse ``--set`` values into ``{"mt.beta": "1"}``.

    Raises:
        InputError: a value is not of the form ``plugin.option=value``.
    """
    from semisam.core.errors import InputError

    pairs = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (equals and "." in name.strip(". ")):
            raise InputError(
                f"--set must be of the form PLUGIN.OPTION=VALUE, got {text!r}. Write e.g. --set "
                "mt.ema_decay=0.995."
            )
        pairs[name] = value.strip()
    return pairs


def given_settings(given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the settings that a command line gives, and its options as ``{"mt.beta": "1"}``.

    Args:
        given: the values of `run_options`, ``None`` where the user gave no value.

    Raises:
        InputError: a value of ``--set`` cannot be parsed.
    """
    settings = {name: given[name] for name in flags_of_settings() if given[name] is not None}
    options = option_pairs(given["assignments"])
    for name in ("every", "floor"):
        if given[f"sam_{name}"] is not None:
            options[f"semisam.{name}"] = str(given[f"sam_{name}"])
    return settings, options
