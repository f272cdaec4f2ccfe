"""MLflow.

References:
    https://mlflow.org/docs/latest/ml/tracking
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from semisam.loggers._package import key_of, require

_TAG = "semisam.run"
_NOT_ALLOWED = re.compile(r"[^\w\-. /]", re.ASCII)


class MLflow:
    """A run of an MLflow experiment, named after the run's folder; a resumed run is the same one.

    Args:
        experiment: receives the runs.
        uri: of the tracking server, or ``file:FOLDER``; empty: MLFLOW_TRACKING_URI.
    """

    def __init__(self, *, experiment: str = "semisam", uri: str = "") -> None:
        require("mlflow")
        self.experiment = experiment
        self.uri = uri

    def open(self, folder: Path, settings: Mapping[str, Any], start: int) -> None:
        """Start or resume the run."""
        from mlflow.tracking import MlflowClient

        client = self._client = MlflowClient(self.uri or None)
        known = client.get_experiment_by_name(self.experiment)
        place = known.experiment_id if known else client.create_experiment(self.experiment)
        key = key_of(folder)
        found = client.search_runs([place], f"tags.`{_TAG}` = '{key}'", max_results=1)
        if found:
            self._run = found[0].info.run_id
            return
        self._run = client.create_run(place, run_name=folder.name, tags={_TAG: key}).info.run_id
        for name, value in settings.items():
            client.log_param(self._run, name, str(value)[:500])

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Send the figures of one step; signs that MLflow refuses in a name become ``_``."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [
            Metric(_NOT_ALLOWED.sub("_", name), value, now, step) for name, value in figures.items()
        ]
        self._client.log_batch(self._run, metrics=metrics)

    def close(self) -> None:
        """End the run."""
        self._client.set_terminated(self._run)
