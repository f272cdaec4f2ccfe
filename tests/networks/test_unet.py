"""The U-Net that starts from the synthetic pretraining."""

import pytest
import torch

from semisam.backends.synthsam import EMBEDDED
from semisam.core.errors import InputError
from semisam.networks._synthsam import CHANNELS, SynthSAMNet, from_subvoxels
from semisam.networks._synthsam_weights import load_weights
from semisam.networks.unet import UNet

IMAGE = torch.randn(2, 1, 16, 12, 24, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def pretrained():
    net = SynthSAMNet()
    net.load_state_dict(load_weights(EMBEDDED[3]))
    return net.eval()


@torch.no_grad()
def test_it_starts_as_synthsam_without_a_prompt(pretrained):
    features = pretrained.encode(IMAGE)
    prompt = IMAGE.new_zeros(2, CHANNELS, *features.levels[0].shape[2:])
    odds = from_subvoxels(pretrained.decode(features, prompt, [[[], []]] * 2))[:, 0]
    logits = UNet(1, {"logits": 3, "sdf": 1}).eval()(IMAGE)["logits"]
    assert not logits[:, 0].any()
    for value in (1, 2):
        assert torch.allclose(logits[:, value], odds, atol=1e-4)


@torch.no_grad()
def test_equal_channels_are_as_one():
    one, three = UNet(1, {"logits": 2}).eval(), UNet(3, {"logits": 2}).eval()
    found = three(IMAGE.expand(-1, 3, -1, -1, -1))["logits"]
    assert torch.allclose(found, one(IMAGE)["logits"], atol=1e-4)


def test_sources_are_the_file_that_decides():
    assert UNet.sources() == {"start": EMBEDDED[3]}
    assert UNet.sources(start="none") == {}
    assert str(UNet.sources(start="a.safetensors")["start"]) == "a.safetensors"


def test_what_it_cannot_start_from(tmp_path):
    with pytest.raises(InputError, match="must be a safetensors file"):
        UNet(1, {"logits": 2}, start=str(tmp_path / "none.safetensors"))
    with pytest.raises(ValueError, match="logits_level5"):
        UNet(1, {"logits": 2, "logits_level5": 2})
    with pytest.raises(ValueError, match="of even sizes"):
        UNet(1, {"logits": 2}, start="none")(torch.zeros(1, 1, 15, 16, 16))


def test_random_weights_follow_the_seed():
    def made(seed):
        torch.manual_seed(seed)
        return UNet(1, {"logits": 2}, start="none").state_dict()

    same, again, other = made(0), made(0), made(1)
    assert all(torch.equal(same[k], again[k]) for k in same)
    assert any(not torch.equal(same[k], other[k]) for k in same)


def test_deep_heads_are_read_from_coarser_grids():
    heads = {"logits": 2, **{f"logits_level{i}": 3 for i in range(1, 5)}}
    net = UNet(1, heads).eval()
    found = net(torch.randn(1, 1, 32, 32, 32))
    for i in range(1, 5):
        deep = found[f"logits_level{i}"]
        assert deep.shape == (1, 3, 32, 32, 32)
        # Between the centres of two coarse voxels the head is linear.
        line = deep[0, 0, 16, 16].detach()
        inner = line[2 ** (i - 1) : -(2 ** (i - 1))].unfold(0, 2**i, 2**i)
        bends = inner.diff(n=2, dim=1).abs().max() if i > 1 else torch.zeros(())
        assert float(bends) < 1e-4
    found["logits_level4"].sum().backward()
    assert net.heads["logits_level4"].weight.grad is not None
