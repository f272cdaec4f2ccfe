"""MCNet keeps the contract of a method, and its decoders teach each other."""

import pytest
import torch
from semisam.core.framework import NetBuilder
from semisam.core.types import Clock
from semisam.testing import FrameworkContract, random_batch, tiny_builder
from torch import nn

from semisam_mc_net import HEADS, MCNet


class TestMCNet(FrameworkContract):
    def make(self, build, num_classes):
        return MCNet(build, num_classes)


class Alike(nn.Module):
    """A network whose heads all give certain and equal outputs."""

    def forward(self, image):
        return {name: 50 * torch.cat([-image, image], 1).sign() for name in HEADS}


def test_decoders_that_are_sure_and_agree_cost_nothing():
    method = MCNet(NetBuilder(lambda heads: Alike(), 1, 3), 2)
    losses = method.training_step(random_batch(), Clock(99, 100)).losses
    assert float(losses["consistency"]) == pytest.approx(0.0, abs=1e-9)


def test_a_temperature_of_0_is_refused():
    with pytest.raises(ValueError, match="above 0, got 0"):
        MCNet(tiny_builder(), 2, temperature=0)
