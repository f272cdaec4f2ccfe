"""A faster ReLU for bfloat16 on a CPU.

PyTorch's kernel converts each bfloat16 to float32 and back. A floating-point number is negative
exactly if the integer with the same bits is. So ``max(x, 0)`` is an integer maximum, for which the
CPU has an instruction: about ten times as fast, with the same bits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class InPlaceReLU(nn.Module):
    """In-place ReLU, forward and backward; equal to ``nn.ReLU(inplace=True)``.

    A NaN whose sign bit is set becomes 0 on the fast path. The batch statistics that produce it are
    NaN too, and so are the gradient and the next loss: the trainer stops.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x``, changed in place."""
        if x.dtype is not torch.bfloat16 or x.device.type != "cpu":
            return torch.relu_(x)
        if not (torch.is_grad_enabled() and x.requires_grad):
            x.view(torch.int16).clamp_min_(0)
            return x
        result: Tensor = _InPlaceReLU.apply(x)  # type: ignore[no-untyped-call]
        return result


class _InPlaceReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x.view(torch.int16).clamp_min_(0)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (y,), (gradient,) = ctx.saved_tensors, gradients
        if gradient.stride() != y.stride() or gradient.dtype is not torch.bfloat16:
            slow: Tensor = torch.ops.aten.threshold_backward(gradient, y, 0)
            return slow
        # The bits of a positive bfloat16 are an integer of at least 1: clamped to 1, a 0/1 mask.
        mask = y.view(torch.int16).clamp_max(1)
        passed: Tensor = mask.mul_(gradient.view(torch.int16)).view(torch.bfloat16)
        return passed
