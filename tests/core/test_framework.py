"""Networks of which only attributes are read, and names of losses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from semisam.core.errors import PluginError
from semisam.core.framework import NetBuilder, blueprint, check_loss_names
from semisam.frameworks.semisam import SemiSAM
from semisam.frameworks.supervised import Supervised
from semisam.testing import FakeBackend, FakePrompter, tiny_builder


class ReadsANumber(nn.Module):
    """A network whose rates are read from a tensor, as of stochastic depth."""

    stride = 4

    def __init__(self) -> None:
        super().__init__()
        self.rates = [rate.item() for rate in torch.linspace(0, 0.1, 3)]
        self.conv = nn.Conv3d(1, 2, 3)


def test_the_stride_of_a_network_that_reads_numbers_is_known():
    before = torch.get_rng_state()
    assert NetBuilder(lambda heads: ReadsANumber(), 1, 3).stride == 4
    assert torch.equal(before, torch.get_rng_state())


def test_a_blueprint_has_no_weights_in_memory_where_it_can():
    assert blueprint(lambda: nn.Conv3d(1, 2, 3)).weight.is_meta
    assert not blueprint(ReadsANumber).conv.weight.is_meta


def test_a_fault_of_a_constructor_is_raised():
    def broken() -> nn.Module:
        raise ValueError("width must be positive, got 0.")

    with pytest.raises(ValueError, match="width must be positive"):
        blueprint(broken)


@pytest.mark.parametrize("name", ["loss", "lr", "step", "sam", "sam_weight"])
def test_a_loss_needs_a_name_of_its_own(name: str):
    method = Supervised(tiny_builder(), 2)
    with pytest.raises(PluginError, match=f"got '{name}' of method Supervised. Rename it"):
        check_loss_names(["ce", name], method)
    check_loss_names(["ce", "same", "stepwise", "lr_consistency"], method)
    branch = SemiSAM(method, FakeBackend(), FakePrompter())
    check_loss_names(["ce", "sam"], branch)
