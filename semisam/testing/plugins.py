"""A check that an installed plugin can be constructed, for ``semisam plugins --check``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from semisam.core.errors import BrokenPlugin, PluginError, SemisamError
from semisam.plugins import options as _options
from semisam.plugins.construction import construct_plugin
from semisam.plugins.registry import Plugin, load_plugin, noun
from semisam.testing.samples import tiny_builder

_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "framework": (tiny_builder(), 2),
    "network": (1, {"logits": 2}),
    "dataset": (None,),
}


def check_plugin(plugin: Plugin) -> str:
    """Construct a plugin with its default options and return the result.

    Returns:
        ``ok``; ``ok, not constructed: `` and what the user must give, such as weights, a folder
        or a certain network; or the fault in one sentence.
    """
    try:
        loaded = load_plugin(plugin)
    except PluginError as error:
        return str(error)
    if missing := sorted(getattr(loaded, "__abstractmethods__", ())):
        return f"{noun(plugin.kind)} {plugin.name!r} must define {', '.join(missing)}, got none."
    if required := _required(plugin.kind, loaded):
        return f"ok, not constructed: it requires the option {', '.join(required)}"
    if networks := getattr(loaded, "networks", ()):
        return f"ok, not constructed: it is for the network {' or '.join(networks)}"
    try:
        construct_plugin(plugin, _ARGUMENTS.get(plugin.kind, ()))
    except BrokenPlugin as error:
        if plugin.kind == "dataset" and not isinstance(error.__cause__, ImportError):
            return "ok, not constructed: it requires a folder"
        return str(error)
    except SemisamError as error:
        if isinstance(error.__cause__, ValueError) and isinstance(error, PluginError):
            return str(error)  # it refuses its own default options
        return f"ok, not constructed: {error}"
    return "ok"


def _required(kind: str, loaded: Callable[..., Any]) -> list[str]:
    known = _options.parameters(kind, loaded)
    return [name for name, option in known.items() if option.required]
