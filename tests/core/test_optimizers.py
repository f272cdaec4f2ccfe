"""Steps and states are PyTorch's, bit for bit, and the compiler is not imported."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch

from semisam.core.optimizers import SGD, AdamW

OPTIONS = {
    "AdamW": {"lr": 0.1, "betas": (0.9, 0.99), "weight_decay": 0.02},
    "SGD": {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4},
}


def _steps(kind, name, count=3, state=None):
    torch.manual_seed(0)
    net = torch.nn.Linear(3, 2)
    optimizer = kind([{"params": [net.weight]}], **OPTIONS[name])
    optimizer.add_param_group({"params": [net.bias], "lr": 0.01})
    if state is not None:
        optimizer.load_state_dict(copy.deepcopy(state))
    for _ in range(count):
        optimizer.zero_grad(set_to_none=True)
        net(torch.randn(4, 3)).square().mean().backward()
        optimizer.step()
    return net, optimizer


@pytest.mark.parametrize("ours", [AdamW, SGD])
def test_steps_are_pytorchs(ours):
    name = ours.__name__
    net, optimizer = _steps(ours, name)
    theirs, other = _steps(getattr(torch.optim, name), name)
    assert torch.equal(net.weight, theirs.weight) and torch.equal(net.bias, theirs.bias)
    assert not torch.equal(net.bias, _steps(ours, name, 0)[0].bias)
    state = optimizer.state_dict()
    assert str(state) == str(other.state_dict())
    on, _ = _steps(ours, name, 1, state)
    theirs, _ = _steps(getattr(torch.optim, name), name, 1, state)
    assert torch.equal(on.weight, theirs.weight)


def test_a_step_keeps_the_mode_of_gradients():
    _, optimizer = _steps(AdamW, "AdamW")
    assert torch.is_grad_enabled()
    assert all(not tensor.requires_grad for s in optimizer.state.values() for tensor in s.values())


def test_the_compiler_is_not_imported():
    code = (
        "import sys, torch\n"
        "from semisam.core.optimizers import AdamW\n"
        "p = torch.nn.Parameter(torch.zeros(2))\n"
        "o = AdamW([p])\n"
        "p.sum().backward()\n"
        "o.step()\n"
        "o.zero_grad()\n"
        "o.load_state_dict(o.state_dict())\n"
        "print('torch._dynamo' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8")
    assert done.stdout == "False\n", done.stderr
