"""Settings of runs as tests write them."""

from __future__ import annotations

from typing import Any

from semisam.run.resolve import make_settings
from semisam.run.settings import RunSettings

TINY_NET = ("--network", "vnet", "--set", "vnet.filters=2")
"""Arguments of the narrowest V-Net, whose steps take milliseconds."""


def settings_of(**given: Any) -> RunSettings:
    """Return the resolved settings of a run."""
    return make_settings(given)


def changed(settings: RunSettings, **updates: Any) -> RunSettings:
    """Return settings with some others, resolved once more."""
    decided = {"sources", "sam_sources", "departures", "choices"}
    given = settings.model_dump(
        exclude=decided | ({"prompter"} if settings.sam == "none" else set())
    )
    return make_settings({**given, **updates})
