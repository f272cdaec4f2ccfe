"""SAM-Med3D's image encoder written plainly, as published: windows padded with zeros, no shortcut.

What the fast encoder is held against, in its numbers here and in its speed in the benchmarks. It
computes with the weights of a `SamMed3DNet`; its cost is that of the published modules: the
same matrix products, and a position bias added in three broadcasts to an attention map of every
token of the padded window.
"""

import torch
from torch.nn import functional as F


@torch.no_grad()
def plain_encode(encoder, image):
    """Map ``(B, 1, 16n, 16n, 16n)`` to the embedding ``(B, C, n, n, n)``."""
    x = encoder.patch_embed.proj(image).movedim(1, -1)
    x = x + encoder.pos_embed
    for block in encoder.blocks:
        x = x + plain_window(block.attn, F.layer_norm(x, x.shape[-1:], *_affine(block.norm1), 1e-6))
        y = F.layer_norm(x, x.shape[-1:], *_affine(block.norm2), 1e-6)
        x = x + block.mlp.lin2(F.gelu(block.mlp.lin1(y)))
    x = x.movedim(-1, 1)
    for conv, norm in ((encoder.neck[0], encoder.neck[1]), (encoder.neck[2], encoder.neck[3])):
        x = F.conv3d(x, conv.weight, padding=conv.weight.shape[-1] // 2)
        centred = x - x.mean(1, keepdim=True)
        scaled = centred / torch.sqrt(centred.pow(2).mean(1, keepdim=True) + 1e-6)
        x = norm.weight.view(-1, 1, 1, 1) * scaled + norm.bias.view(-1, 1, 1, 1)
    return x


def plain_window(attn, x):
    """Attention of ``(B, n, n, n, C)`` in one window that zeros fill up."""
    n, m = x.shape[1], attn.window
    padded = F.pad(x, (0, 0, *(0, m - n) * 3)).contiguous()
    return plain_attention(attn, padded)[:, :n, :n, :n].contiguous()


def plain_attention(attn, x):
    """Attention of ``(B, m, m, m, C)`` over all of its tokens."""
    batch, m, heads = len(x), x.shape[1], attn.heads
    qkv = attn.qkv(x).reshape(batch, m**3, 3, heads, -1).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.reshape(3, batch * heads, m**3, -1).unbind(0)
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    logits = logits.view(-1, *[m] * 6)
    by_d, by_h, by_w = plain_bias(attn, q.view(-1, m, m, m, q.shape[-1]))
    # The published broadcasts: every term ends on the key's last axis, and the query's last
    # axis of the second and third meets the key's first and second.
    logits = logits + by_d[:, :, :, :, None, None, :]
    logits = logits + by_h[:, :, :, None, :, None, :]
    logits = logits + by_w[:, :, :, None, None, :, :]
    y = logits.view(-1, m**3, m**3).softmax(-1) @ v
    y = y.view(batch, heads, m, m, m, -1).permute(0, 2, 3, 4, 1, 5).reshape(x.shape)
    return attn.proj(y)


def plain_bias(attn, q):
    """The three position terms ``(B heads, m, m, m, m)`` of queries ``(B heads, m, m, m, c)``."""
    m = q.shape[1]
    distance = torch.arange(m)[:, None] - torch.arange(m) + m - 1
    return (
        torch.einsum("bdhwc,dkc->bdhwk", q, attn.rel_pos_d[distance]),
        torch.einsum("bdhwc,hkc->bdhwk", q, attn.rel_pos_h[distance]),
        torch.einsum("bdhwc,wkc->bdhwk", q, attn.rel_pos_w[distance]),
    )


def _affine(norm):
    return norm.weight, norm.bias
