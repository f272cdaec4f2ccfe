"""WeakStrong keeps the contract of a method, and unsure predictions teach nothing."""

import pytest
from semisam.core.types import Clock
from semisam.testing import FrameworkContract, random_batch, tiny_builder

from semisam_weak_strong import WeakStrong


class TestWeakStrong(FrameworkContract):
    def make(self, build, num_classes):
        return WeakStrong(build, num_classes, threshold=0.5)


def test_unsure_predictions_teach_nothing():
    method = WeakStrong(tiny_builder(norm="none"), 2, threshold=0.999999)
    step = method.training_step(random_batch(), Clock(5, 10))
    assert step.metrics["sure"] < 1e-3 and float(step.losses["strong"].detach()) < 1e-2


def test_a_threshold_above_1_is_refused():
    with pytest.raises(ValueError, match=r"in \[0, 1\), got 1.5"):
        WeakStrong(tiny_builder(), 2, threshold=1.5)
