"""The fast ReLU is PyTorch's, to the bit, in both directions."""

from __future__ import annotations

import pytest
import torch

from semisam.networks.activation import InPlaceReLU


def _input(dtype, channels_last):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 5, 4, 6).to(dtype)
    special = torch.tensor([0.0, -0.0, float("inf"), float("-inf"), 1e-40, -1e-40]).to(dtype)
    x.view(-1)[: len(special)] = special
    return x.contiguous(memory_format=torch.channels_last_3d) if channels_last else x


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_forward_and_gradient_are_relus(dtype, channels_last):
    weight = _input(dtype, not channels_last).nan_to_num(1.0, 2.0, -2.0)
    results = []
    for relu in (InPlaceReLU(), torch.nn.ReLU(inplace=True)):
        x = _input(dtype, channels_last).requires_grad_()
        y = relu(x * 1)
        (y.nan_to_num(0.0, 3.0) * weight).sum().backward()
        results.append((y.detach(), x.grad))
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


def test_in_place_without_a_gradient():
    x = _input(torch.bfloat16, True)
    want = x.relu()
    with torch.no_grad():
        y = InPlaceReLU()(x)
    assert y.data_ptr() == x.data_ptr() and torch.equal(x, want)


@pytest.mark.parametrize("grad", [True, False])
def test_a_nan_is_not_hidden_from_the_trainer(grad):
    """Its BatchNorm's gradient is NaN whatever the activation makes of the map."""
    norm = torch.nn.BatchNorm3d(2)
    x = torch.randn(2, 2, 3, 3, 3).bfloat16()
    x[0, 0, 0, 0, 0] = float("inf")
    x.requires_grad_(grad)
    y = InPlaceReLU()(norm(x))
    y.float().mean().backward()
    assert norm.weight.grad.isnan().any() or y.isnan().any()
    assert norm.running_var.isnan().any() or norm.running_var.isinf().any()
