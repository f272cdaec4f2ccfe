"""Small networks, batches and volumes for the contract tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semisam.core.framework import NetBuilder, check_head_levels, head_decoder, head_level
from semisam.core.types import Batch


def tiny_builder(
    in_channels: int = 1,
    ndim: int = 3,
    *,
    norm: Literal["batch", "none"] = "batch",
    dropout: float = 0.2,
) -> NetBuilder:
    """Return a builder of networks small enough for a unit test.

    Args:
        in_channels: ``C`` of the image.
        ndim: 2 or 3 spatial axes, of any size.
        norm: ``none`` if the rows of a batch must not influence each other.
        dropout: channel dropout before the heads.
    """

    def make(heads: Mapping[str, int]) -> nn.Module:
        return TinyNet(in_channels, dict(heads), ndim=ndim, norm=norm, dropout=dropout)

    return NetBuilder(make, in_channels, ndim)


class TinyNet(nn.Module):
    """A network of two 3-wide convolutions and a 1-wide one per head, with raw float32 outputs.

    It has no decoder: a head at level 1 to 3 reads the features averaged to that resolution. A head
    of a further decoder reads them after one more convolution.
    """

    def __init__(
        self,
        in_channels: int,
        heads: dict[str, int],
        *,
        ndim: int = 3,
        norm: Literal["batch", "none"] = "batch",
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        check_head_levels(heads, 3, "TinyNet", 3)
        conv = nn.Conv3d if ndim == 3 else nn.Conv2d
        drop = nn.Dropout3d if ndim == 3 else nn.Dropout2d
        batch_norm = nn.BatchNorm3d if ndim == 3 else nn.BatchNorm2d
        layers: list[nn.Module] = []
        for c_in in (in_channels, 8):
            layers.append(conv(c_in, 8, 3, padding=1))
            layers += [batch_norm(8)] if norm == "batch" else []
            layers.append(nn.ReLU())
        self.body = nn.Sequential(*layers, drop(dropout))
        self.heads = nn.ModuleDict({name: conv(8, c, 1) for name, c in heads.items()})
        with torch.no_grad():
            # Large weights give certain and uncertain voxels from the start, as some losses need.
            for head in self.heads.values():
                head.weight.mul_(6.0)  # type: ignore[operator]
        numbers = sorted({head_decoder(name) for name in heads} - {1})
        further = {str(n): nn.Sequential(conv(8, 8, 3, padding=1), nn.ReLU()) for n in numbers}
        if further:
            self.decoders = nn.ModuleDict(further)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Return each head's ``(B, c, *S)``."""
        read = {1: self.body(image)}
        for name in self.heads:
            if (number := head_decoder(name)) not in read:
                read[number] = self.decoders[str(number)](read[1])
        return {
            name: _read(head, read[head_decoder(name)], head_level(name))
            for name, head in self.heads.items()
        }


def _read(head: nn.Module, x: Tensor, level: int) -> Tensor:
    """Return a head's output on the grid of ``x``, read ``level`` halvings below it."""
    if level == 0:
        full: Tensor = head(x).float()
        return full
    coarse = [max(n >> level, 1) for n in x.shape[2:]]
    read: Tensor = head(F.interpolate(x, coarse, mode="area")).float()
    mode = "trilinear" if len(coarse) == 3 else "bilinear"
    return F.interpolate(read, x.shape[2:], mode=mode, align_corners=False)


def random_batch(
    num_classes: int = 2,
    *,
    labeled: int = 2,
    unlabeled: int = 2,
    channels: int = 1,
    shape: tuple[int, ...] = (8, 12, 10),
    seed: int = 0,
) -> Batch:
    """Return volumes with noise around an ellipsoid that holds every class.

    Args:
        num_classes: ``K``, counting background.
        labeled: rows with a label, ``L``.
        unlabeled: rows without.
        channels: ``C``.
        shape: ``*S``, two or three axes.
        seed: equal seeds give equal batches.
    """
    rng = torch.Generator().manual_seed(seed)
    labels = torch.stack([blob_label(num_classes, shape, rng) for _ in range(labeled + unlabeled)])
    noise = torch.randn(labeled + unlabeled, channels, *shape, generator=rng)
    image = noise + 1.5 * labels.unsqueeze(1)
    # A copy, whose storage ends with the labeled rows.
    return Batch(image, labels[:labeled].clone())


def blob_label(num_classes: int, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """Return ``(*S)`` int64: an ellipsoid near the centre, cut along axis 0 into the classes."""
    axes = [torch.linspace(-1, 1, size) for size in shape]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    centre = 0.2 * (torch.rand(len(shape), generator=rng) - 0.5)
    offset = grid - centre.view(-1, *[1] * len(shape))
    inside = offset.square().sum(0) < 0.6
    part = ((offset[0] + 0.6) / 1.2 * (num_classes - 1)).floor().long()
    return torch.where(inside, part.clamp(0, num_classes - 2) + 1, 0)
