"""Fixtures that every test may use."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and reference numbers beside the checkout; skips where it is not."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "goldens").is_dir():
        pytest.skip("the reference data beside the checkout is not there")
    return folder


@pytest.fixture(autouse=True, scope="session")
def _two_threads() -> None:
    torch.set_num_threads(2)
