"""TensorBoard.

References:
    https://www.tensorflow.org/tensorboard
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from semisam.loggers._package import require


class TensorBoard:
    """Events in the folder ``tensorboard`` of the run; of a killed run, later ones are hidden."""

    def __init__(self) -> None:
        require("tensorboard")

    def open(self, folder: Path, settings: Mapping[str, Any], start: int) -> None:
        """Open a file of events."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=start)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Write one scalar per figure."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()
