"""Name the distribution in whose code an error was raised, so that a report reaches its authors."""

from __future__ import annotations

import traceback

from semisam.plugins.registry import GROUPS, Plugin, all_plugins, noun


def note_plugin(error: BaseException) -> None:
    """Add a note about the plugin whose code raised an error; the traceback ends with it.

    The innermost call counts that is in the package of a plugin, other than the built-in ones. An
    error of other code gets no note.
    """
    foreign: dict[str, list[Plugin]] = {}
    for kind in GROUPS:
        for plugin in all_plugins(kind):
            if not plugin.builtin:
                foreign.setdefault(_package(plugin.value), []).append(plugin)
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        plugins = foreign.get(_package(frame.f_globals.get("__name__", "")))
        if plugins:
            names = ", ".join(f"{noun(plugin.kind)} {plugin.name!r}" for plugin in plugins)
            error.add_note(
                f"Raised in {frame.f_code.co_filename}, line {line}, of distribution "
                f"{plugins[0].distribution} {plugins[0].version} ({names}). Report it there."
            )
            return


def _package(module: str) -> str:
    """Return the outermost package of ``package.module:attribute``."""
    return module.partition(":")[0].partition(".")[0]
