"""The network of SynthSAM: a deep encoder, run once per image, and a light decoder per prompt."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from semisam.core.axes import CHANNELS_LAST, CONV

STRIDE = 2
"""Voxels per axis of a voxel of the network's finest grid."""
CHANNELS = 13
"""Number of a prompt's channels.

Pairs, positive clicks first: disk, distance, near and far geodesic distance, likeness. Then one
each: the contest of the two geodesic distances, the box, the mask.
"""
WIDTHS = {2: (32, 64, 96, 128), 3: (32, 64, 96, 96)}
"""Channels on the grids 2, 4, 8 and 16 voxels wide, by the number of axes."""
_LIKENESS = 16  # length of the vectors that compare voxels with clicked ones


@dataclass(frozen=True)
class Features:
    """An encoded batch of images.

    Attributes:
        levels: ``(B, c, *s)`` features on grids 2, 4, 8 and 16 voxels wide.
        likeness: ``(B, 16, n)`` unit vectors of the ``n`` voxels of the first grid.
        image: ``(B, 2^d, *s)`` subvoxels of the images.
    """

    levels: tuple[Tensor, ...]
    likeness: Tensor
    image: Tensor

    def detach(self) -> Features:
        """Return the features without gradients."""
        levels = tuple(x.detach() for x in self.levels)
        return Features(levels, self.likeness.detach(), self.image.detach())


class Block(nn.Module):
    """A residual block with one normalization, as on a CPU it costs more than a convolution."""

    def __init__(self, width: int, axes: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.first = CONV[axes](width, width, 3, padding=1)
        self.second = CONV[axes](width, width, 3, padding=1)
        self.act = nn.LeakyReLU(0.01)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, width, *s)`` to the same shape."""
        y: Tensor = self.second(self.act(self.first(self.act(self.norm(x)))))
        return x + y


class SynthSAMNet(nn.Module):
    """A U-Net in two halves, the first for the image and the second for a prompt.

    It works on a grid two voxels wide. Image and logits have the ``2^d`` subvoxels of each voxel as
    channels. So the network keeps the detail of the fine grid but computes nothing on it. The
    decoder adds two learned channels to the prompt: the likeness of a voxel's features to those of
    the most similar positive and negative click.

    Args:
        axes: spatial axes ``d`` of an image, 3 or 2.
        widths: channels on the grids 2, 4, 8 and 16 voxels wide, multiples of 8; None: `WIDTHS`.
        blocks: residual blocks of the encoder on each of them.
    """

    def __init__(
        self,
        axes: int = 3,
        *,
        widths: Sequence[int] | None = None,
        blocks: Sequence[int] = (1, 2, 2, 1),
    ) -> None:
        super().__init__()
        self.axes, self.subvoxels = axes, STRIDE**axes
        self.widths, self.blocks = tuple(widths or WIDTHS[axes]), tuple(blocks)
        w, conv, parts = self.widths, CONV[axes], self.subvoxels
        pairs = list(itertools.pairwise(w))
        self.stem = conv(parts, w[0], 3, padding=1)
        self.encoder = nn.ModuleList(_blocks(c, n, axes) for c, n in zip(w, blocks, strict=True))
        self.shrink = nn.ModuleList(conv(a, b, 3, 2, padding=1) for a, b in pairs)
        self.lift = nn.ModuleList(conv(b, a, 1) for a, b in pairs)
        self.merge = nn.ModuleList(Block(a, axes) for a in w[:-1])
        self.likeness = conv(w[0], _LIKENESS, 1)

        self.ask = conv(CHANNELS + 2 + w[0], w[0], 3, padding=1)
        self.down = nn.ModuleList(conv(a, b, 3, 2, padding=1) for a, b in pairs)
        self.fuse = nn.ModuleList(conv(2 * c, c, 1) for c in w[1:])
        self.deep = nn.ModuleList(Block(c, axes) for c in w[1:])
        self.up = nn.ModuleList(conv(b, a, 1) for a, b in pairs)
        self.refine = nn.ModuleList(Block(a, axes) for a in w[:-1])
        self.act = nn.LeakyReLU(0.01)
        self.head = conv(w[0], parts, 3, padding=1)
        # Moves the surface within a coarse voxel by the image at full resolution, initially by 0.
        self.sharpen = nn.Sequential(
            conv(w[0] + parts, w[0], 3, padding=1),
            nn.LeakyReLU(0.01),
            conv(w[0], parts, 3, padding=1),
        )
        for parameter in self.sharpen[2].parameters():
            nn.init.zeros_(parameter)
        self.layout = CHANNELS_LAST[axes]
        self.to(memory_format=self.layout)  # type: ignore[call-overload]

    def encode(self, image: Tensor) -> Features:
        """Encode images ``(B, 1, *S)`` of even extents."""
        parts = to_subvoxels(image).contiguous(memory_format=self.layout)
        levels = self.pyramid(parts)
        vectors = self.likeness(levels[0]).float().flatten(2)
        return Features(levels, functional.normalize(vectors, dim=1), parts)

    def pyramid(self, parts: Tensor) -> tuple[Tensor, ...]:
        """Return the features of subvoxels ``(B, c, *s)`` on grids 2, 4, 8 and 16 voxels wide."""
        levels = self.descend(parts)
        x = levels[-1]
        for n in reversed(range(len(levels) - 1)):
            x = self.merge[n](levels[n] + _stretch(self.lift[n](x), levels[n]))
            levels[n] = x
        return tuple(levels)

    def descend(self, parts: Tensor) -> list[Tensor]:
        """Return the encoder's features on the same grids, without those from coarser ones."""
        x = self.stem(parts)
        levels = []
        for n, blocks in enumerate(self.encoder):
            x = blocks(self.shrink[n - 1](x) if n else x)
            levels.append(x)
        return levels

    def decode(
        self, features: Features, prompt: Tensor, cells: Sequence[Sequence[Sequence[int]]]
    ) -> Tensor:
        """Predict the logits of one prompt per image.

        Args:
            features: of ``B`` images.
            prompt: ``(B, CHANNELS, *s)``.
            cells: for each image, flat indices on the first grid of its negative and of its
                positive clicks.

        Returns:
            Logits ``(B, 2^d, *s)`` float32, one per subvoxel.
        """
        first = features.levels[0]
        learned = _likeness(features.likeness, cells).reshape(len(first), 2, *first.shape[2:])
        x = self.decoded(features.levels, torch.cat([prompt.to(first), learned.to(first)], 1))[0]
        logits: Tensor = self.head(x)
        both = torch.cat([x, features.image.to(x)], 1)
        sharper: Tensor = self.sharpen(both.contiguous(memory_format=self.layout))
        return logits.float() + sharper.float()

    def decoded(self, levels: Sequence[Tensor], prompt: Tensor) -> list[Tensor]:
        """Return the decoder's features ``(B, c, *s)`` on each grid, the finest first.

        Args:
            levels: of `pyramid`.
            prompt: ``(B, CHANNELS + 2, *s)``, the prompt and the likeness to its clicks.
        """
        return decoded(self, levels, prompt)


def decoded(
    parts: Any, levels: Sequence[Tensor], prompt: Tensor, mode: str = "nearest"
) -> list[Tensor]:
    """Return the features of a decoder on each grid, see `SynthSAMNet.decoded`.

    Args:
        parts: a module with the layers ``ask`` to ``act`` of `SynthSAMNet`.
        levels: of `SynthSAMNet.pyramid`.
        prompt: ``(B, CHANNELS + 2, *s)``.
        mode: in which ``up`` is enlarged to the next grid.
    """
    x = torch.cat([prompt, levels[0]], 1)
    x = parts.ask(x.contiguous(memory_format=CHANNELS_LAST[x.ndim - 2]))
    path = [x]
    for level, down, fuse, block in zip(
        levels[1:], parts.down, parts.fuse, parts.deep, strict=True
    ):
        x = block(fuse(torch.cat([down(x), level], 1)))
        path.append(x)
    for n in reversed(range(len(path) - 1)):
        x = parts.refine[n](path[n] + _stretch(parts.up[n](x), path[n], mode))
        path[n] = x
    return [parts.act(x) for x in path]


def to_subvoxels(volume: Tensor) -> Tensor:
    """Return ``(B, 1, *S)`` as ``(B, 2^d, *s)``, the subvoxels of each coarse voxel as channels."""
    size = [n // STRIDE for n in volume.shape[2:]]
    axes = len(size)
    split = volume.reshape(volume.shape[0], *[n for coarse in size for n in (coarse, STRIDE)])
    inner, outer = range(2, 2 * axes + 1, 2), range(1, 2 * axes, 2)
    return split.permute(0, *inner, *outer).reshape(volume.shape[0], STRIDE**axes, *size)


def from_subvoxels(parts: Tensor) -> Tensor:
    """Return ``(B, 2^d, *s)`` as ``(B, 1, *S)``, the inverse of `to_subvoxels`."""
    size = parts.shape[2:]
    axes = len(size)
    split = parts.reshape(parts.shape[0], *[STRIDE] * axes, *size)
    order = [place for axis in range(1, axes + 1) for place in (axis + axes, axis)]
    return split.permute(0, *order).reshape(parts.shape[0], 1, *[STRIDE * n for n in size])


def _blocks(width: int, count: int, axes: int) -> nn.Sequential:
    return nn.Sequential(*(Block(width, axes) for _ in range(count)))


def _stretch(x: Tensor, like: Tensor, mode: str = "nearest") -> Tensor:
    return functional.interpolate(x, size=like.shape[2:], mode=mode)


def _likeness(vectors: Tensor, cells: Sequence[Sequence[Sequence[int]]]) -> Tensor:
    """Return the largest cosine with a positive and a negative click ``(B, 2, n)``, else 0."""
    rows = []
    for row, (negative, positive) in zip(vectors, cells, strict=True):
        for clicked in (positive, negative):
            if clicked:
                at = row[:, torch.tensor(clicked, device=row.device)]
                rows.append((at.T @ row).amax(0))
            else:
                rows.append(row.new_zeros(row.shape[1]))
    return torch.stack(rows).reshape(len(vectors), 2, -1)
