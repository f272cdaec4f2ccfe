"""Fixtures of the tests of grids and their executors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from grid_runs import bench, results_of

import semisam


@pytest.fixture(scope="session")
def child_environment() -> Iterator[None]:
    """Let child processes import this semisam and compute with one thread."""
    here = [str(Path(semisam.__file__).parents[1])]
    if given := os.environ.get("PYTHONPATH"):
        here.append(given)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(here))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory, child_environment: None) -> pd.DataFrame:
    """The results of the grid on two devices of this machine, of which both are its CPU."""
    out = tmp_path_factory.mktemp("local")
    result = bench(out, "--device", "cpu,cpu")
    assert result.exit_code == 0, result.output
    return results_of(out)
