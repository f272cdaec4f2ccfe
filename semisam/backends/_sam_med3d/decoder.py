"""The mask decoder of SAM-Med3D: attention between prompts and image, then the masks.

References:
    Wang et al. "SAM-Med3D." 2023. https://arxiv.org/abs/2310.15161
    Kirillov et al. "Segment anything." ICCV 2023. https://arxiv.org/abs/2304.02643
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semisam.backends._sam_med3d.layers import ChannelNorm, TwoLayers

_HEADS = 8
_DEPTH = 2
_MASKS = 4  # the first for a clear prompt, the others for an ambiguous one


class _Attention(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(width, inner)
        self.k_proj = nn.Linear(width, inner)
        self.v_proj = nn.Linear(width, inner)
        self.out_proj = nn.Linear(inner, width)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Map queries ``(B, N, width)``, keys and values ``(B, M, width)`` to ``(B, N, width)``."""
        split = [
            proj(x).unflatten(2, (_HEADS, -1)).transpose(1, 2)
            for proj, x in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v))
        ]
        y = F.scaled_dot_product_attention(*split)
        merged: Tensor = self.out_proj(y.transpose(1, 2).flatten(2))
        return merged


class _TwoWayBlock(nn.Module):
    def __init__(self, width: int, inner: int, hidden: int, *, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = _Attention(width, width)
        self.norm1 = nn.LayerNorm(width)
        self.cross_attn_token_to_image = _Attention(width, inner)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = TwoLayers(width, hidden, F.relu)
        self.norm3 = nn.LayerNorm(width)
        self.norm4 = nn.LayerNorm(width)
        self.cross_attn_image_to_token = _Attention(width, inner)

    def forward(
        self, tokens: Tensor, image: Tensor, prompts: Tensor, where: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Update tokens ``(B, N, width)`` and image ``(B, n^3, width)``.

        Args:
            tokens: current tokens of the prompts.
            image: current tokens of the image.
            prompts: original tokens of the prompts, added to queries and keys as positions.
            where: positions of the image's tokens.
        """
        if self.first:
            # The tokens equal the prompts here: no addition and no residual, as published.
            tokens = self.self_attn(tokens, tokens, tokens)
        else:
            q = tokens + prompts
            tokens = tokens + self.self_attn(q, q, tokens)
        tokens = self.norm1(tokens)
        k = image + where
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + prompts, k, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = self.norm4(image + self.cross_attn_image_to_token(k, tokens + prompts, tokens))
        return tokens, image


class _Transformer(nn.Module):
    def __init__(self, width: int, inner: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            _TwoWayBlock(width, inner, hidden, first=i == 0) for i in range(_DEPTH)
        )
        self.final_attn_token_to_image = _Attention(width, inner)
        self.norm_final_attn = nn.LayerNorm(width)

    def forward(self, prompts: Tensor, image: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
        """Return the updated prompts ``(B, N, width)`` and image ``(B, n^3, width)``."""
        tokens = prompts
        for layer in self.layers:
            tokens, image = layer(tokens, image, prompts, where)
        found = self.final_attn_token_to_image(tokens + prompts, image + where, image)
        return self.norm_final_attn(tokens + found), image


class _Layers(nn.Module):
    """Three linear layers with ReLU between them, under the published names."""

    def __init__(self, width: int, hidden: int, out: int) -> None:
        super().__init__()
        sizes = ((width, hidden), (hidden, hidden), (hidden, out))
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in sizes)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., width)`` to ``(..., out)``."""
        first, second, third = self.layers
        y: Tensor = third(F.relu(second(F.relu(first(x)))))
        return y


class MaskDecoder(nn.Module):
    """The decoder of masks at a quarter of the image's resolution.

    Args:
        width: channels of a token.
        inner: channels of the attention between prompts and image.
        hidden: width of the blocks' inner layer.
        quality_hidden: width of the inner layers that predict a mask's quality.
    """

    def __init__(self, *, width: int, inner: int, hidden: int, quality_hidden: int) -> None:
        super().__init__()
        self.transformer = _Transformer(width, inner, hidden)
        self.iou_token = nn.Embedding(1, width)
        self.mask_tokens = nn.Embedding(_MASKS, width)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose3d(width, width // 4, 2, 2),
            ChannelNorm(width // 4),
            nn.GELU(),
            nn.ConvTranspose3d(width // 4, width // 8, 2, 2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            _Layers(width, width, width // 8) for _ in range(_MASKS)
        )
        self.iou_prediction_head = _Layers(width, quality_hidden, _MASKS)

    def forward(
        self, image: Tensor, where: Tensor, tokens: Tensor, dense: Tensor, *, several: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Predict the masks of a batch of prompts.

        Args:
            image: embedding ``(B or 1, width, n, n, n)``.
            where: positions of its tokens ``(1, width, n, n, n)``.
            tokens: tokens of the prompts ``(B, N, width)``.
            dense: features of the mask prompts ``(B or 1, width, n, n, n)``.
            several: return the three masks for an ambiguous prompt instead of the single one.

        Returns:
            logits ``(B, 1 or 3, 4n, 4n, 4n)`` and the predicted quality (IoU) of each, ``(B, 1)``
            or ``(B, 3)``.
        """
        prompts = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        prompts = torch.cat([prompts.expand(len(tokens), -1, -1), tokens], 1)
        source = (image + dense).expand(len(tokens), -1, -1, -1, -1)
        found, seen = self.transformer(
            prompts, source.flatten(2).transpose(1, 2), where.flatten(2).transpose(1, 2)
        )
        fine = self.output_upscaling(seen.transpose(1, 2).unflatten(2, source.shape[2:]))
        wanted = range(1, _MASKS) if several else range(1)
        pens = torch.stack([self.output_hypernetworks_mlps[i](found[:, 1 + i]) for i in wanted], 1)
        masks = (pens @ fine.flatten(2)).unflatten(2, fine.shape[2:])
        quality = self.iou_prediction_head(found[:, 0])
        return masks, quality[:, list(wanted)]
