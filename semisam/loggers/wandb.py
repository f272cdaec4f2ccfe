"""Weights & Biases.

References:
    https://docs.wandb.ai
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from semisam.loggers._package import key_of, require


class WeightsAndBiases:
    """A run of Weights & Biases with the name of the run's folder; a resumed run is the same one.

    Its server keeps the first figures of a step that is logged again, which are the same.

    Args:
        project: receives the runs.
        mode: ``online`` needs an account; ``offline`` writes into the run's folder, for ``wandb
            sync``.
    """

    def __init__(
        self, *, project: str = "semisam", mode: Literal["online", "offline"] = "online"
    ) -> None:
        require("wandb")
        self.project = project
        self.mode = mode

    def open(self, folder: Path, settings: Mapping[str, Any], start: int) -> None:
        """Start or resume the run."""
        import wandb

        self._run: Any = wandb.init(
            project=self.project,
            name=folder.name,
            id=key_of(folder),
            resume="allow",
            dir=str(folder),
            config=dict(settings),
            mode=self.mode,
        )

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Send the figures of one step."""
        self._run.log(dict(figures), step=step)

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()
