"""A guard against wrong bfloat16 gradients of 3-D convolutions on a CPU.

On CPUs that compute in bfloat16 without AMX, oneDNN's kernel for the gradient of a convolution's
weights (``jit_bf16:avx512_core_bf16``) reads uninitialised memory if the padding on both sides
covers the whole first axis. These are two slices under a 3x3x3 kernel, three or four under 5x5x5.
The gradient then depends on that memory and may be NaN. A V-Net has such volumes at its coarsest
levels if a patch is 16, or 32 to 47, voxels long. They are computed in float32 here.

Seen with PyTorch 2.13; no upstream report of it is known.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GuardedConv3d(nn.Conv3d):
    """A convolution with the values of ``nn.Conv3d``, in float32 where bfloat16 may be wrong."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolution of ``(B, C, *S)``, in the autocast's type."""
        kind = input.device.type
        if kind != "cpu" or not torch.is_autocast_enabled(kind) or not self._is_shallow(input):
            return super().forward(input)
        with torch.autocast(kind, enabled=False):
            output = super().forward(input.float())
        return output.to(torch.get_autocast_dtype(kind))

    def _is_shallow(self, input: Tensor) -> bool:
        padding = self.padding if isinstance(self.padding, tuple) else self.kernel_size
        return input.shape[-3] <= 2 * int(padding[0])


def guard_convolutions(module: nn.Module) -> None:
    """Turn every ``nn.Conv3d`` in a module into a `GuardedConv3d`, in place.

    Parameters, hooks and names do not change. Subclasses of ``nn.Conv3d`` are not touched.
    """
    for part in module.modules():
        if type(part) is nn.Conv3d:
            part.__class__ = GuardedConv3d
