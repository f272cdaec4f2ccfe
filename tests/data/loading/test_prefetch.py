"""Batches that are made ahead of the training, in order, by a thread that always ends."""

import threading
import time

import pytest
import torch

from semisam.core.errors import InputError
from semisam.core.types import Batch
from semisam.data.loading.prefetch import Prefetcher


def prefetch_threads():
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_batches_are_those_of_the_source_in_order():
    source = Slow()
    with Prefetcher(source, 3, 15) as ahead:
        steps = []
        for step, batch, waited in ahead:
            assert batch.image.equal(source.batch(step).image)
            assert waited >= 0
            steps.append(step)
    assert steps == list(range(3, 15))
    assert not prefetch_threads()


class Slow:
    def __init__(self, seconds=0.0, fail_at=None):
        self.seconds, self.fail_at, self.made = seconds, fail_at, []

    def batch(self, step):
        time.sleep(self.seconds)
        if step == self.fail_at:
            raise InputError(f"step {step} fails")
        self.made.append(step)
        return Batch(
            torch.full((1, 1, 2, 2), float(step)), torch.zeros((1, 2, 2), dtype=torch.int64)
        )


def test_what_the_thread_raises_reaches_the_consumer_in_its_place():
    seen, source = [], Slow(fail_at=4)
    with pytest.raises(InputError, match="step 4 fails"), Prefetcher(source, 0, 9) as ahead:
        for step, _, _ in ahead:
            seen.append(step)
    assert seen == source.made == [0, 1, 2, 3]  # and no step after the fault
    assert not prefetch_threads()


def test_leaving_early_ends_the_thread_and_no_more_is_made():
    source = Slow()
    with Prefetcher(source, 0, 10_000, depth=2) as ahead:
        for step, _, _ in ahead:
            if step == 2:
                break
    assert not prefetch_threads()
    assert len(source.made) <= 3 + 2 + 1  # taken, waiting, in hand


def test_an_error_of_the_consumer_ends_the_thread():
    with pytest.raises(ZeroDivisionError), Prefetcher(Slow(), 0, 10_000) as ahead:
        for _ in ahead:
            raise ZeroDivisionError
    assert not prefetch_threads()


def test_never_iterating_ends_the_thread():
    with Prefetcher(Slow(), 0, 10_000):
        pass
    assert not prefetch_threads()


def test_no_more_is_made_ahead_than_the_depth():
    source = Slow()
    with Prefetcher(source, 0, 100, depth=2) as ahead:
        time.sleep(0.2)
        assert len(source.made) == 3  # two waiting, one in hand
        assert next(iter(ahead))[0] == 0


def test_the_wait_is_measured():
    with Prefetcher(Slow(seconds=0.05), 0, 3) as ahead:
        assert sum(waited for _, _, waited in ahead) > 0.1


def test_a_second_loop_finds_nothing_left_and_does_not_hang():
    with Prefetcher(Slow(), 0, 3) as ahead:
        assert len(list(ahead)) == 3
        assert list(ahead) == []


def test_iterating_outside_of_with_is_refused():
    with pytest.raises(RuntimeError, match="`with` block"):
        next(iter(Prefetcher(Slow(), 0, 3)))
