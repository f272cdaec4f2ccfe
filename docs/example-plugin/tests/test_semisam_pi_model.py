"""PiModel keeps the contract of a method, and its consistency loss is as documented."""

import pytest
from semisam.testing import FrameworkContract, random_batch, tiny_builder
from semisam.core.types import Clock

from semisam_pi_model import PiModel


class TestPiModel(FrameworkContract):
    def make(self, build, num_classes):
        return PiModel(build, num_classes)


def test_equal_inputs_give_no_consistency_loss():
    method = PiModel(tiny_builder(norm="none", dropout=0.0), 2, noise=0.0)
    losses = method.training_step(random_batch(), Clock(700, 1000)).losses
    assert float(losses["consistency"].detach()) == pytest.approx(0.0, abs=1e-9)


def test_a_negative_noise_is_refused():
    with pytest.raises(ValueError, match="at least 0, got -1"):
        PiModel(tiny_builder(), 2, noise=-1.0)
