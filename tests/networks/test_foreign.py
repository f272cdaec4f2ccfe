"""Networks of MONAI and of nnU-Net as networks with named heads."""

from __future__ import annotations

import sys

import pytest
import torch

from semisam.core.errors import PluginError
from semisam.networks.monai import MonaiNetwork
from semisam.networks.resenc import ResidualEncoder
from semisam.testing import NetworkContract


class Foreign(NetworkContract):
    levels = 0
    package = "monai"

    @pytest.fixture(autouse=True)
    def _installed(self):
        pytest.importorskip(self.package)


class TestSegResNet(Foreign):
    shape = (24, 16, 8)

    def make(self, in_channels, heads):
        return MonaiNetwork(in_channels, heads, width=8)


class TestDynUNet(Foreign):
    def make(self, in_channels, heads):
        return MonaiNetwork(in_channels, heads, name="DynUNet", width=4)


class TestUNet(Foreign):
    def make(self, in_channels, heads):
        return MonaiNetwork(in_channels, heads, name="UNet", width=4)


class TestUNetOfImages(Foreign):
    shape = (32, 48)

    def make(self, in_channels, heads):
        return MonaiNetwork(in_channels, heads, name="UNet", width=4, axes=2)


class TestResidualEncoder(Foreign):
    package = "dynamic_network_architectures"

    def make(self, in_channels, heads):
        return ResidualEncoder(in_channels, heads, width=4)


def test_swin_unetr_has_named_heads():
    # Its whole contract takes a minute, and the wrapper is that of the others.
    pytest.importorskip("monai")
    network = MonaiNetwork(1, {"logits": 2, "sdf": 1}, name="SwinUNETR", width=12).eval()
    with torch.no_grad():
        found = network(torch.randn(1, 1, 64, 32, 32))
    shapes = {name: tuple(head.shape) for name, head in found.items()}
    assert shapes == {"logits": (1, 2, 64, 32, 32), "sdf": (1, 1, 64, 32, 32)}


@pytest.mark.parametrize(
    ("network", "package"),
    [(MonaiNetwork, "monai.networks"), (ResidualEncoder, "dynamic_network_architectures")],
)
def test_a_missing_package_is_named(network, package, monkeypatch):
    for name in [name for name in sys.modules if name.startswith(package)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(PluginError, match="Run pip install 'semisam"):
        network(1, {"logits": 2})


@pytest.mark.parametrize(
    ("name", "width", "words"),
    [("SegResNet", 12, "multiple of 8"), ("SwinUNETR", 20, "multiple of 12"), ("UNet", -1, "of 1")],
)
def test_a_width_that_it_cannot_have_is_refused(name, width, words):
    with pytest.raises(ValueError, match=words):
        MonaiNetwork(1, {"logits": 2}, name=name, width=width)


def test_a_patch_of_one_voxel_at_the_bottom_is_refused():
    pytest.importorskip("monai")
    network = MonaiNetwork(1, {"logits": 2}, name="UNet", width=4)
    with pytest.raises(ValueError, match="must be a multiple of 16, and one must be larger"):
        network(torch.zeros(2, 1, 16, 16, 16))
