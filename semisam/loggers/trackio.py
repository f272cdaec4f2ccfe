"""Trackio.

References:
    https://huggingface.co/docs/trackio
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from semisam.loggers._package import key_of, require


class Trackio:
    """A run of a Trackio project on this machine, named after the run's folder.

    ``trackio show`` draws it. TRACKIO_DIR names the folder of its files.

    Args:
        project: receives the runs.
    """

    def __init__(self, *, project: str = "semisam") -> None:
        require("trackio")
        self.project = project

    def open(self, folder: Path, settings: Mapping[str, Any], start: int) -> None:
        """Start or resume the run."""
        import trackio

        self._run: Any = trackio.init(
            project=self.project,
            name=f"{folder.name}-{key_of(folder)}",
            config=dict(settings),
            resume="allow",
        )

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Write the figures of one step."""
        self._run.log(dict(figures), step=step)

    def close(self) -> None:
        """Write what is left."""
        self._run.finish()
