"""Convolutions of three dimensions whose gradients a CPU computes right and fast.

Two faults of PyTorch's own (seen with 2.13 and oneDNN's kernels) are kept away from training:

- **The gradient of the bias costs more than the other two.** Asked for all three gradients at
  once, ``convolution_backward`` takes a slow way for kernels with a stride and for transposed
  ones (``benchmarks/speed_convolution.py``). The gradient of a bias is a sum, and is taken as one.
- **Few slices.** On CPUs that compute in bfloat16 without AMX, oneDNN's kernel for the gradient of
  the weights (``jit_bf16:avx512_core_bf16``) reads memory that nobody has written where the
  padding on either side reaches over the whole first axis: two slices under a 3x3x3 kernel, three
  or four under 5x5x5. A V-Net meets them at its coarsest levels when a patch is 32 to 47 voxels
  long, or 16. The gradient then holds whatever lay there, in the worst case NaN. Such volumes are
  computed in float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_Sizes = tuple[int, ...]


class FastConv3d(nn.Conv3d):
    """A convolution; the same function as ``nn.Conv3d``."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolution of ``(B, C, *S)``, in the autocast's type."""
        kind = input.device.type
        if kind != "cpu" or not torch.is_autocast_enabled(kind) or not self._is_shallow(input):
            return super().forward(input)
        with torch.autocast(kind, enabled=False):
            output = super().forward(input.float())
        return output.to(torch.get_autocast_dtype(kind))

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # "same" may pad one side more than the other.
        plain = self.padding_mode == "zeros" and not isinstance(self.padding, str)
        if bias is None or not plain or not _trains(input, bias):
            output: Tensor = super()._conv_forward(input, weight, bias)
            return output
        return _convolution(
            *(input, weight, bias, self.stride, self.padding, self.dilation),
            *(False, (0,) * len(self.stride), self.groups),
        )

    def _is_shallow(self, input: Tensor) -> bool:
        padding = self.padding if isinstance(self.padding, tuple) else self.kernel_size
        return input.shape[-3] <= 2 * int(padding[0])


class FastConvTranspose3d(nn.ConvTranspose3d):
    """A transposed convolution; the same function as ``nn.ConvTranspose3d``."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return the transposed convolution of ``(B, C, *S)``, in the autocast's type."""
        if output_size is not None or self.bias is None or not _trains(input, self.bias):
            return super().forward(input, output_size)
        assert isinstance(self.padding, tuple)
        return _convolution(
            *(input, self.weight, self.bias, self.stride, self.padding, self.dilation),
            *(True, self.output_padding, self.groups),
        )


_FAST: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv3d: FastConv3d,
    nn.ConvTranspose3d: FastConvTranspose3d,
}


def speed_up(module: nn.Module) -> None:
    """Make every convolution of three dimensions in a module one of this file, in place.

    Parameters, hooks and names stay as they are. A subclass of PyTorch's is left alone.
    """
    for part in module.modules():
        part.__class__ = _FAST.get(type(part), type(part))


def _trains(input: Tensor, bias: Tensor) -> bool:
    """Return whether a gradient of the bias will be wanted, from a CPU under autocast.

    In float32 the other gradients take most of the time, and PyTorch's own way stays.
    """
    # Autocast leaves float64 alone, and so does this file.
    here = input.device.type == "cpu" and input.dtype is not torch.float64
    wanted = bias.requires_grad and torch.is_grad_enabled()
    return here and wanted and torch.is_autocast_enabled("cpu")


def _convolution(input: Tensor, weight: Tensor, bias: Tensor, *options: Any) -> Tensor:
    kind = input.device.type
    # As autocast would: what it sees inside the function has no graph any more.
    dtype = torch.get_autocast_dtype(kind)
    tensors = (input.to(dtype), weight.to(dtype), bias.to(dtype))
    output: Tensor = _Convolution.apply(*tensors, *options)  # type: ignore[no-untyped-call]
    return output


class _Convolution(torch.autograd.Function):
    """``aten::convolution`` but for the gradient of its bias; differentiable more than once."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor,
        stride: _Sizes,
        padding: _Sizes,
        dilation: _Sizes,
        transposed: bool,
        output_padding: _Sizes,
        groups: int,
    ) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.options = (stride, padding, dilation, transposed, output_padding, groups)
        return torch.convolution(input, weight, bias, *ctx.options)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (input, weight), (gradient,) = ctx.saved_tensors, gradients
        wanted = [*ctx.needs_input_grad[:2], False]
        of_input = of_weight = of_bias = None
        if any(wanted):
            of_input, of_weight, _ = torch.ops.aten.convolution_backward(
                gradient, input, weight, None, *ctx.options, wanted
            )
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum((0, *range(2, gradient.ndim)))
        return (of_input, of_weight, of_bias, *[None] * 6)
