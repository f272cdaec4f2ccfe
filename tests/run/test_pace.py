"""The seconds of a plan, on a clock of the test."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from scan_files import scan, write
from tiny_runs import tiny_phantoms

from semisam.core.errors import InputError
from semisam.run import pace

ONE_CHANNEL = (24, 24, 24)


@pytest.fixture
def seconds_of(tmp_path, monkeypatch):
    """Returns the measured seconds of a mask, if its calls take the given ones."""
    write(tmp_path / "scan.nii.gz", scan(0, ONE_CHANNEL)[0])

    def measured(*calls, fault=""):
        now, left = [0.0], list(calls)

        def write_masks(*args, **more):
            now[0] += left.pop(0)
            return [SimpleNamespace(fault=fault)]

        monkeypatch.setattr(pace, "write_masks", write_masks)
        monkeypatch.setattr(pace, "time", SimpleNamespace(perf_counter=lambda: now[0]))
        found = pace.seconds_of_mask(tiny_phantoms(), [tmp_path / "scan.nii.gz"])
        return found, left

    return measured


def test_a_short_mask_is_measured_after_the_start(seconds_of):
    assert seconds_of(4.0, 0.5) == (0.5, [])


def test_a_long_mask_is_made_once(seconds_of):
    assert seconds_of(90.0, 88.0) == (90.0, [88.0])


def test_a_scan_that_cannot_be_read_is_a_fault(seconds_of):
    with pytest.raises(InputError, match="a scan must be readable"):
        seconds_of(1.0, fault="a scan must be readable, got text.")
