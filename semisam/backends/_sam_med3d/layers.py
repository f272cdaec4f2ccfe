"""Layers that the parts of SAM-Med3D share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of ``(B, C, *S)``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each voxel's channels to mean 0 and deviation 1, then scale and shift."""
        last = x.movedim(1, -1)
        return F.layer_norm(last, last.shape[-1:], self.weight, self.bias, 1e-6).movedim(-1, 1)


class TwoLayers(nn.Module):
    """Two linear layers with an activation between them, under the published names."""

    def __init__(self, width: int, hidden: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.lin1 = nn.Linear(width, hidden)
        self.lin2 = nn.Linear(hidden, width)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., width)`` to itself."""
        y: Tensor = self.lin2(self.activation(self.lin1(x)))
        return y
