"""Convolutions have PyTorch's values and gradients, and of few slices those of float32."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from semisam.networks.convolution import FastConv3d, FastConvTranspose3d, speed_up
from semisam.networks.vnet import VNet
from semisam.testing import random_batch


def _litter(value):
    """Leave freed memory behind that holds a value, for what reads memory it never wrote."""
    kept = [torch.full((1 << k,), value) for k in range(4, 22) for _ in range(3)]
    del kept


def _gradient(conv, image, upstream, *, bf16):
    conv.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        output = conv(image)
    _litter(float("nan"))
    output.backward(upstream.to(output.dtype))
    return output, conv.weight.grad.clone()


@pytest.mark.parametrize(
    ("kernel", "shape"),
    [
        *((3, (2, n, m)) for n, m in ((2, 2), (3, 5), (8, 8), (16, 3))),
        *((5, (depth, 6, 5)) for depth in (3, 4)),
    ],
)
def test_the_gradient_is_that_of_float32(kernel, shape):
    torch.manual_seed(0)
    conv = nn.Conv3d(16, 8, kernel, padding=kernel // 2)
    speed_up(conv)
    image = torch.randn(3, 16, *shape).contiguous(memory_format=torch.channels_last_3d)
    upstream = torch.randn(3, 8, *shape).bfloat16().float()
    output, got = _gradient(conv, image, upstream, bf16=True)
    _, want = _gradient(conv, image, upstream, bf16=False)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_deeper_volumes_and_float32_are_left_to_pytorch():
    torch.manual_seed(0)
    plain = nn.Conv3d(4, 4, 3, padding=1)
    guarded = nn.Conv3d(4, 4, 3, padding=1)
    guarded.load_state_dict(plain.state_dict())
    speed_up(guarded)
    assert type(guarded) is FastConv3d
    for depth, bf16 in ((3, True), (8, True), (2, False)):
        image = torch.randn(2, 4, depth, 4, 4)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            assert torch.equal(guarded(image), plain(image))


def test_a_network_trains_alike_whatever_lay_in_memory():
    def gradients(litter):
        torch.manual_seed(0)
        net = VNet(1, {"logits": 2}, filters=4)
        speed_up(net)
        net.train()
        image = random_batch(shape=(32, 16, 16)).image
        with torch.autocast("cpu", torch.bfloat16):
            loss = net(image)["logits"].square().mean()
        _litter(litter)
        loss.backward()
        return [p.grad for p in net.parameters() if p.grad is not None]

    zeros, large = gradients(0.0), gradients(1e4)
    assert zeros and all(torch.equal(a, b) for a, b in zip(zeros, large, strict=True))


CONVOLUTIONS = {
    "3x3x3": lambda: nn.Conv3d(6, 4, 3, padding=1),
    "downsampling": lambda: nn.Conv3d(6, 4, 2, stride=2),
    "1x1x1": lambda: nn.Conv3d(6, 4, 1),
    "groups and dilation": lambda: nn.Conv3d(6, 4, 3, padding=(2, 1, 0), dilation=2, groups=2),
    "same": lambda: nn.Conv3d(6, 4, (2, 3, 3), padding="same"),
    "reflected": lambda: nn.Conv3d(6, 4, 3, padding=1, padding_mode="reflect"),
    "no bias": lambda: nn.Conv3d(6, 4, 3, bias=False),
    "upsampling": lambda: nn.ConvTranspose3d(6, 4, 2, stride=2),
    "output padding": lambda: nn.ConvTranspose3d(6, 4, 3, stride=2, padding=1, output_padding=1),
    "upsampling without bias": lambda: nn.ConvTranspose3d(6, 4, 2, stride=2, bias=False),
}


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_values_and_gradients_are_those_of_pytorch(name, bf16):
    torch.manual_seed(0)
    plain = CONVOLUTIONS[name]()
    fast = CONVOLUTIONS[name]()
    fast.load_state_dict(plain.state_dict())
    speed_up(fast)
    assert type(fast) in (FastConv3d, FastConvTranspose3d)
    image = torch.randn(2, 6, 8, 7, 6).contiguous(memory_format=torch.channels_last_3d)
    found = []
    for conv in (plain, fast):
        x = image.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            y = conv(x)
        y.backward(torch.linspace(-1, 1, y.numel()).view(y.shape).to(y.dtype))
        found.append((y.detach(), x.grad, *(p.grad for p in conv.parameters())))
    for ours, theirs in zip(found[1][:3], found[0][:3], strict=True):
        assert torch.equal(ours, theirs)
    if plain.bias is not None:
        close = {"rtol": 2e-2, "atol": 2e-2} if bf16 else {"rtol": 1e-5, "atol": 1e-4}
        torch.testing.assert_close(found[1][3], found[0][3], **close)


@pytest.mark.parametrize("name", ["downsampling", "upsampling"])
def test_gradients_of_gradients(name):
    """A method may penalise a gradient."""
    torch.manual_seed(0)
    conv = CONVOLUTIONS[name]()
    image = torch.randn(1, 6, 4, 4, 4, requires_grad=True)
    found = []
    for _ in range(2):
        conv.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            output = conv(image).float()
        (of_image,) = torch.autograd.grad(output.square().sum(), image, create_graph=True)
        of_image.square().sum().backward()
        found.append((conv.weight.grad.clone(), conv.bias.grad.clone()))
        speed_up(conv)
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-2)


def test_float64_stays_itself_under_autocast():
    conv = nn.ConvTranspose3d(2, 2, 2).double()
    speed_up(conv)
    with torch.autocast("cpu", torch.bfloat16):
        assert conv(torch.randn(1, 2, 3, 3, 3, dtype=torch.float64)).dtype is torch.float64


def test_a_frozen_network_with_a_trained_bias():
    conv = nn.Conv3d(2, 2, 2, stride=2)
    conv.weight.requires_grad_(False)
    speed_up(conv)
    with torch.autocast("cpu", torch.bfloat16):
        conv(torch.randn(1, 2, 4, 4, 4)).sum().backward()
    torch.testing.assert_close(conv.bias.grad, torch.full((2,), 8.0))
