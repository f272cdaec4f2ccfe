"""Fixtures that every test may use."""

from __future__ import annotations

from pathlib import Path

import h5py
import pytest
import torch

from semisam.config import RunSettings
from semisam.data.phantom import Phantom


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


@pytest.fixture
def tiny_la(tmp_path: Path) -> Path:
    """A folder in the published Left Atrium layout: four training and two test cases, tiny."""
    phantom = Phantom(cases=4, test_cases=2, size=32)
    split = phantom.split()
    folder = tmp_path / "la"
    for case in (*split.train, *split.test):
        (folder / case).mkdir(parents=True)
        with h5py.File(folder / case / "mri_norm2.h5", "w") as file:
            file["image"] = phantom.image(case).array[0]
            file["label"] = phantom.label(case)
    (folder / "train.list").write_text("\n".join(split.train) + "\n")
    (folder / "test.list").write_text("\n".join(split.test) + "\n")
    return folder


@pytest.fixture
def tiny_settings(tiny_la: Path) -> RunSettings:
    """Settings of a run that takes a second."""
    return RunSettings(
        data=str(tiny_la),
        dataset="la",
        method="mt",
        labels=2,
        network_options={"filters": 2},
        iterations=4,
        patch=(16, 16, 16),
        stride=(16, 16, 16),
        checkpoint_every=2,
    )
