"""The image encoder of SAM-Med3D: a ViT with window attention that skips the padding.

References:
    Wang et al. "SAM-Med3D: Towards general-purpose segmentation models for volumetric medical
    images." 2023. https://arxiv.org/abs/2310.15161
    Li et al. "Exploring plain vision transformer backbones for object detection." ECCV 2022.
    https://arxiv.org/abs/2203.16527 (windows and decomposed relative positions, in 2-D)
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semisam.backends._sam_med3d.layers import ChannelNorm, TwoLayers


class ImageEncoder(nn.Module):
    """A ViT from ``(B, 1, 16n, 16n, 16n)`` to ``(B, out, n, n, n)``; as published, n = 8.

    Args:
        width: channels of a token.
        heads: attention heads.
        hidden: width of the blocks' inner layer.
        out: channels of the embedding.
        patch: voxels per token and axis.
        grid: tokens per axis, ``n``.
        windows: per block, the window's tokens per axis, at least ``grid``. The published code pads
            a window larger than the grid with zeros.
    """

    def __init__(
        self,
        *,
        width: int,
        heads: int,
        hidden: int,
        out: int,
        patch: int,
        grid: int,
        windows: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.patch_embed = _PatchEmbed(width, patch)
        self.pos_embed = nn.Parameter(torch.zeros(1, grid, grid, grid, width))
        self.blocks = nn.ModuleList(
            _Block(width, heads, hidden, grid=grid, window=window) for window in windows
        )
        self.neck = nn.Sequential(
            nn.Conv3d(width, out, 1, bias=False),
            ChannelNorm(out),
            nn.Conv3d(out, out, 3, padding=1, bias=False),
            ChannelNorm(out),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Return the embedding, float32; linear layers run in the precision of their weights."""
        x = self.patch_embed(image) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        # A 1x1x1 convolution is a matrix product on the tokens in their memory order.
        narrow = cast(nn.Conv3d, self.neck[0]).weight.flatten(1)
        x = F.linear(x.to(narrow.dtype), narrow).movedim(-1, 1)
        x = self.neck[2](self.neck[1](x.float()).to(narrow.dtype))
        embedding: Tensor = self.neck[3](x.float())
        return embedding.contiguous()


class _PatchEmbed(nn.Module):
    """The tokens of non-overlapping blocks of voxels, as one matrix product."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(1, width, patch, patch)

    def forward(self, image: Tensor) -> Tensor:
        """Map ``(B, 1, n p, n p, n p)`` to ``(B, n, n, n, width)`` float32."""
        weight, p = self.proj.weight.flatten(1), self.proj.kernel_size[0]
        n = image.shape[-1] // p
        blocks = image.view(len(image), n, p, n, p, n, p).permute(0, 1, 3, 5, 2, 4, 6)
        flat = blocks.reshape(len(image), n, n, n, p**3).to(weight.dtype)
        tokens: Tensor = F.linear(flat, weight, self.proj.bias)
        return tokens.float()


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int, *, grid: int, window: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = WindowAttention(width, heads, grid=grid, window=window)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = TwoLayers(width, hidden, F.gelu)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, n, n, n, width)`` float32 to itself; only the products may be rounded."""
        dtype = self.mlp.lin1.weight.dtype
        x = x + self.attn(self.norm1(x).to(dtype))
        added: Tensor = x + self.mlp(self.norm2(x).to(dtype))
        return added


class WindowAttention(nn.Module):
    """Attention over ``n^3`` tokens, equal to the published one over a window of ``m^3``.

    The published block pads its ``n^3`` tokens with zeros to a window of ``m^3`` (8^3 to 14^3:
    2,744 tokens for 512), after the normalisation, so that every padded token has the bias of
    ``qkv`` as its query, key and value. So they add to a query's softmax one key, one value, and a
    weight that depends only on the position bias: *one virtual token*, whose bias is the logarithm
    of the summed exponentials over the padded positions.

    That sum factorises. As published, the position bias of query ``(d, h, w)`` and key
    ``(i, j, k)`` is

        q[d, h, w] Rd[d, k]  +  q[d, h, i] Rh[h, k]  +  q[d, h, j] Rw[j, k]

    (its broadcasts align the second and third term's query with the key, and every term with the
    key's last axis; checkpoints were trained so). For a given ``k`` the second term depends on
    ``i`` and the third only on ``j``: the sum over ``(i, j)`` is a product of two sums. Only its
    parts with ``i``, ``j`` or ``k`` in the padding are kept. ``q[d, h, i]`` in the padding is the
    padded query.

    Args:
        width: channels of a token.
        heads: attention heads.
        grid: real tokens per axis, ``n``.
        window: tokens per axis with the padding, ``m``; with ``n`` there is no padding.
    """

    rel_pos_d: Tensor
    rel_pos_h: Tensor
    rel_pos_w: Tensor

    def __init__(self, width: int, heads: int, *, grid: int, window: int) -> None:
        super().__init__()
        self.heads, self.grid, self.window = heads, grid, window
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        for axis in "dhw":
            table = nn.Parameter(torch.zeros(2 * window - 1, width // heads))
            self.register_parameter(f"rel_pos_{axis}", table)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, n, n, n, width)`` to itself."""
        batch, width = len(x), x.shape[-1]
        tokens, per_head = self.grid**3, width // self.heads
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, per_head).permute(2, 0, 3, 1, 4)
        pad_q, pad_k, pad_v = self.qkv.bias.view(3, 1, self.heads, 1, per_head)
        # The bias and its exponentials are summed in at least float32; only the result is rounded.
        exact = torch.promote_types(q.dtype, torch.float32)
        bias = self._bias(q.to(exact), pad_q.to(exact))
        if self.window > self.grid:
            k = torch.cat([k, pad_k.expand(batch, -1, -1, -1)], 2)
            v = torch.cat([v, pad_v.expand(batch, -1, -1, -1)], 2)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        merged: Tensor = self.proj(y.transpose(1, 2).reshape(x.shape))
        return merged

    def _bias(self, q: Tensor, pad: Tensor) -> Tensor:
        """Return the position bias ``(B, heads, n^3, n^3)``, with padding one column more.

        Args:
            q: queries ``(B, heads, n^3, c)``.
            pad: a padded token's query ``(1, heads, 1, c)``.
        """
        n, m = self.grid, self.window
        padded = m > n
        bias = q.new_empty(*q.shape[:2], n**3, n**3 + padded)
        q = q.view(*q.shape[:2], n, n, n, -1)
        row = torch.cat([q, pad[:, :, None, None].expand(*q.shape[:4], m - n, -1)], 4)
        by_d = torch.einsum("bedhwc,dkc->bedhwk", q, self._table(self.rel_pos_d, q)[:n])
        by_h = torch.einsum("bedhic,hkc->bedhik", row, self._table(self.rel_pos_h, q)[:n])
        by_w = torch.einsum("bedhjc,jkc->bedhjk", row, self._table(self.rel_pos_w, q))
        real = (by_h[..., :n, None, :n] + by_w[..., None, :n, :n])[:, :, :, :, None]
        view = bias[..., : n**3].view(*q.shape[:5], n, n, n)
        torch.add(real, by_d[..., None, None, :n], out=view)
        if padded:
            mass = _padded_mass(by_h, by_w, n)[..., None, :]
            bias[..., -1] = torch.logsumexp(by_d + mass, -1).flatten(2)
        return bias

    def _table(self, rel_pos: Tensor, like: Tensor) -> Tensor:
        """Return ``(m, m, c)``: the vector of each distance, query by key."""
        at = torch.arange(self.window, device=rel_pos.device)
        return rel_pos.to(like.dtype)[at[:, None] - at + self.window - 1]


def _padded_mass(by_h: Tensor, by_w: Tensor, n: int) -> Tensor:
    """Return ``log sum exp(by_h[i, k] + by_w[j, k])`` over the padded ``(i, j)`` of every ``k``.

    Args:
        by_h: ``(..., m, m)``, indexed by ``i`` and ``k``.
        by_w: ``(..., m, m)``, indexed by ``j`` and ``k``.
        n: positions from ``n`` on are padding. If ``k`` is padding, every ``(i, j)`` is.
    """
    h_real, h_pad = by_h[..., :n, :].logsumexp(-2), by_h[..., n:, :].logsumexp(-2)
    w_real, w_pad = by_w[..., :n, :].logsumexp(-2), by_w[..., n:, :].logsumexp(-2)
    # Sums of positive parts: subtracting the real part from the whole would cancel digits.
    mass = torch.logaddexp(h_pad + torch.logaddexp(w_real, w_pad), h_real + w_pad)
    mass[..., n:] = torch.logaddexp(mass[..., n:], (h_real + w_real)[..., n:])
    return mass
