"""A guard against wrong 3-D convolutions in bfloat16 on a CPU, and against slow ones in float32.

On CPUs that compute in bfloat16 without AMX, oneDNN's kernel for the gradient of a convolution's
weights (``jit_bf16:avx512_core_bf16``) reads uninitialised memory if the padding on both sides
covers the whole first axis. These are two slices under a 3x3x3 kernel, three or four under 5x5x5.
The gradient then depends on that memory and may be NaN. A V-Net has such volumes at its coarsest
levels if a patch is 16, or 32 to 47, voxels long.

On CPUs with AMX the output itself depends on such memory if a stride leaves one voxel along the
last axis: an input of one or two under 3x3x3 and stride 2, of three under 2x2x2. MONAI's SegResNet
has it at a patch 8 voxels thick, nnU-Net's encoder at 16.

Both are computed in float32 here. In float32, PyTorch gives oneDNN a batch of one only if channels
times the first two extents exceed 20,480. Its own convolution of 24x24x16 voxels with 32 channels
takes eight times as long as oneDNN's, which is called here. Seen with PyTorch 2.13; no upstream
reports are known.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_ONEDNN: Any = torch.backends.mkldnn


class GuardedConv3d(nn.Conv3d):
    """A convolution with the values of ``nn.Conv3d``, in float32 where bfloat16 may be wrong."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolution of ``(B, C, *S)``, in the autocast's type."""
        kind = input.device.type
        if kind != "cpu":
            return super().forward(input)
        if not torch.is_autocast_enabled(kind):
            return self._by_onednn(input) if self._may_be_slow(input) else super().forward(input)
        if not (self._is_shallow(input) or self._leaves_one(input)):
            return super().forward(input)
        bias = None if self.bias is None else self.bias.float()
        with torch.autocast(kind, enabled=False):
            output: Tensor = self._conv_forward(input.float(), self.weight.float(), bias)
        return output.to(torch.get_autocast_dtype(kind))

    def _may_be_slow(self, input: Tensor) -> bool:
        """Return whether PyTorch may compute a batch of one itself, and oneDNN can.

        With gradients it cannot: PyTorch would still use its own backward pass. An exported program
        keeps PyTorch's operator, which runs everywhere.
        """
        return (
            not torch.is_grad_enabled()
            and not torch.compiler.is_compiling()
            and _ONEDNN.is_available()
            and _ONEDNN.enabled
            and input.dtype == self.weight.dtype == torch.float32
            and input.ndim == 5
            and len(input) == 1
            and self.padding_mode == "zeros"
            and not isinstance(self.padding, str)
        )

    def _by_onednn(self, input: Tensor) -> Tensor:
        shape = (self.padding, self.stride, self.dilation, self.groups)
        output: Tensor = torch.mkldnn_convolution(input, self.weight, self.bias, *shape)  # type: ignore[arg-type]
        return output

    def _is_shallow(self, input: Tensor) -> bool:
        return input.shape[-3] <= 2 * self._padding(0)

    def _leaves_one(self, input: Tensor) -> bool:
        reach = self.dilation[-1] * (self.kernel_size[-1] - 1) + 1
        left = input.shape[-1] + 2 * self._padding(-1) - reach
        return self.stride[-1] > 1 and left < self.stride[-1]

    def _padding(self, axis: int) -> int:
        return self.kernel_size[axis] if isinstance(self.padding, str) else int(self.padding[axis])


def guard_convolutions(module: nn.Module) -> None:
    """Turn every ``nn.Conv3d`` in a module into a `GuardedConv3d`, in place.

    Parameters, hooks and names do not change. Subclasses of ``nn.Conv3d`` are not touched.
    """
    for part in module.modules():
        if type(part) is nn.Conv3d:
            part.__class__ = GuardedConv3d
