"""Construct plugins, so that a fault in one is a sentence that names it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from semisam.core.errors import BrokenPlugin, PluginError, SemisamError
from semisam.plugins.registry import (
    Plugin,
    check_declared,
    find,
    in_one_line,
    load_plugin,
    noun,
)

_PARTS: Mapping[str, tuple[str, ...]] = {
    "framework": ("forward", "training_step", "after_update", "param_groups"),
    "backend": ("ndim", "accepts", "encode", "segment"),
    "prompter": ("emits", "rounds", "__call__"),
    "network": ("forward", "parameters"),
    "dataset": ("name", "split", "image", "label", "has_label", "source"),
    "logger": ("open", "log", "close"),
}
"""The attributes that an instance of each kind must have."""


def construct(
    kind: str, name: str, arguments: Iterable[Any] = (), options: Mapping[str, Any] | None = None
) -> Any:
    """Construct a plugin, so that a fault of its constructor is one sentence.

    Args:
        kind: a key of `GROUPS`.
        name: name of the plugin, which is imported.
        arguments: positional arguments, which a run fills in.
        options: by keyword, checked before (`check_options`).

    Raises:
        PluginError: as for `load`, or the constructor refuses an option with a ``ValueError``.
        BrokenPlugin: the constructor fails in another way, or the result is not of its kind.
        SemisamError: the constructor raises one itself.
    """
    return construct_plugin(find(kind, name), arguments, options)


def construct_plugin(
    plugin: Plugin, arguments: Iterable[Any] = (), options: Mapping[str, Any] | None = None
) -> Any:
    """Construct a listed plugin; see `construct`."""
    loaded = load_plugin(plugin)
    title = f"{noun(plugin.kind)} {plugin.name!r}"
    try:
        found = loaded(*arguments, **(options or {}))
    except SemisamError:
        raise
    except ValueError as error:
        raise PluginError(f"{title} refuses its options: {error}") from error
    except Exception as error:
        raise BrokenPlugin(
            f"{title} could not be constructed ({plugin.origin}): {in_one_line(error)}"
        ) from error
    if missing := [part for part in _PARTS[plugin.kind] if not hasattr(found, part)]:
        raise BrokenPlugin(
            f"{title} must have {', '.join(_PARTS[plugin.kind])}, got {type(found).__name__} "
            f"without {', '.join(missing)} ({plugin.origin})."
        )
    check_declared(plugin, found)
    return found
