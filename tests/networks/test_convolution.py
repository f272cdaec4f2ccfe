"""Guarded convolutions have PyTorch's values, and where those may be wrong, float32's."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from semisam.networks.convolution import GuardedConv3d, guard_convolutions
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
    guard_convolutions(conv)
    image = torch.randn(3, 16, *shape).contiguous(memory_format=torch.channels_last_3d)
    upstream = torch.randn(3, 8, *shape).bfloat16().float()
    output, got = _gradient(conv, image, upstream, bf16=True)
    _, want = _gradient(conv, image, upstream, bf16=False)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kernel", "padding", "width"), [(3, 1, 1), (3, 1, 2), (2, 0, 3)])
def test_a_stride_that_leaves_one_voxel_gives_the_output_of_float32(kernel, padding, width):
    torch.manual_seed(0)
    conv = nn.Conv3d(32, 64, kernel, stride=2, padding=padding, bias=False)
    guard_convolutions(conv)
    image = torch.randn(2, 32, 6, 4, width).contiguous(memory_format=torch.channels_last_3d)
    for _ in range(4):
        _litter(float("nan"))
        with torch.autocast("cpu", torch.bfloat16):
            output = conv(image)
        assert torch.equal(output, conv(image).bfloat16())


def test_deeper_volumes_and_float32_are_left_to_pytorch():
    torch.manual_seed(0)
    plain = nn.Conv3d(4, 4, 3, padding=1)
    guarded = nn.Conv3d(4, 4, 3, padding=1)
    guarded.load_state_dict(plain.state_dict())
    guard_convolutions(guarded)
    assert type(guarded) is GuardedConv3d
    for depth, bf16 in ((3, True), (8, True), (2, False)):
        image = torch.randn(2, 4, depth, 4, 4)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            assert torch.equal(guarded(image), plain(image))


def test_a_network_trains_alike_whatever_lay_in_memory():
    def gradients(litter):
        torch.manual_seed(0)
        net = VNet(1, {"logits": 2}, filters=4)
        guard_convolutions(net)
        net.train()
        image = random_batch(shape=(32, 16, 16)).image
        with torch.autocast("cpu", torch.bfloat16):
            loss = net(image)["logits"].square().mean()
        _litter(litter)
        loss.backward()
        return [p.grad for p in net.parameters() if p.grad is not None]

    zeros, large = gradients(0.0), gradients(1e4)
    assert zeros and all(torch.equal(a, b) for a, b in zip(zeros, large, strict=True))


def test_other_modules_and_float64_stay_as_they_are():
    net = nn.Sequential(nn.ConvTranspose3d(2, 2, 2, stride=2), nn.Conv3d(2, 2, 1)).double()
    before = dict(net.named_parameters())
    guard_convolutions(net)
    assert type(net[0]) is nn.ConvTranspose3d
    assert all(before[name] is parameter for name, parameter in net.named_parameters())
    with torch.autocast("cpu", torch.bfloat16):
        assert net(torch.randn(1, 2, 3, 3, 3, dtype=torch.float64)).dtype is torch.float64


@pytest.fixture
def by_onednn(monkeypatch):
    """The shapes of the inputs that are given to oneDNN."""
    seen = []
    called = torch.mkldnn_convolution

    def record(image, *rest):
        seen.append(tuple(image.shape))
        return called(image, *rest)

    monkeypatch.setattr(torch, "mkldnn_convolution", record)
    return seen


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("kernel", "more"),
    [(3, {"padding": 1}), (3, {"padding": 1, "stride": 2}), (1, {}), (3, {"dilation": 2})],
)
def test_a_batch_of_one_without_gradients_is_computed_by_onednn(by_onednn, kernel, more, bias):
    torch.manual_seed(0)
    plain = nn.Conv3d(8, 16, kernel, bias=bias, **more)
    guarded = copy.deepcopy(plain)
    guard_convolutions(guarded)
    image = torch.randn(1, 8, 7, 6, 5).contiguous(memory_format=torch.channels_last_3d)
    with torch.no_grad():
        torch.testing.assert_close(guarded(image), plain(image), rtol=1e-4, atol=1e-4)
        assert by_onednn == [image.shape]
        two = image.expand(2, -1, -1, -1, -1)
        assert torch.equal(guarded(two), plain(two))
    assert torch.equal(guarded(image), plain(image))  # PyTorch's, with its gradient
    assert len(by_onednn) == 1


@pytest.mark.parametrize(
    "more", [{"padding": "same"}, {"padding": 1, "padding_mode": "circular"}, {"groups": 4}]
)
def test_every_form_of_a_convolution_without_gradients_has_its_values(more):
    torch.manual_seed(0)
    plain = nn.Conv3d(4, 4, 3, **more)
    guarded = copy.deepcopy(plain)
    guard_convolutions(guarded)
    with torch.no_grad():
        for image in (torch.randn(1, 4, 5, 5, 5), torch.randn(4, 5, 5, 5)):
            torch.testing.assert_close(guarded(image), plain(image), rtol=1e-4, atol=1e-4)
        double = torch.randn(1, 4, 5, 5, 5, dtype=torch.float64)
        assert torch.equal(guarded.double()(double), plain.double()(double))


def test_an_exported_program_has_only_pytorchs_operator(by_onednn):
    conv = nn.Conv3d(2, 2, 3, padding=1)
    guard_convolutions(conv)
    with torch.no_grad():
        program = torch.export.export(conv, (torch.randn(1, 2, 4, 4, 4),))
    assert "mkldnn" not in program.graph_module.code
    assert not by_onednn


def test_weights_in_bfloat16_are_guarded(by_onednn):
    torch.manual_seed(0)
    conv = nn.Conv3d(16, 8, 3, padding=1).bfloat16()
    guard_convolutions(conv)
    image = torch.randn(2, 16, 2, 4, 4)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = conv(image)
    want = functional.conv3d(image, conv.weight.float(), conv.bias.float(), padding=1)
    assert torch.equal(found, want.bfloat16())
    assert not by_onednn
