"""PyTorch's optimizers without its compiler.

Methods of ``torch.optim.Optimizer`` import ``torch._dynamo`` when they are called first, to keep
the compiler from tracing them. The import takes two to three seconds of each process. No training
here compiles, so these classes call the methods themselves.
"""

from __future__ import annotations

from typing import Any

import torch


def _itself(method: Any) -> Any:
    """Return a method without PyTorch's wrapper, or the method if it has no wrapper."""
    return getattr(method, "__wrapped__", method)


class _Plain(torch.optim.Optimizer):
    add_param_group = _itself(torch.optim.Optimizer.add_param_group)
    load_state_dict = _itself(torch.optim.Optimizer.load_state_dict)
    state_dict = _itself(torch.optim.Optimizer.state_dict)
    zero_grad = _itself(torch.optim.Optimizer.zero_grad)


class AdamW(_Plain, torch.optim.AdamW):
    """The optimizer `torch.optim.AdamW`, whose steps are the same bit for bit."""

    step = torch.no_grad()(_itself(torch.optim.AdamW.step))


class SGD(_Plain, torch.optim.SGD):
    """The optimizer `torch.optim.SGD`, whose steps are the same bit for bit."""

    step = torch.no_grad()(_itself(torch.optim.SGD.step))
