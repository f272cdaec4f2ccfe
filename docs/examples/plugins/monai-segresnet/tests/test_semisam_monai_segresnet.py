"""MonaiSegResNet keeps the contract of a network."""

import pytest
from semisam.testing import NetworkContract

from semisam_monai_segresnet import MonaiSegResNet

pytest.importorskip("monai")


class TestMonaiSegResNet(NetworkContract):
    shape = (24, 8, 16)
    levels = 0

    def make(self, in_channels, heads):
        return MonaiSegResNet(in_channels, heads, width=8)
