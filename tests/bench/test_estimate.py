"""Hints for a study that takes long."""

import pytest
from scan_files import write_folder

from semisam.bench.estimate import Cost, shorter
from semisam.run.pace import Pace
from semisam.run.request import settings


def _run(folder, **given):
    about = {"data": str(folder), "method": "supervised", "labels": 1, "device": "cpu"}
    return settings(**about, **given)


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "scans")  # of 1 x 1 x 1.5 mm, with patches of 16x16x16


def test_a_smaller_patch_is_named_if_the_patch_is_large(folder):
    slow = [Cost("supervised", 1, 100, Pace(60.0), 0.0, 1.0)]
    assert shorter(slow, _run(folder, patch=(16, 16, 16))) == ""
    found = shorter(slow, _run(folder, patch=(32, 32, 16)))
    assert found == "Shorter: --patch 16x16x16 (25 % of the voxels of a step)."


def test_a_coarser_spacing_is_named_if_the_tests_take_longest(folder):
    run = _run(folder, patch=(16, 16, 16))
    long = [Cost("supervised", 1, 100, Pace(1.0), 0.0, 900.0)]
    wanted = "Shorter: --set folder.spacing=2,2,2 (19 % of the voxels of a scan)."
    assert shorter(long, run) == wanted
    assert shorter([Cost("supervised", 1, 100, Pace(1.0), 0.0, 90.0)], run) == ""
    chosen = _run(folder, patch=(16, 16, 16), options={"folder.spacing": (1.0, 1.0, 1.0)})
    assert shorter(long, chosen) == ""
