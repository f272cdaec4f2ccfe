"""Resolve the settings of a run from the user's values, the protocol and the data.

The user's values override the protocol. The protocol overrides the suggestions of the data, which
override the defaults. Every option of every plugin of the run is recorded with its value, so that
a later version with other defaults does not change the record.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from semisam.core.backend import can_adapt
from semisam.core.errors import InputError
from semisam.core.files import digest_of_path
from semisam.core.layout import MODEL
from semisam.frameworks.semisam import SemiSAM
from semisam.plugins import registry
from semisam.run.folder import find_run
from semisam.run.protocols import BRANCH, DEFAULT, PROTOCOLS, Protocol
from semisam.run.settings import (
    AXES,
    NOT_IDENTITY,
    OF_THE_BRANCH,
    OF_VALIDATION,
    PLUGINS,
    RESULTS_VERSION,
    Options,
    RunSettings,
    read_settings,
    show_value,
    validated,
)

FLAT_NETWORK = "unet2d"
"""The network for patches of two axes, where a protocol's own is for volumes only."""

_OTHERS = {*PLUGINS, "protocol", "sources", "test", "first"}
_TRAINING = tuple(
    name
    for name in RunSettings.model_fields
    if name not in {*AXES, *NOT_IDENTITY, *OF_THE_BRANCH, *_OTHERS}
    and not name.endswith("_options")
)
"""Settings of training and test, which a protocol may prescribe."""


def make_settings(
    explicit: Mapping[str, Any], suggested: Mapping[str, Any] | None = None
) -> RunSettings:
    """Resolve the settings of a run.

    The protocol's settings for the method override its settings for every method. A protocol's
    patch may be larger than the scans, which are then padded. A bare run has no branch, so options
    of the branch do not count for it.

    Args:
        explicit: settings that the user gave; ``method_options`` and so on hold some options.
        suggested: settings that the dataset suggests, e.g. a patch that fits its scans.

    Raises:
        InputError: a setting is wrong, or the protocol does not describe the method. The message
            lists every wrong setting.
        PluginError: a plugin or an option does not exist, or an option has another type.
    """
    name = str(explicit.get("protocol", DEFAULT))
    if name not in PROTOCOLS:
        raise InputError(
            f"--protocol must be one of {', '.join(PROTOCOLS)}, got {name}"
            f"{registry.nearest(name, PROTOCOLS)}. Correct the name."
        )
    protocol = PROTOCOLS[name].for_axes(axes_of(explicit, suggested or {}))
    method = str(explicit.get("method", RunSettings.model_fields["method"].default))
    if not protocol.describes(method):
        raise InputError(
            f"--protocol {name} must come with a method that it describes, "
            f"{', '.join(protocol.methods)}, got {method}. Leave --protocol out."
        )
    given = validated(
        {
            **protocol.usual,
            **(suggested or {}),
            **_prescribed(protocol, method, explicit.get("patch")),
            **explicit,
        }
    )
    _check_validation(given)
    if "sam_adapt" not in explicit:
        given = given.model_copy(update={"sam_adapt": _fitted_steps(given.sam_adapt, given)})
    if "network" not in explicit:
        given = given.model_copy(update={"network": usual_network(protocol, len(given.patch))})
    whole = given.model_copy(update=_resolved(given, protocol))
    about = {"departures": _departures(whole, protocol), "choices": _choices(whole, protocol)}
    return whole.model_copy(update=about)


def _check_validation(given: RunSettings) -> None:
    """Refuse settings of a validation for a run without one."""
    usual = RunSettings.model_fields
    idle = [n for n in sorted(OF_VALIDATION) if getattr(given, n) != usual[n].default]
    if idle and given.validate_every is None:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in idle)
        raise InputError(f"--validate-every must be given for {flags}, got no number. Give one.")


def _check_start(given: RunSettings, start: Path) -> None:
    """Refuse the weights of a run with another method, network or number of patch axes."""
    before = read_settings(start)
    for what, one, other in (
        ("method", before.method, given.method),
        ("network", before.network, given.network),
        ("patch axes", len(before.patch), len(given.patch)),
    ):
        if one != other:
            raise InputError(
                f"--init must be a run of the same method, network and patch axes, got {start} "
                f"with the {what} {one} for {other}. Name another run or leave it out."
            )


def axes_of(explicit: Mapping[str, Any], suggested: Mapping[str, Any]) -> int:
    """Return the axes of a run's patch: the user's, else those that the data suggest."""
    usual = suggested.get("patch") or RunSettings.model_fields["patch"].default
    return len(explicit.get("patch") or usual)


def prescribed(plugin: str, protocol: Protocol) -> str:
    """Return the prompter or the network of a protocol, for runs without one from the user."""
    return str(protocol.run.get(plugin, RunSettings.model_fields[plugin].default))


def usual_network(protocol: Protocol, axes: int) -> str:
    """Return the network of a protocol, or one for patches of two axes if it is for volumes."""
    name = prescribed("network", protocol)
    known = getattr(registry.load("network", name), "axes", (axes,))
    return FLAT_NETWORK if axes == 2 and axes not in known else name


def _prescribed(protocol: Protocol, method: str, patch: Any = None) -> Options:
    """Return the run settings that a protocol prescribes for a method.

    A stride belongs to the patch of its publication. Another patch has that of `Protocol.stride`.

    Args:
        protocol: of the run.
        method: of the run.
        patch: of the user, or ``None``.
    """
    settings = protocol.run_settings(method)
    if patch not in (None, settings.get("patch")):
        settings.pop("stride", None)
    return settings


def _resolved(given: RunSettings, protocol: Protocol) -> dict[str, Any]:
    """Return every setting that is still open, with every option of every plugin."""
    found: dict[str, Any] = {
        "stride": given.stride or protocol.stride(given.patch),
        "dataset_options": registry.resolve_options(
            "dataset", given.dataset, given.dataset_options
        ),
        "method_options": registry.resolve_options(
            "framework",
            given.method,
            {**protocol.methods.get(given.method, {}), **given.method_options},
        ),
        "network_options": registry.resolve_options(
            "network",
            given.network,
            {**_of_axes("network", given.network, len(given.patch)), **given.network_options},
        ),
        "logger_options": {}
        if given.logger == "none"
        else registry.resolve_options("logger", given.logger, given.logger_options),
    }
    found["sources"] = {"results": str(RESULTS_VERSION), **_sources(given, found, branch=False)}
    if given.init is not None:
        start = find_run(given.init).resolve()
        _check_start(given, start)
        found["init"] = str(start)
        found["sources"]["init"] = digest_of_path(start / MODEL)
    if given.sam == "none":
        empty: dict[str, Any] = {
            name: {} for name in ("sam_options", "prompter_options", "semisam_options")
        }
        none: dict[str, Any] = {
            "prompter": "none",
            "sam_control": None,
            "sam_adapt": 0,
            "sam_sources": {},
        }
        return found | empty | none
    found["sam_options"] = registry.resolve_options(
        "backend", given.sam, {**_of_backend(given, protocol), **given.sam_options}
    )
    found["prompter_options"] = registry.resolve_options(
        "prompter",
        given.prompter,
        {**protocol.prompters.get(given.prompter, {}), **given.prompter_options},
    )
    if given.sam_adapt and not _can_adapt(given.sam):
        raise InputError(
            f"--sam-adapt must be 0 for {given.sam}, which cannot be adapted, got "
            f"{given.sam_adapt}. Leave it out, or choose --sam synthsam."
        )
    branch = {**protocol.semisam, **given.semisam_options}
    found["semisam_options"] = registry.resolve_keywords(SemiSAM, BRANCH, branch)
    if "seed" not in given.semisam_options:
        del found["semisam_options"]["seed"]  # it is the run's
    found["sam_sources"] = _sources(given, found, branch=True)
    return found


def _of_axes(kind: str, name: str, axes: int) -> Options:
    """Return the option ``axes`` of a plugin that has one, for a patch of this many axes."""
    usual = registry.default_keywords(registry.load(kind, name), kind)
    return {"axes": axes} if "axes" in usual else {}


def _of_backend(settings: RunSettings, protocol: Protocol) -> Options:
    """Return the options that a protocol prescribes for the backend of a run."""
    return registry.options_of("backend", settings.sam, protocol.backends)


def _can_adapt(backend: str) -> bool:
    return can_adapt(registry.load("backend", backend))


def _fitted_steps(steps: int, settings: RunSettings) -> int:
    """Return the steps of an adaptation that fit a run, of those that its protocol prescribes."""
    if settings.sam == "none" or not _can_adapt(settings.sam):
        return 0
    # A short training does not wait long for the model that guides it.
    return min(steps, settings.iterations // 2)


def _sources(given: RunSettings, options: Mapping[str, Any], *, branch: bool) -> dict[str, str]:
    """Return the distributions of plugins that are not built in, and the digests of their files."""
    found = {}
    for place, kind in PLUGINS.items():
        if (place in OF_THE_BRANCH) != branch:
            continue
        name = getattr(given, place)
        plugin = registry.find(kind, name)
        if not plugin.builtin:
            found[place] = f"{plugin.distribution} {plugin.version}"
        files = registry.files_of(kind, name, options[f"{place}_options"], len(given.patch))
        found |= {f"{place}.{key}": digest_of_path(path) for key, path in files.items()}
    return found


def _departures(settings: RunSettings, protocol: Protocol) -> tuple[str, ...]:
    """Return the departures of resolved settings from their protocol.

    Suggestions of the data count as departures, like values of the user. Several processes always
    count, because each computes its losses on its own rows. What the protocol does not reproduce of
    its source comes last.
    """
    alone = RunSettings.model_validate(
        {**protocol.usual, **_prescribed(protocol, settings.method), "labels": settings.labels}
    )
    changed = {
        name: getattr(settings, name)
        for name in _TRAINING
        if getattr(settings, name) != getattr(alone, name)
    }
    stride = alone.stride if settings.patch == alone.patch else None
    if settings.stride == (stride or protocol.stride(settings.patch)):
        changed.pop("stride", None)
    if settings.sam != "none":
        if settings.prompter != alone.prompter:
            changed["prompter"] = settings.prompter
        if settings.sam_adapt != _fitted_steps(alone.sam_adapt, settings):
            changed["sam_adapt"] = settings.sam_adapt
    of_backend = _of_backend(settings, protocol)
    for place, name, value in _changed_options(settings, protocol):
        if place != settings.sam or name in of_backend:
            changed[f"{place}.{name}"] = value
    changed |= protocol.not_reproduced(settings.method, branch=settings.sam != "none")
    return tuple(f"{name}={show_value(value)}" for name, value in changed.items())


def _choices(settings: RunSettings, protocol: Protocol) -> tuple[str, ...]:
    """Return the chosen values that no protocol prescribes."""
    usual = prescribed("network", protocol)
    chosen = [] if settings.network == usual else [f"network={settings.network}"]
    if settings.init is not None:
        chosen.append(f"init={Path(settings.init).name}")
    if settings.test != "auto":
        chosen.append(f"test={settings.test}")
    if settings.first is not None:
        chosen.append(f"first={settings.first}")
    for name, value in _unlike_default("dataset", settings.dataset, settings.dataset_options, {}):
        chosen.append(f"{settings.dataset}.{name}={show_value(value)}")
    of_backend = _of_backend(settings, protocol)
    for place, name, value in _changed_options(settings, protocol):
        if place == settings.sam and name not in of_backend:
            chosen.append(f"{place}.{name}={show_value(value)}")
    return tuple(chosen)


def _changed_options(settings: RunSettings, protocol: Protocol) -> Iterator[tuple[str, str, Any]]:
    """Yield place, name and value of each option that differs from protocol and default."""
    s = settings
    places: list[tuple[str, str, Options, Mapping[str, Any]]] = [
        ("framework", s.method, s.method_options, protocol.methods.get(s.method, {})),
        ("network", s.network, s.network_options, _of_axes("network", s.network, len(s.patch))),
    ]
    if s.sam != "none":
        places.append(("", BRANCH, s.semisam_options, protocol.semisam))
        about = protocol.prompters.get(s.prompter, {})
        places.append(("prompter", s.prompter, s.prompter_options, about))
        places.append(("backend", s.sam, s.sam_options, _of_backend(s, protocol)))
    for kind, place, options, prescribed in places:
        for name, value in _unlike_default(kind, place, options, prescribed):
            yield place, name, value


def _unlike_default(
    kind: str, name: str, options: Options, prescribed: Mapping[str, Any]
) -> Iterable[tuple[str, Any]]:
    loaded = registry.load(kind, name) if kind else SemiSAM
    usual = {**registry.default_keywords(loaded, kind), **prescribed}
    return [(key, value) for key, value in options.items() if usual.get(key) != value]
