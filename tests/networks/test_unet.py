"""The U-Net that starts from the synthetic pretraining."""

import pytest
import torch

from semisam.backends.synthsam import EMBEDDED
from semisam.core.errors import InputError
from semisam.networks._synthsam import CHANNELS, SynthSAMNet, from_subvoxels
from semisam.networks._synthsam_weights import load_weights
from semisam.networks.unet import UNet

SHAPES = {2: (48, 32), 3: (16, 12, 24)}


@pytest.fixture(params=[2, 3], ids=["pictures", "volumes"])
def image(request):
    shape = SHAPES[request.param]
    return torch.randn(2, 1, *shape, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_it_starts_as_synthsam_without_a_prompt(image):
    axes = image.ndim - 2
    pretrained = SynthSAMNet(axes).eval()
    pretrained.load_state_dict(load_weights(EMBEDDED[axes], axes))
    features = pretrained.encode(image)
    prompt = image.new_zeros(2, CHANNELS, *features.levels[0].shape[2:])
    odds = from_subvoxels(pretrained.decode(features, prompt, [[[], []]] * 2))[:, 0]
    logits = UNet(1, {"logits": 3, "sdf": 1}, axes=axes).eval()(image)["logits"]
    assert not logits[:, 0].any()
    for value in (1, 2):
        assert torch.allclose(logits[:, value], odds, atol=1e-4)
    only = UNet(1, {"logits": 1}, axes=axes).eval()(image)["logits"]  # its background has none
    assert torch.allclose(only[:, 0], odds, atol=1e-4)


@torch.no_grad()
def test_equal_channels_are_as_one(image):
    axes = image.ndim - 2
    one, three = (UNet(n, {"logits": 2}, axes=axes).eval() for n in (1, 3))
    found = three(torch.cat([image] * 3, 1))["logits"]
    assert torch.allclose(found, one(image)["logits"], atol=1e-4)


@torch.no_grad()
def test_further_decoders_start_as_the_first_but_for_their_enlargement(image):
    axes = image.ndim - 2
    net = UNet(1, {"logits": 2, "sdf_decoder2": 1, "sdf_decoder3_level1": 1}, axes=axes).eval()
    levels = net.net.pyramid(net._parts(image))
    nothing = levels[0].new_zeros(2, CHANNELS + 2, *levels[0].shape[2:])
    first = net.net.decoded(levels, nothing)
    linear, copies = (net.decoders[n](levels, nothing) for n in ("2", "3"))
    for ours, other in zip(first, copies, strict=True):
        assert torch.allclose(ours, other, atol=1e-4)
    assert torch.allclose(first[-1], linear[-1], atol=1e-4)  # nothing is enlarged to get there
    assert not torch.allclose(first[0], linear[0], atol=1e-2)


@torch.no_grad()
def test_heads_that_were_not_pretrained_start_at_0(image):
    axes = image.ndim - 2
    heads = {"logits": 2, "sdf": 1, "logits_level1": 2}
    for start, zero in (("synthetic", True), ("none", False)):
        found = UNet(1, heads, axes=axes, start=start).eval()(image)
        assert found["logits"].any()
        assert all(bool(found[name].any()) is not zero for name in ("sdf", "logits_level1"))


def test_a_decoder_that_nobody_reads_is_not_there(image):
    axes = image.ndim - 2
    torch.manual_seed(0)
    net = UNet(1, {"logits": 2}, axes=axes)
    assert not any(name.startswith("decoders") for name in net.state_dict())
    with pytest.raises(ValueError, match=r"of 3 decoders at most, got logits_decoder4"):
        UNet(1, {"logits_decoder4": 2}, axes=axes)


def test_sources_are_the_file_that_decides():
    assert UNet.sources() == {"start": EMBEDDED[3]}
    assert UNet.sources(axes=2) == {"start": EMBEDDED[2]}
    assert UNet.sources(start="none") == {}
    assert str(UNet.sources(start="a.safetensors")["start"]) == "a.safetensors"


def test_what_it_cannot_start_from(tmp_path):
    with pytest.raises(InputError, match="must be a safetensors file"):
        UNet(1, {"logits": 2}, start=str(tmp_path / "none.safetensors"))
    with pytest.raises(ValueError, match="logits_level5"):
        UNet(1, {"logits": 2, "logits_level5": 2})
    with pytest.raises(ValueError, match="of even sizes"):
        UNet(1, {"logits": 2}, start="none")(torch.zeros(1, 1, 15, 16, 16))
    with pytest.raises(ValueError, match="must have 2 spatial axes"):
        UNet(1, {"logits": 2}, axes=2, start="none")(torch.zeros(1, 1, 16, 16, 16))
    with pytest.raises(InputError, match=r"network for 2 axes, got .* where ask.weight is"):
        UNet(1, {"logits": 2}, axes=2, start=str(EMBEDDED[3]))


def test_random_weights_follow_the_seed():
    def made(seed):
        torch.manual_seed(seed)
        return UNet(1, {"logits": 2}, start="none").state_dict()

    same, again, other = made(0), made(0), made(1)
    assert all(torch.equal(same[k], again[k]) for k in same)
    assert any(not torch.equal(same[k], other[k]) for k in same)


def test_deep_heads_of_pictures_have_their_size():
    net = UNet(3, {"logits": 2, "logits_level3": 2}, axes=2, start="none")
    found = net(torch.randn(1, 3, 32, 48))
    assert [x.shape for x in found.values()] == [(1, 2, 32, 48)] * 2


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
