"""The seconds of a plan, on a clock of the test."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_runs import changed, tiny_phantoms

from semisam.backends.synthsam import SynthSAM
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


def test_steps_are_measured_with_the_batch_of_the_run():
    """Of eight cases two of each kind are read, and they fill the rows of all."""
    options = {"cases": 8, "test_cases": 1, "size": 32}
    settings = tiny_phantoms(
        **{"method": "mt", "labels": 4, "dataset_options": options, "batch": 8, "micro_batch": 2},
        patch=(32, 32, 32),
    )
    assert pace.pace_of(settings).seconds > 0  # four labeled rows divide over four parts
    with pytest.raises(InputError, match="over 8 micro-batches, got 4 labeled rows"):
        pace.pace_of(changed(settings, micro_batch=1))


def test_an_adaptation_is_measured_on_what_it_adapts_to(tmp_path, monkeypatch):
    """Volumes as the slices that patches of two axes are cut from."""
    seen = []

    def adapt(self, cases, file, *, steps, on_step, **more):
        assert all(label.any() for _, label in cases)  # an empty slice shows no organ
        seen.extend(tuple(label.shape) for _, label in cases)
        for done in range(steps):
            on_step(done)

    monkeypatch.setattr(SynthSAM, "adapt", adapt)
    settings = tiny_phantoms(
        **{"method": "fixmatch", "network": "unet", "network_options": {}, "sam": "synthsam"},
        **{"sam_adapt": 4, "patch": (16, 16), "stride": (16, 16), "labels": 1},
    )
    assert pace.seconds_of_adaptation(settings) >= 0
    assert {len(shape) for shape in seen} == {2}


def test_the_windows_of_the_test_are_counted_and_a_few_are_predicted(monkeypatch):
    """Of two windows along two axes each takes a quarter of the call."""
    now, seen = [0.0], []

    def predict(network, part, patch, stride, **about):
        seen.append(part.array.shape[1:])
        now[0] += 4.0

    monkeypatch.setattr(pace, "predict_probabilities", predict)
    monkeypatch.setattr(pace, "now", lambda device: now[0])
    more = {"cases": 3, "test_cases": 2, "size": 32}
    settings = tiny_phantoms(dataset_options=more, labels=1)
    size = pace.open_dataset(settings).image("test_000").array.shape[1:]
    windows = pace.count_windows(size, settings.patch, settings.stride)
    assert pace.seconds_of_test(settings) == 2 * windows * 1.0 and windows >= 8
    assert seen == [(*size[:2], 16)] * 2  # once to start libraries, and once to measure
    assert pace.seconds_of_test(changed(settings, test="none")) == 0
    whole = tiny_phantoms(dataset_options=more, labels=1, method="copied-mask")
    assert pace.seconds_of_test(whole) == 2 * 4.0 and seen[-1] == size
