"""Convolutions of few slices, whose gradient in bfloat16 a CPU may get wrong.

On CPUs that compute in bfloat16 without AMX, oneDNN's kernel for the gradient of a convolution's
weights (``jit_bf16:avx512_core_bf16``, seen with PyTorch 2.13) reads memory that nobody has written
where the padding on either side reaches over the whole first axis: two slices under a 3x3x3 kernel,
three or four under 5x5x5. A V-Net meets them at its coarsest levels when a patch is 32 to 47 voxels
long, or 16. The gradient then holds whatever lay there, in the worst case NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GuardedConv3d(nn.Conv3d):
    """A convolution that computes volumes of few slices in float32, whatever the autocast."""

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


def guard_shallow(module: nn.Module) -> None:
    """Make every `torch.nn.Conv3d` in a module a `GuardedConv3d`, in place.

    Parameters, hooks and names stay as they are. A subclass of ``Conv3d`` is left alone.
    """
    for part in module.modules():
        if type(part) is nn.Conv3d:
            part.__class__ = GuardedConv3d
