"""The prompt encoder of SAM-Med3D: points and a coarse mask as tokens and features.

References:
    Wang et al. "SAM-Med3D." 2023. https://arxiv.org/abs/2310.15161
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from semisam.backends._sam_med3d.layers import ChannelNorm


class _Waves(nn.Module):
    """The encoding of positions in [0, 1]^3 by sines and cosines of random frequencies."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.zeros(3, features))

    def forward(self, position: Tensor) -> Tensor:
        """Map ``(..., 3)`` to ``(..., 3 features)``: sine, cosine and, as published, sine again."""
        phase = 2 * math.pi * ((2 * position - 1) @ self.positional_encoding_gaussian_matrix)
        sine = phase.sin()
        return torch.cat([sine, phase.cos(), sine], -1)


class PromptEncoder(nn.Module):
    """The embedding of points and of a mask at a quarter of the image's resolution.

    Points are positive or negative. The published model has no embedding of a box.

    Args:
        width: channels of a token, a multiple of three.
        hidden: channels between the two halvings of a mask.
        grid: tokens of the image per axis, ``n``.
        size: voxels of the image per axis.
    """

    def __init__(self, *, width: int, hidden: int, grid: int, size: int) -> None:
        super().__init__()
        self.width, self.grid, self.size = width, grid, size
        self.pe_layer = _Waves(width // 3)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, width) for _ in range(2))
        self.not_a_point_embed = nn.Embedding(1, width)
        self.mask_downscaling = nn.Sequential(
            nn.Conv3d(1, hidden // 4, 2, 2),
            ChannelNorm(hidden // 4),
            nn.GELU(),
            nn.Conv3d(hidden // 4, hidden, 2, 2),
            ChannelNorm(hidden),
            nn.GELU(),
            nn.Conv3d(hidden, width, 1),
        )
        self.no_mask_embed = nn.Embedding(1, width)

    def forward(
        self, points: Tensor | None, labels: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Embed the prompts of a batch.

        Args:
            points: ``(B, N, 3)`` voxel positions, array order.
            labels: ``(B, N)``, 1 foreground, 0 background; both ``None``: no points.
            mask: logits ``(B, 1, 4n, 4n, 4n)``; ``None``: no mask.

        Returns:
            tokens ``(B, N + 1, width)``, the last of which marks the absence of a box, or
            ``(B, 0, width)`` without points; features ``(B or 1, width, n, n, n)``.
        """
        if mask is None:
            dense = self.no_mask_embed.weight.view(1, -1, 1, 1, 1)
            dense = dense.expand(-1, -1, self.grid, self.grid, self.grid)
        else:
            dense = self.mask_downscaling(mask)
        if points is None or labels is None:
            return dense.new_zeros(len(dense), 0, self.width), dense
        signs = torch.cat([cast(Tensor, table.weight) for table in self.point_embeddings])
        where = self.pe_layer((points.float() + 0.5) / self.size)
        last = self.not_a_point_embed.weight.expand(len(points), 1, -1)
        return torch.cat([where + signs[labels], last], 1), dense

    def grid_encoding(self) -> Tensor:
        """Return the positions of the image's tokens, ``(1, width, n, n, n)``.

        As published, the first two axes are exchanged here but not for points.
        """
        at = (torch.arange(self.grid, device=self.no_mask_embed.weight.device) + 0.5) / self.grid
        first, second, third = torch.meshgrid(at, at, at, indexing="ij")
        encoded: Tensor = self.pe_layer(torch.stack([second, first, third], -1))
        return encoded.movedim(-1, 0)[None]
