"""The function `train`, which executes one run from Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from semisam.run.execute import Progress, execute
from semisam.run.request import settings


def train(
    out: str | Path,
    *,
    progress: Progress | None = None,
    max_seconds: float | None = None,
    **given: Any,
) -> Path:
    """Train one method, evaluate it on the test cases, and return the run's folder.

    A folder with an unfinished run is resumed. A finished one does not change.

    Args:
        out: the run's folder.
        progress: called with the phase (``check``, ``adapt``, ``train``, ``evaluate``), the steps
            done, the number of steps, and the current figures by name.
        max_seconds: time after which the training stops at a checkpoint, with an error.
        **given: arguments of `semisam.settings`, e.g. ``data="folder"``, ``method="mt"``,
            ``labels=2``, ``sam="synthsam"``, ``options={"mt.ema_decay": 0.995}``.

    Raises:
        InputError: a setting or a scan cannot be used, or the folder belongs to another run.
        PluginError: a plugin or an option cannot be used.
        InUse: another process holds the folder, or another thread of this one trains.
        SemisamError: the training failed, or its time is over.

    Example:
        Generated phantoms and small patches need only seconds.

        >>> import numpy as np, semisam
        >>> tiny = {"phantom.size": 32, "phantom.cases": 4, "phantom.test_cases": 1}
        >>> run = semisam.train(
        ...     folder, method="mt", labels=2, iterations=2, patch=(16, 16, 16), options=tiny
        ... )
        >>> found = semisam.load(run).predict(np.random.rand(20, 20, 24), spacing=(2, 2, 2))
        >>> found.labelmap.shape
        (20, 20, 24)
    """
    # The current folder may change before the end.
    execute(settings(**given), Path(out).absolute(), progress, max_seconds=max_seconds)
    return Path(out)
