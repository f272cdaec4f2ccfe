"""The contract of a logger, complete for authors of loggers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Logger(Protocol):
    """A service that receives the figures of a training; ``train.jsonl`` is written without one.

    A class takes its options as keyword-only constructor arguments. Its constructor writes nothing
    and raises a `PluginError` where the service's package is missing.

    An error of ``open`` ends the run before its first step. An error of ``log`` or ``close`` is a
    warning, and the training continues without the logger. With several processes, only the first
    one has a logger.
    """

    def open(self, folder: Path, settings: Mapping[str, Any], start: int) -> None:
        """Open the service for one run.

        Args:
            folder: of the run. The logger may keep files there, under a name of its own.
            settings: of the run, as plain values.
            start: the first step that is logged now. Of a killed run, later steps may be known
                already; they are logged once more with the same figures.
        """
        ...

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Take the figures of one step: every loss, the learning rate, and the metrics.

        A figure is not there in every step, and may be infinite or not a number.
        """
        ...

    def close(self) -> None:
        """Send what is left. The run may be finished, stopped or failed."""
        ...
