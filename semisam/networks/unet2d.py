"""The U-Net for images and slices that is common in the semi-supervised literature.

References:
    Ronneberger, Fischer, Brox. "U-Net: Convolutional networks for biomedical image segmentation."
    MICCAI 2015. https://arxiv.org/abs/1505.04597
    Luo et al. SSL4MIS, https://github.com/HiLab-git/SSL4MIS (the variant that is common since)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semisam.core.framework import check_head_levels, head_decoder, head_level
from semisam.networks.precision import channels_last

_LEVELS = 4  # halvings
_DEEPEST_HEAD = 3
_DECODERS = 3
_DROPOUT = (0.05, 0.1, 0.2, 0.3, 0.5)


class UNet2d(nn.Module):
    """The 1.81 M-parameter two-dimensional U-Net of SSL4MIS, with named 3x3 heads.

    Each level has two convolutions with BatchNorm and leaky ReLU. The decoder enlarges bilinearly,
    with aligned corners. The arithmetic is that of the published code. The interface differs: heads
    have names and are returned raw. Heads named ``..._level1`` to ``..._level3`` read the decoder
    at a half, a quarter and an eighth of the resolution, after a dropout. Heads named
    ``..._decoder2`` and ``..._decoder3`` read further decoders, as in MC-Net+, which enlarge by a
    transposed convolution and by copies.

    Args:
        in_channels: channels ``C`` of the image.
        heads: output channels by head name, e.g. ``{"logits": 2}``.
        filters: channels at full resolution; doubled at each of the four halvings.
        dropout: rate before the deep heads, in training mode; 0.5 as published for the deepest.
            The encoder has the published rates, 0.05 at full resolution to 0.5 at the bottom.

    Shape:
        ``(B, C, W, H)``, each spatial size a multiple of 16, to ``{head: (B, c, W, H)}`` float32,
        whatever the autocast precision.

    Raises:
        ValueError: a spatial size is not a multiple of 16, a head names a level below 3 or a
            decoder above 3, or ``filters`` is below 1.
    """

    stride = 1 << _LEVELS
    axes = (2,)
    deepest = "down.4"

    def __init__(
        self,
        in_channels: int,
        heads: Mapping[str, int],
        *,
        filters: int = 16,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        check_head_levels(heads, _DEEPEST_HEAD, "the 2-D U-Net", _DECODERS)
        if filters < 1:
            raise ValueError(f"filters must be at least 1, got {filters}. Choose for example 16.")
        widths = [filters << level for level in range(_LEVELS + 1)]
        inputs = (in_channels, *widths)
        self.down = nn.ModuleList(map(_convs, inputs, widths, _DROPOUT))
        _add_decoder(self, 1, widths)
        self.dropout = nn.Dropout(dropout)
        convs = {n: nn.Conv2d(filters << head_level(n), c, 3, padding=1) for n, c in heads.items()}
        self.heads = nn.ModuleDict(convs)
        further = {head_decoder(name) for name in heads} - {1}
        if further:
            self.decoders = nn.ModuleDict()
            for number in sorted(further):
                self.decoders[str(number)] = decoder = nn.Module()
                _add_decoder(decoder, number, widths)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Return each head's raw output."""
        if image.ndim != 4 or any(size % self.stride for size in image.shape[2:]):
            raise ValueError(
                f"the 2-D U-Net's input must be (B, C, W, H) with sizes in multiples of "
                f"{self.stride}, got {tuple(image.shape)}. Change the patch."
            )
        skips = [self.down[0](channels_last(image))]
        for block in self.down[1:]:
            skips.append(block(F.max_pool2d(skips[-1], 2)))
        read = {
            number: self._decoded(number, skips)
            for number in sorted({head_decoder(name) for name in self.heads})
        }
        outputs: dict[str, Tensor] = {}
        for name, head in self.heads.items():
            level = head_level(name)
            raw = head(read[head_decoder(name)][level]).float()
            outputs[name] = raw if level == 0 else _enlarge(raw, image.shape[2:])
        return outputs

    def _decoded(self, number: int, skips: Sequence[Tensor]) -> dict[int, Tensor]:
        """Return the features of a decoder at the levels that its heads read."""
        part: Any = self if number == 1 else self.decoders[str(number)]
        x = skips[_LEVELS]
        decoded: dict[int, Tensor] = {}
        for level in reversed(range(_LEVELS)):
            wide = part.reduce[level](x)
            if number == 1:
                wide = F.interpolate(wide, scale_factor=2, mode="bilinear", align_corners=True)
            elif number == 3:
                wide = F.interpolate(wide, scale_factor=2, mode="nearest")
            x = decoded[level] = part.up[level](torch.cat([skips[level], wide], 1))
        # Dropout only where a head reads the level: without deep heads no random number is drawn.
        own = (name for name in self.heads if head_decoder(name) == number)
        deep = {head_level(name) for name in own} - {0}
        return {0: x} | {level: self.dropout(decoded[level]) for level in sorted(deep)}


def _add_decoder(module: Any, number: int, widths: Sequence[int]) -> None:
    """Give a module the layers of a decoder; those of the second enlarge by themselves."""

    def reduce(width: int) -> nn.Module:
        if number == 2:
            return nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        return nn.Conv2d(2 * width, width, 1)

    module.reduce = nn.ModuleList(map(reduce, widths[:-1]))
    module.up = nn.ModuleList(_convs(2 * width, width, 0.0) for width in widths[:-1])


def _enlarge(raw: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(raw, size=size, mode="bilinear", align_corners=False)


def _convs(c_in: int, c_out: int, dropout: float) -> nn.Sequential:
    first = [nn.Conv2d(c_in, c_out, 3, padding=1), nn.BatchNorm2d(c_out), nn.LeakyReLU()]
    second = [nn.Conv2d(c_out, c_out, 3, padding=1), nn.BatchNorm2d(c_out), nn.LeakyReLU()]
    return nn.Sequential(*first, nn.Dropout(dropout), *second)
