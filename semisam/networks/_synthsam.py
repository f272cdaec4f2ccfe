"""The network of SynthSAM: a deep encoder, run once per image, and a light decoder per prompt."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

STRIDE = 2
"""Voxels per axis of a voxel of the network's finest grid."""
CHANNELS = 13
"""Number of a prompt's channels.

Pairs, positive clicks first: disk, distance, near and far geodesic distance, likeness. Then one
each: the contest of the two geodesic distances, the box, the mask.
"""
SUBVOXELS = STRIDE**3
_LIKENESS = 16  # length of the vectors that compare voxels with clicked ones


@dataclass(frozen=True)
class Features:
    """An encoded batch of images.

    Attributes:
        levels: ``(B, c, *s)`` features on grids 2, 4, 8 and 16 voxels wide.
        likeness: ``(B, 16, n)`` unit vectors of the ``n`` voxels of the first grid.
        image: ``(B, 8, *s)`` subvoxels of the images.
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

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.first = nn.Conv3d(width, width, 3, padding=1)
        self.second = nn.Conv3d(width, width, 3, padding=1)
        self.act = nn.LeakyReLU(0.01)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, width, *s)`` to the same shape."""
        y: Tensor = self.second(self.act(self.first(self.act(self.norm(x)))))
        return x + y


class SynthSAMNet(nn.Module):
    """A U-Net in two halves, the first for the image and the second for a prompt.

    It works on a grid two voxels wide. Image and logits have the ``2 x 2 x 2`` subvoxels of each
    voxel as eight channels. So the network keeps the detail of the fine grid but computes nothing
    on it. The decoder adds two learned channels to the prompt: the likeness of a voxel's features
    to those of the most similar positive and negative click.

    Args:
        widths: channels on the grids 2, 4, 8 and 16 voxels wide, multiples of 8.
        blocks: residual blocks of the encoder on each of them.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int] = (32, 64, 96, 96),
        blocks: Sequence[int] = (1, 2, 2, 1),
    ) -> None:
        super().__init__()
        self.widths, self.blocks = tuple(widths), tuple(blocks)
        w = self.widths
        pairs = list(itertools.pairwise(w))
        self.stem = nn.Conv3d(SUBVOXELS, w[0], 3, padding=1)
        self.encoder = nn.ModuleList(_blocks(c, n) for c, n in zip(w, blocks, strict=True))
        self.shrink = nn.ModuleList(nn.Conv3d(a, b, 3, 2, padding=1) for a, b in pairs)
        self.lift = nn.ModuleList(nn.Conv3d(b, a, 1) for a, b in pairs)
        self.merge = nn.ModuleList(Block(a) for a in w[:-1])
        self.likeness = nn.Conv3d(w[0], _LIKENESS, 1)

        self.ask = nn.Conv3d(CHANNELS + 2 + w[0], w[0], 3, padding=1)
        self.down = nn.ModuleList(nn.Conv3d(a, b, 3, 2, padding=1) for a, b in pairs)
        self.fuse = nn.ModuleList(nn.Conv3d(2 * c, c, 1) for c in w[1:])
        self.deep = nn.ModuleList(Block(c) for c in w[1:])
        self.up = nn.ModuleList(nn.Conv3d(b, a, 1) for a, b in pairs)
        self.refine = nn.ModuleList(Block(a) for a in w[:-1])
        self.act = nn.LeakyReLU(0.01)
        self.head = nn.Conv3d(w[0], SUBVOXELS, 3, padding=1)
        # Moves the surface within a coarse voxel by the image at full resolution, initially by 0.
        self.sharpen = nn.Sequential(
            nn.Conv3d(w[0] + SUBVOXELS, w[0], 3, padding=1),
            nn.LeakyReLU(0.01),
            nn.Conv3d(w[0], SUBVOXELS, 3, padding=1),
        )
        for parameter in self.sharpen[2].parameters():
            nn.init.zeros_(parameter)
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def encode(self, image: Tensor) -> Features:
        """Encode images ``(B, 1, *S)`` of even extents."""
        parts = to_subvoxels(image).contiguous(memory_format=torch.channels_last_3d)
        levels = self.pyramid(parts)
        vectors = self.likeness(levels[0]).float().flatten(2)
        return Features(levels, functional.normalize(vectors, dim=1), parts)

    def pyramid(self, parts: Tensor) -> tuple[Tensor, ...]:
        """Return the features of subvoxels ``(B, c, *s)`` on grids 2, 4, 8 and 16 voxels wide."""
        x = self.stem(parts)
        levels = []
        for n, blocks in enumerate(self.encoder):
            x = blocks(self.shrink[n - 1](x) if n else x)
            levels.append(x)
        for n in reversed(range(len(levels) - 1)):
            x = self.merge[n](levels[n] + _stretch(self.lift[n](x), levels[n]))
            levels[n] = x
        return tuple(levels)

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
            Logits ``(B, 8, *s)`` float32, one per subvoxel.
        """
        first = features.levels[0]
        learned = _likeness(features.likeness, cells).reshape(len(first), 2, *first.shape[2:])
        x = self.answer(features.levels, torch.cat([prompt.to(first), learned.to(first)], 1))
        logits: Tensor = self.head(x)
        both = torch.cat([x, features.image.to(x)], 1)
        sharper: Tensor = self.sharpen(both.contiguous(memory_format=torch.channels_last_3d))
        return logits.float() + sharper.float()

    def answer(self, levels: Sequence[Tensor], prompt: Tensor) -> Tensor:
        """Return the decoder's features ``(B, c, *s)`` on the first grid, see `answers`."""
        return self.answers(levels, prompt)[0]

    def answers(self, levels: Sequence[Tensor], prompt: Tensor) -> list[Tensor]:
        """Return the decoder's features ``(B, c, *s)`` on each grid, the finest first.

        Args:
            levels: of `pyramid`.
            prompt: ``(B, CHANNELS + 2, *s)``, the prompt and the likeness to its clicks.
        """
        x = torch.cat([prompt, levels[0]], 1)
        x = self.ask(x.contiguous(memory_format=torch.channels_last_3d))
        path = [x]
        for level, down, fuse, block in zip(
            levels[1:], self.down, self.fuse, self.deep, strict=True
        ):
            x = block(fuse(torch.cat([down(x), level], 1)))
            path.append(x)
        for n in reversed(range(len(path) - 1)):
            x = self.refine[n](path[n] + _stretch(self.up[n](x), path[n]))
            path[n] = x
        return [self.act(x) for x in path]


def to_subvoxels(volume: Tensor) -> Tensor:
    """Return ``(B, 1, *S)`` as ``(B, 8, *s)``, the subvoxels of each coarse voxel as channels."""
    b, _, x, y, z = volume.shape
    parts = volume.reshape(b, x // 2, 2, y // 2, 2, z // 2, 2).permute(0, 2, 4, 6, 1, 3, 5)
    return parts.reshape(b, SUBVOXELS, x // 2, y // 2, z // 2)


def from_subvoxels(parts: Tensor) -> Tensor:
    """Return ``(B, 8, *s)`` as ``(B, 1, *S)``, the inverse of `to_subvoxels`."""
    b, _, x, y, z = parts.shape
    fine = parts.reshape(b, 2, 2, 2, x, y, z).permute(0, 4, 1, 5, 2, 6, 3)
    return fine.reshape(b, 1, 2 * x, 2 * y, 2 * z)


def _blocks(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(Block(width) for _ in range(count)))


def _stretch(x: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(x, size=like.shape[2:], mode="nearest")


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
