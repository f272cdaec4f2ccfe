"""Make the settings of runs from a user's input on the command line or in Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semisam.core.errors import InputError
from semisam.plugins import registry
from semisam.run.build import open_plugin, recognise_dataset
from semisam.run.preflight import check_axes, usual_device
from semisam.run.protocols import BRANCH, DEFAULT, PROTOCOLS
from semisam.run.resolve import (
    axes_of,
    make_settings,
    prescribed,
    usual_network,
)
from semisam.run.settings import RunSettings, flags_of_settings

PluginOptions = Mapping[str, Mapping[str, Any]]

_KINDS: dict[str, tuple[Any, str]] = {
    **dict.fromkeys(("dataset", "protocol", "network", "prompter", "logger"), (str, "a name")),
    "data": (str | Path, "a path"),
    "device": (str, "a text"),
    "patch": (tuple, "whole numbers"),
}
"""Type and rule of each setting that is used before all of them are validated."""


@dataclass(frozen=True)
class Request:
    """The settings that the runs of a grid have in common before they are resolved.

    Attributes:
        settings: given by the user.
        suggested: suggested by the dataset, for settings that the user left out.
        options: by the name of the method or backend that takes them.
    """

    settings: Mapping[str, Any]
    suggested: Mapping[str, Any]
    options: PluginOptions

    def resolve(
        self,
        *,
        method: str,
        labels: int,
        sam: str = "none",
        sam_control: str = "none",
        subset: int = 0,
        seed: int = 0,
        fold: int | None = None,
    ) -> RunSettings:
        """Return the settings of one run.

        Raises:
            InputError: a setting is wrong.
            PluginError: a plugin or an option is wrong.
        """
        explicit = {
            **self.settings,
            "method": method,
            "method_options": dict(self.options.get(method, {})),
            "labels": labels,
            "subset": subset,
            "seed": seed,
            "fold": fold if fold is not None else self.settings.get("fold"),
            "sam": sam,
            "sam_options": {}
            if sam == "none"
            else registry.options_of("backend", sam, self.options),
            "sam_control": None if sam_control == "none" else sam_control,
        }
        return make_settings(explicit, self.suggested)


def request(
    given: Mapping[str, Any], options: PluginOptions, methods: Sequence[str], sams: Sequence[str]
) -> Request:
    """Check the settings that a user gives for all runs, and add those that the data suggest.

    Args:
        given: settings by name, ``None`` where the user gave no value.
        options: by plugin name; ``semisam`` is the branch. A text is converted to the type of its
            option.
        methods: of the runs.
        sams: backends of the runs.

    Raises:
        InputError: an unknown setting, a folder that no dataset plugin recognises, options of a
            plugin that no run uses, or a network or a backend that does not fit the patch's axes.
        PluginError: a plugin has no such option, or the option has another type.
    """
    common: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in given.items()
        if value is not None
    }
    _check_names(common)
    _check_kinds(common)
    for sam in sams:
        if sam != "none":
            registry.find("backend", sam)
    if "data" in common:
        path = Path(common["data"])
        # Runs have their own processes, and a result must not depend on their working folder.
        common["data"] = str(path.resolve())
        if "dataset" not in common:
            common["dataset"] = recognise_dataset(path)
    common.setdefault("dataset", "phantom")
    common["device"] = usual_device(common.get("device"))
    free = {name: dict(values) for name, values in options.items()}
    if (name := common["dataset"]) in free:
        common["dataset_options"] = registry.check_options("dataset", name, free.pop(name))
    data = common.get("data")
    dataset = open_plugin(
        name, None if data is None else Path(data), common.get("dataset_options", {})
    )
    suggested = dict(dataset.suggested)
    axes = axes_of(common, suggested)
    asked = str(common.get("protocol", DEFAULT))
    protocol = PROTOCOLS.get(asked, PROTOCOLS[DEFAULT]).for_axes(axes)
    prompter = common.get("prompter", prescribed("prompter", protocol))
    network = common.get("network", usual_network(protocol, axes))
    check_axes("network", network, axes)
    for sam in sams:
        if sam != "none":
            check_axes("backend", sam, axes)
    logger = common.get("logger", "none")
    for kind, name in (("network", network), ("prompter", prompter), ("logger", logger)):
        if name in free:
            common[f"{kind}_options"] = registry.check_options(kind, name, free.pop(name))
    common["semisam_options"] = free.pop(BRANCH, {})
    backends = registry.with_members("backend", (name for name in sams if name != "none"))
    taking_part = [*methods, *backends]
    idle = [name for name in free if name not in taking_part]
    if idle:
        known = [*taking_part, common["dataset"], network, prompter, BRANCH, logger]
        wrong = ", ".join(f"{name}{registry.nearest(name, known)}" for name in idle)
        raise InputError(
            f"--set must name a plugin of the runs, {', '.join(known)}, got {wrong}. Correct "
            "the name."
        )
    # From here options have types, so 0.9 and 0.90 are the same setting and the same run.
    kinds = dict.fromkeys(methods, "framework") | dict.fromkeys(backends, "backend")
    typed = {name: registry.check_options(kinds[name], name, free[name]) for name in free}
    return Request(common, suggested, typed)


def settings(
    *,
    method: str = "mt",
    labels: int = 1,
    sam: str = "none",
    sam_control: str = "none",
    subset: int = 0,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    **given: Any,
) -> RunSettings:
    """Return the resolved settings of one run, as ``semisam train`` would make them.

    Args:
        method: name of a method plugin.
        labels: number of labeled cases.
        sam: name of a backend plugin, of several joined by a plus, or ``none`` for the bare method.
        sam_control: ``none``, or a control of the branch: ``oracle``, ``truth``, ``shuffled``,
            ``moved``.
        subset: 0: the first labeled cases of the list; k > 0: the k-th draw.
        seed: of weights, batches, dropout, noise and prompts.
        options: of plugins, e.g. ``{"mt.ema_decay": 0.995, "semisam.weight": 0.2}``.
        **given: any other setting by name, e.g. ``data="folder"``, ``iterations=500``.

    Raises:
        InputError: a setting is wrong.
        PluginError: a plugin or an option is wrong.

    Example:
        >>> import semisam
        >>> chosen = semisam.settings(method="mt", labels=2, iterations=100)
        >>> chosen.dataset, chosen.iterations, chosen.method_options["ema_decay"]
        ('phantom', 100, 0.99)
    """
    if sam == "none" and sam_control != "none":
        raise InputError(
            f"--sam-control must come with --sam, got {sam_control} for a bare method. Name the "
            "promptable model."
        )
    asked = request(given, by_plugin(options or {}), [method], [sam])
    return asked.resolve(
        method=method,
        labels=labels,
        sam=sam,
        sam_control=sam_control,
        subset=subset,
        seed=seed,
    )


def by_plugin(options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return options given as ``{"plugin.option": value}`` by plugin.

    Raises:
        InputError: they are no mapping, or a name is not of that form.
    """
    if not isinstance(options, Mapping):
        raise InputError(
            "options must map PLUGIN.OPTION to a value, got "
            f'{options!r}. Write e.g. {{"mt.ema_decay": 0.99}}.'
        )
    found: dict[str, dict[str, Any]] = {}
    for name, value in options.items():
        plugin, _, option = str(name).strip().rpartition(".")
        if not (plugin and option):
            raise InputError(
                f"an option must be named PLUGIN.OPTION, got {name!r}. Write e.g. mt.ema_decay."
            )
        found.setdefault(plugin, {})[option.replace("-", "_")] = value
    return found


def _check_kinds(common: Mapping[str, Any]) -> None:
    for name, (kind, rule) in _KINDS.items():
        if name in common and not isinstance(common[name], kind):
            raise InputError(f"--{name} must be {rule}, got {common[name]!r}. Correct it.")


def _check_names(common: Mapping[str, Any]) -> None:
    known = [*flags_of_settings(), "ranks"]
    for name in common:
        if name not in known:
            raise InputError(
                f"a setting must be one of {', '.join(known)}, got {name}"
                f"{registry.nearest(name, known)}. Correct the name."
            )
