"""The seconds of a plan, on a clock of the test."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_runs import tiny_phantoms

from semisam.core.errors import InputError
from semisam.run import pace


@pytest.fixture
def seconds_of(monkeypatch):
    """Returns the measured seconds of a mask, if its calls take the given ones."""

    def measured(*calls, fault=""):
        now, left = [0.0], list(calls)

        def write_masks(*args, **more):
            now[0] += left.pop(0)
            return [SimpleNamespace(fault=fault)]

        monkeypatch.setattr(pace, "write_masks", write_masks)
        monkeypatch.setattr(pace, "time", SimpleNamespace(perf_counter=lambda: now[0]))
        found = pace.seconds_of_mask(tiny_phantoms(), [Path("scan.nii.gz")])
        return found, left

    return measured


def test_a_short_mask_is_measured_after_the_start(seconds_of):
    assert seconds_of(4.0, 0.5) == (0.5, [])


def test_a_long_mask_is_made_once(seconds_of):
    assert seconds_of(90.0, 88.0) == (90.0, [88.0])


def test_a_scan_that_cannot_be_read_is_a_fault(seconds_of):
    with pytest.raises(InputError, match="a scan must be readable"):
        seconds_of(1.0, fault="a scan must be readable, got text.")
