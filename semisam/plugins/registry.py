"""Find, load and configure plugins through six entry-point groups.

Listing reads the metadata of the installed distributions and imports nothing. A plugin is imported
when it is used. The built-in plugins are listed in ``pyproject.toml``, as third parties list their
own: there is no other registry. The options of a plugin are the keyword-only parameters of its
constructor. A distribution may declare the API that it was written for (`API_GROUP`).
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from semisam import api_version
from semisam.core.errors import BrokenPlugin, PluginError
from semisam.plugins import options as _options

GROUPS: Mapping[str, str] = {
    "framework": "semisam.frameworks",
    "backend": "semisam.backends",
    "prompter": "semisam.prompters",
    "network": "semisam.networks",
    "dataset": "semisam.datasets",
    "logger": "semisam.loggers",
}

BUILTIN_DISTRIBUTION = "semisam"

API_GROUP = "semisam.api"
"""The group in which a distribution declares versions of the API, as names of its entries."""

RESERVED_NAMES: Mapping[str, Mapping[str, str]] = {
    "backend": {"none": "no SAM"},
    "logger": {"none": "no logger"},
}
"""Names with a special meaning: a plugin with such a name is refused."""

NOT_BUILT_IN: Mapping[str, Mapping[str, str]] = {
    "backend": {
        "nninteractive": (
            "its package (2.6) reads the checkpoint with torch.load(weights_only=False), which "
            "runs any code in the file, returns only masks and needs some fifty packages, among "
            "them a web server; its weights are licensed CC BY-NC-SA 4.0, for non-commercial use "
            "only. The example plugin nninteractive-remote queries a server instead"
        )
    }
}
"""Names that a user may expect, and why they are not built in; a third party may list them."""

JOINERS: Mapping[str, str] = {"backend": "semisam.backends.joined:join"}
"""Functions that make one plugin of several, whose names a user joins: ``synthsam+geodesic``."""


@dataclass(frozen=True)
class Plugin:
    """An entry point, from its distribution's metadata.

    Attributes:
        kind: a key of ``GROUPS``.
        name: the name that a user writes.
        value: ``module:attribute``.
        distribution: the distribution that lists it.
        version: version of the distribution.
        builtin: semisam itself lists it.
        problem: the reason to refuse it; ``None`` if there is no such reason.
    """

    kind: str
    name: str
    value: str
    distribution: str
    version: str
    builtin: bool
    problem: str | None = None

    @property
    def origin(self) -> str:
        """Description of entry point and distribution for messages."""
        return (
            f"entry point {self.name} = {self.value} in {GROUPS[self.kind]} "
            f"of distribution {self.distribution} {self.version}"
        )


def all_plugins(kind: str) -> list[Plugin]:
    """Return every entry point of a kind, including refused ones, sorted by name.

    Raises:
        PluginError: the kind is unknown.
    """
    return list(_all_plugins(kind, _installed()))


def _installed() -> tuple[tuple[str, int], ...]:
    """Return the folders that are searched for distributions, and the times of their changes."""
    found = []
    for folder in sys.path:
        with contextlib.suppress(OSError):
            found.append((folder, Path(folder).stat().st_mtime_ns))
    return tuple(found)


@functools.lru_cache(maxsize=64)
def _all_plugins(kind: str, installed: object) -> tuple[Plugin, ...]:
    """Return the plugins of a kind, read once for folders that do not change."""
    group, points = _group(kind), metadata.entry_points()
    declared: dict[str, set[str]] = {}
    for point in points.select(group=API_GROUP):
        declared.setdefault(_distribution(point)[0], set()).add(point.name)
    by_name: dict[str, list[Plugin]] = {}
    for point in points.select(group=group):
        plugin = _from_entry_point(kind, point, declared)
        same = by_name.setdefault(plugin.name, [])
        if plugin not in same:
            same.append(plugin)
    return tuple(p for name in sorted(by_name) for p in _judge(by_name[name]))


def list_plugins(kind: str) -> dict[str, Plugin]:
    """Return the plugins of a kind by name, without importing one.

    Each name has one entry: the built-in if it is shadowed, the first of a collision with its
    ``problem`` set. ``all_plugins`` returns the others too.

    Raises:
        PluginError: the kind is unknown.
    """
    found: dict[str, Plugin] = {}
    for plugin in all_plugins(kind):  # a built-in comes before those that shadow it
        found.setdefault(plugin.name, plugin)
    return found


def find(kind: str, name: str) -> Plugin:
    """Return the plugin of a name, without importing it.

    Raises:
        PluginError: the kind or the name is unknown, or the name is refused.
    """
    plugins = list_plugins(kind)
    if len(parts := members(kind, name)) > 1:
        wrong = [part for part in parts if not part or part in RESERVED_NAMES.get(kind, ())]
        if wrong or len(set(parts)) < len(parts):
            raise PluginError(
                f"{noun(kind)} must be different plugins joined by a plus, such as "
                f"synthsam+geodesic, got {name!r}. Correct the name."
            )
        return _joined(kind, name, [find(kind, part) for part in parts])
    if name not in plugins:
        if reason := NOT_BUILT_IN.get(kind, {}).get(name):
            raise PluginError(
                f"{noun(kind)} {name!r} is not built in: {reason}. A plugin of that name may be "
                "installed."
            )
        raise PluginError(
            f"{noun(kind)} must be an installed plugin, got {name!r}{nearest(name, plugins)}. "
            f"Installed: {', '.join(plugins) or 'none'}."
        )
    plugin = plugins[name]
    if plugin.problem:
        raise PluginError(f"{noun(kind)} {name!r} is refused: {plugin.problem}.")
    return plugin


def members(kind: str, name: str) -> tuple[str, ...]:
    """Return the names of the plugins that a name joins; of any other plugin its own name."""
    if kind not in JOINERS or "+" not in name or name in list_plugins(kind):
        return (name,)
    return tuple(name.split("+"))


def with_members(kind: str, names: Iterable[str]) -> list[str]:
    """Return names of plugins and those that they join, each once."""
    own = list(names)
    return list(dict.fromkeys([*own, *(part for name in own for part in members(kind, name))]))


def options_of(kind: str, name: str, by_plugin: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the options of a plugin; for joined ones those of each, as the joint plugin has them.

    Args:
        kind: a key of ``GROUPS``.
        name: of the plugin.
        by_plugin: options by plugin.
    """
    own = dict(by_plugin.get(name, {}))
    if len(parts := members(kind, name)) == 1:
        return own
    of_parts = {
        joint_option(part, option): value
        for part in parts
        for option, value in by_plugin.get(part, {}).items()
    }
    return {**of_parts, **own}


def joint_option(name: str, option: str) -> str:
    """Return the name of a plugin's option as one of the joint plugin."""
    return re.sub(r"\W", "_", f"{name}_{option}")


def load(kind: str, name: str) -> Callable[..., Any]:
    """Import a plugin and return its class (or factory).

    Raises:
        PluginError: the plugin is unknown, refused, broken or not callable, or it is a method that
            is not a ``Framework`` or whose constructor takes ``**kwargs``.
    """
    return load_plugin(find(kind, name))


def load_plugin(plugin: Plugin) -> Callable[..., Any]:
    """Import a listed plugin; see ``load``."""
    title = f"{noun(plugin.kind)} {plugin.name!r}"
    if plugin.problem:
        raise PluginError(f"{title} is refused: {plugin.problem}.")
    point = metadata.EntryPoint(plugin.name, plugin.value, GROUPS[plugin.kind])
    try:
        loaded = point.load()
    except Exception as error:
        raise BrokenPlugin(
            f"{title} could not be loaded ({plugin.origin}): {in_one_line(error)}"
        ) from error
    if not callable(loaded):
        raise PluginError(
            f"{title} must be a class or a function that returns an instance, got "
            f"{type(loaded).__name__} ({plugin.origin})."
        )
    check_declared(plugin, loaded)
    if plugin.kind == "framework":
        _check_framework(plugin, loaded)
    if plugin.value == JOINERS.get(plugin.kind):
        return loaded(members(plugin.kind, plugin.name))  # type: ignore[no-any-return]
    return loaded  # type: ignore[no-any-return]


def check_options(kind: str, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Check options against the plugin's constructor before any data is read.

    Values of TOML's types are checked strictly (``true`` is not a number). Strings, as the command
    line gives them (``"0.3"``, ``"true"``, ``"1,2,3"``, ``"none"``), are converted.

    Args:
        kind: a key of ``GROUPS``.
        name: name of the plugin, which is imported.
        options: values by the names of the constructor's keyword-only parameters.

    Returns:
        The given options, converted to the types that the constructor names.

    Raises:
        PluginError: an option is unknown, missing or of a wrong type; one message lists all faults.
    """
    return check_keywords(load(kind, name), f"{noun(kind)} {name!r}", options, kind)


def resolve_options(kind: str, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return every option of a plugin as it will run: the given ones over the defaults.

    A default that JSON cannot hold stays the constructor's own affair and is left out.

    Args:
        kind: a key of ``GROUPS``.
        name: of the plugin, which is imported.
        options: as `check_options` takes them.

    Raises:
        PluginError: as `check_options`.
    """
    return resolve_keywords(load(kind, name), f"{noun(kind)} {name!r}", options, kind)


def resolve_keywords(
    loaded: Callable[..., Any], what: str, options: Mapping[str, Any], kind: str = ""
) -> dict[str, Any]:
    """Return every keyword-only parameter of a constructor with its value, as `resolve_options`.

    Raises:
        PluginError: all faults in one message.
    """
    checked = check_keywords(loaded, what, options, kind)
    return {**default_keywords(loaded, kind), **checked}


def default_keywords(loaded: Callable[..., Any], kind: str = "") -> dict[str, Any]:
    """Return the defaults of a constructor's options that JSON can hold."""
    found = {}
    for parameter in _options.parameters(kind, loaded).values():
        if not parameter.required:
            with contextlib.suppress(TypeError, ValueError):
                json.dumps(parameter.default, allow_nan=False)
                found[parameter.name] = parameter.default
    return found


def files_of(kind: str, name: str, options: Mapping[str, Any], axes: int = 3) -> dict[str, Path]:
    """Return the files and folders that decide what a plugin computes, by option or own name.

    A plugin class may name them in a class method ``sources(axes, **options)``, with those that it
    brings. Of any other plugin, every option that is the path of something counts, but for a
    choice: a folder may have its name by chance.

    Args:
        kind: a key of ``GROUPS``.
        name: of the plugin, which is imported.
        options: every option, as `resolve_options` returns them.
        axes: of the patch.
    """
    from semisam.plugins.options import parameters

    plugin = load(kind, name)
    own = getattr(plugin, "sources", None)
    if own is not None:
        return dict(own(**{"axes": axes, **options}))
    choices = {key for key, parameter in parameters(kind, plugin).items() if parameter.is_choice}
    texts = {
        key: value
        for key, value in options.items()
        if isinstance(value, str) and value and key not in choices
    }
    return {key: Path(value) for key, value in texts.items() if Path(value).exists()}


def check_keywords(
    loaded: Callable[..., Any], what: str, options: Mapping[str, Any], kind: str = ""
) -> dict[str, Any]:
    """Check options against the keyword-only parameters of a class or function.

    Args:
        loaded: the class or function.
        what: its name in messages.
        options: values by parameter name.
        kind: the kind of plugin, whose reserved parameters are not options.

    Raises:
        PluginError: one message lists all faults.
    """
    known = _options.parameters(kind, loaded)
    faults = [
        f"option {option} must be keyword-only: write * before it in the constructor"
        if _options.takes_by_position(kind, loaded, option)
        else f"option {option} does not exist{nearest(option, known)}"
        for option in options
        if option not in known
    ]
    faults += [
        f"option {parameter.name} is required"
        for parameter in known.values()
        if parameter.required and parameter.name not in options
    ]
    checked: dict[str, Any] = {}
    for option, value in options.items():
        if option in known:
            try:
                checked[option] = _options.coerce(value, known[option])
                taken = checked[option]
                numbers = taken if isinstance(taken, tuple) else (taken,)
                if any(isinstance(n, float) and not math.isfinite(n) for n in numbers):
                    faults.append(f"option {option} must be finite, got {value!r}")
            except ValueError as error:
                faults.append(str(error))
    if faults:
        exists = ", ".join(known) or "none"
        raise PluginError(f"{what}: {'; '.join(faults)}. Its options: {exists}.")
    return checked


@dataclass(frozen=True)
class Option:
    """An option of a plugin.

    Attributes:
        name: the constructor's keyword.
        type: its annotation as text.
        default: its default; meaningless if ``required``.
        doc: its description in the docstring's ``Args``, or an empty string.
        required: it has no default.
    """

    name: str
    type: str
    default: Any
    doc: str
    required: bool = False


def describe_options(kind: str, name: str) -> list[Option]:
    """Import a plugin and return its options in the constructor's order.

    Raises:
        PluginError: as for ``load``.
    """
    return described_options(load(kind, name), kind)


def described_options(loaded: Callable[..., Any], kind: str = "") -> list[Option]:
    """Return the options of a class or a function, as `describe_options`."""
    docs = _options.documented_arguments(loaded)
    return [
        Option(
            p.name,
            p.type_name,
            None if p.required else p.default,
            docs.get(p.name, ""),
            p.required,
        )
        for p in _options.parameters(kind, loaded).values()
    ]


def prompt_kinds(kind: str, loaded: object) -> frozenset[str]:
    """Return the kinds of prompt that a plugin's class states; empty if it states none."""
    attribute = {"prompter": "emits", "backend": "accepts"}.get(kind, "")
    found = getattr(loaded, attribute, None) if attribute else None
    return frozenset(found) if isinstance(found, frozenset | set) else frozenset()


def check_declared(plugin: Plugin, holder: object) -> None:
    """Refuse kinds of prompt that are no set, and axes of a backend or network that are a number.

    Args:
        plugin: for the message.
        holder: its class, or an instance, whose constructor may declare them.

    Raises:
        BrokenPlugin: an attribute has another type.
    """
    kinds = (str | list | tuple, "a set of texts, such as frozenset({'points'})")
    axes = (int, "a tuple of numbers, such as (3,)")
    wanted: dict[str, dict[str, tuple[Any, str]]] = {
        "backend": {"accepts": kinds, "axes": axes},
        "prompter": {"emits": kinds},
        "network": {"axes": axes},
    }
    for name, (wrong, rule) in wanted.get(plugin.kind, {}).items():
        if isinstance(value := getattr(holder, name, None), wrong):
            raise BrokenPlugin(
                f"the {name} of {noun(plugin.kind)} {plugin.name!r} must be {rule}, got {value!r} "
                f"({plugin.origin})."
            )


def noun(kind: str) -> str:
    """Return the word for a kind of plugin in messages: a "framework" is a method."""
    return "method" if kind == "framework" else kind


def in_one_line(error: Exception) -> str:
    """Return the type of an error and its message without line breaks."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean x?)"`` for the closest known name, or an empty string."""
    by_lower = {k.lower(): k for k in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return f" (did you mean {by_lower[close[0]]}?)" if close else ""


def _group(kind: str) -> str:
    if kind not in GROUPS:
        raise PluginError(f"the kind of a plugin must be one of {', '.join(GROUPS)}, got {kind!r}.")
    return GROUPS[kind]


def _from_entry_point(
    kind: str, point: metadata.EntryPoint, declared: Mapping[str, set[str]]
) -> Plugin:
    distribution, version = _distribution(point)
    builtin = re.sub(r"[-_.]+", "-", distribution).lower() == BUILTIN_DISTRIBUTION
    apis = declared.get(distribution, set())
    problem = None
    if apis and str(api_version) not in apis:
        problem = (
            f"its API must be {api_version}, got {' and '.join(sorted(apis))}. Install a version "
            f"of {distribution} for this version of semisam"
        )
    return Plugin(kind, point.name, point.value, distribution, version, builtin, problem)


def _distribution(point: metadata.EntryPoint) -> tuple[str, str]:
    """Return name and version of an entry point's distribution."""
    # A half-removed distribution may have no METADATA file, and so no name and version. If the
    # backport importlib_metadata has been imported, it raises instead of returning None.
    fields = None
    with contextlib.suppress(FileNotFoundError):
        fields = point.dist.metadata if point.dist is not None else None
    name = (fields and fields["Name"]) or "unknown"
    return name, (fields and fields["Version"]) or "unknown"


def _joined(kind: str, name: str, parts: list[Plugin]) -> Plugin:
    """Return the plugin that joins others."""
    foreign = [part for part in parts if not part.builtin]
    first, *more = foreign or parts[:1]
    version = " + ".join([first.version, *(f"{p.distribution} {p.version}" for p in more)])
    return Plugin(kind, name, JOINERS[kind], first.distribution, version, builtin=not foreign)


def _judge(same_name: list[Plugin]) -> list[Plugin]:
    """Set ``problem`` of the plugins that share a kind and a name; a built-in comes first."""
    kind, name = same_name[0].kind, same_name[0].name
    if meaning := RESERVED_NAMES.get(kind, {}).get(name):
        return [replace(p, problem=f"{name!r} is reserved ({meaning})") for p in same_name]
    builtin = [p for p in same_name if p.builtin]
    others = sorted((p for p in same_name if not p.builtin), key=lambda p: p.distribution)
    if builtin:
        return builtin + [replace(p, problem="it shadows a built-in") for p in others]
    if len(others) == 1:
        return others
    claims = " and ".join(f"{p.distribution} ({p.value})" for p in others)
    return [replace(p, problem=f"it is listed by {claims}: uninstall one") for p in others]


def _check_framework(plugin: Plugin, loaded: Callable[..., Any]) -> None:
    from semisam.core.framework import Framework

    if isinstance(loaded, type) and not issubclass(loaded, Framework):
        raise PluginError(
            f"method {plugin.name!r} must be a subclass of semisam.core.framework.Framework, got "
            f"{loaded.__name__} ({plugin.origin})."
        )
    if _options.takes_any_keyword(loaded):
        raise PluginError(
            f"method {plugin.name!r} must name its options as keyword-only arguments, got a "
            f"constructor with **kwargs, which accepts misspelt options ({plugin.origin})."
        )
