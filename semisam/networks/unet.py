"""A residual U-Net that starts from SynthSAM's synthetic pretraining.

References:
    Ronneberger, Fischer, Brox. "U-Net: Convolutional networks for biomedical image segmentation."
    MICCAI 2015. https://arxiv.org/abs/1505.04597
    Wu, He. "Group normalization." ECCV 2018. https://arxiv.org/abs/1803.08494
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from semisam.core.axes import CONV, CONV_TRANSPOSE, DROPOUT, LINEAR
from semisam.core.errors import InputError
from semisam.core.framework import check_head_levels, head_decoder, head_level
from semisam.networks._synthsam import (
    CHANNELS,
    STRIDE,
    SynthSAMNet,
    decoded,
    from_subvoxels,
    to_subvoxels,
)
from semisam.networks._synthsam_weights import EMBEDDED, load_weights

LEVELS = 4
"""Grids of the decoder, 2 to 16 voxels wide, that a head may be read from."""
_DECODERS = 3


class UNet(nn.Module):
    """Both halves of SynthSAM's network, without a prompt, with named heads.

    SynthSAM is trained to segment what a prompt names, and a share of its dialogues has no prompt.
    So its weights are a start for an automatic segmenter: no scan of a person is in them. Group
    normalization keeps no statistics of a batch. The prompt channels hold zeros, which differs a
    little from an empty prompt of SynthSAM.

    The start gives the head ``logits`` the weights of the pretrained one. Other heads are 0 at
    first, because random ones on pretrained features are large. Heads named ``..._decoder2`` and
    ``..._decoder3`` read further decoders, as in MC-Net+. They start as the first does, and enlarge
    linearly and by a transposed convolution, which copies at first, as the first decoder always
    does.

    Args:
        in_channels: channels ``C`` of the image.
        heads: output channels by head name, e.g. ``{"logits": 2}``.
        axes: spatial axes of the image, 3 or 2.
        start: ``synthetic`` for the embedded weights, ``none`` for random ones, or the path of a
            file that ``semisam pretrain synthsam`` wrote.
        dropout: channel dropout rate before the heads, in training mode.

    Shape:
        ``(B, C, *S)``, each spatial size even and at least 8, to ``{head: (B, c, *S)}`` float32,
        whatever the autocast precision.

    Raises:
        InputError: the file of weights is missing or not SynthSAM's.
        ValueError: a head names a level below the deepest, or a decoder above 3.
    """

    stride = STRIDE
    axes: tuple[int, ...] = (2, 3)
    deepest = "net.encoder.3"

    def __init__(
        self,
        in_channels: int,
        heads: Mapping[str, int],
        *,
        axes: Literal[2, 3] = 3,
        start: str = "synthetic",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_head_levels(heads, LEVELS, "the U-Net", _DECODERS)
        if not 0 <= dropout < 1:
            raise InputError(f"dropout must be at least 0 and below 1, got {dropout}. Use 0.1.")
        self.axes = (axes,)
        net = SynthSAMNet(axes)
        path = self.sources(axes=axes, start=start).get("start")
        meta = net.stem.weight.is_meta  # built only to be measured
        if path is not None and not meta:
            net.load_state_dict(load_weights(path, axes))
        width, known = net.widths[0], {"head": net.head, "sharpen": net.sharpen}
        for name in ("head", "sharpen", "likeness"):
            delattr(net, name)
        net.stem = _widened(net.stem, 0, in_channels)
        self.net = net
        further = {head_decoder(name) for name in heads} - {1}
        if further:
            self.decoders = nn.ModuleDict({str(n): _Decoder(net, n) for n in sorted(further)})
        self.dropout = DROPOUT[axes](dropout)
        self.heads = nn.ModuleDict(
            {
                name: CONV[axes](net.widths[head_level(name) - 1], count, 1)
                if head_level(name)
                else _Head(axes, width, in_channels, count)
                for name, count in heads.items()
            }
        )
        if path is not None and not meta:
            for name in heads:
                head: Any = self.heads[name]
                if name == "logits":
                    head.start_from(known["head"], known["sharpen"])
                else:
                    _zero(head.coarse if isinstance(head, _Head) else head)

    @classmethod
    def sources(cls, *, axes: int = 3, start: str = "synthetic", **options: Any) -> dict[str, Path]:
        """Return the file that decides the initial weights."""
        if start == "none":
            return {}
        return {"start": EMBEDDED[axes] if start == "synthetic" else Path(start)}

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Return each head's raw output."""
        parts = self._parts(image)
        levels = self.net.pyramid(parts)
        nothing = levels[0].new_zeros(image.shape[0], CHANNELS + 2, *levels[0].shape[2:])
        read = {}
        for number in sorted({head_decoder(name) for name in self.heads}):
            decoder = self.net.decoded if number == 1 else self.decoders[str(number)]
            grids = [self.dropout(x) for x in decoder(levels, nothing)]
            # A device here would become that of an exported program.
            both = torch.cat([grids[0], parts.to(grids[0].dtype)], 1)
            read[number] = grids, both.contiguous(memory_format=self.net.layout)
        size = image.shape[2:]
        found = {}
        for name, head in self.heads.items():
            level, (grids, both) = head_level(name), read[head_decoder(name)]
            if level:
                deep = head(grids[level - 1]).float()
                found[name] = functional.interpolate(deep, size, mode=LINEAR[len(size)])
            else:
                found[name] = head(grids[0], both)
        return found

    def deepest_features(self, image: Tensor) -> Tensor:
        """Return the encoder's features ``(B, c, *s)`` of an image on the grid 16 voxels wide."""
        return self.net.descend(self._parts(image))[-1]

    def _parts(self, image: Tensor) -> Tensor:
        if image.ndim - 2 not in self.axes or any(size % STRIDE for size in image.shape[2:]):
            raise ValueError(
                f"the U-Net's input must have {self.axes[0]} spatial axes of even sizes, got "
                f"{tuple(image.shape)}. Change the patch."
            )
        parts = torch.cat([to_subvoxels(channel) for channel in torch.split(image, 1, 1)], 1)
        return parts.contiguous(memory_format=self.net.layout)


class _Decoder(nn.Module):
    """A copy of the network's second half that enlarges in another way.

    Args:
        net: whose layers it copies.
        number: 2 enlarges linearly, 3 by transposed convolutions.
    """

    def __init__(self, net: SynthSAMNet, number: int) -> None:
        super().__init__()
        for name in ("ask", "down", "fuse", "deep", "up", "refine", "act"):
            setattr(self, name, copy.deepcopy(getattr(net, name)))
        self.mode = LINEAR[net.axes] if number == 2 else "nearest"
        if number == 3:
            self.up = nn.ModuleList(_transposed(conv, net.axes) for conv in net.up)

    def forward(self, levels: Sequence[Tensor], prompt: Tensor) -> list[Tensor]:
        """Return the features on each grid, as `SynthSAMNet.decoded`."""
        return decoded(self, levels, prompt, self.mode)


def _transposed(conv: Any, axes: int) -> Any:
    """Return a transposed convolution that equals a 1x1x1 one whose output is copied."""
    layer = CONV_TRANSPOSE[axes](conv.in_channels, conv.out_channels, STRIDE, STRIDE)
    with torch.no_grad():
        layer.weight.copy_(conv.weight.transpose(0, 1).expand_as(layer.weight))
        layer.bias.copy_(conv.bias)
    return layer


class _Head(nn.Module):
    """A coarse output and its correction by the image at full resolution.

    Args:
        axes: spatial axes of the image.
        width: channels of the decoder.
        in_channels: of the image.
        count: output channels.
    """

    def __init__(self, axes: int, width: int, in_channels: int, count: int) -> None:
        super().__init__()
        self.count, self.subvoxels = count, STRIDE**axes
        conv, parts = CONV[axes], self.subvoxels
        self.coarse = conv(width, count * parts, 3, padding=1)
        self.sharpen = nn.Sequential(
            conv(width + in_channels * parts, width, 3, padding=1),
            nn.LeakyReLU(0.01),
            conv(width, count * parts, 3, padding=1),
        )
        _zero(self.sharpen[2])

    @torch.no_grad()
    def start_from(self, head: nn.Module, sharpen: nn.Sequential) -> None:
        """Give each foreground class the log odds of the pretrained head, and the background 0.

        A single channel is a foreground class, whose background has no channel.
        """
        first: Any = sharpen[0]
        channels = (self.sharpen[0].in_channels - first.in_channels) // self.subvoxels + 1
        self.sharpen[0].load_state_dict(
            _widened(first, first.in_channels - self.subvoxels, channels).state_dict()
        )
        for ours, theirs in ((self.coarse, head), (self.sharpen[2], sharpen[2])):
            for name in ("weight", "bias"):
                target, source = getattr(ours, name), getattr(theirs, name)
                target.zero_()
                for value in range(min(1, self.count - 1), self.count):
                    target[value * self.subvoxels : (value + 1) * self.subvoxels] = source

    def forward(self, x: Tensor, both: Tensor) -> Tensor:
        """Return ``(B, count, *S)`` float32."""
        parts = self.coarse(x).float() + self.sharpen(both).float()
        return torch.cat([from_subvoxels(p) for p in torch.split(parts, self.subvoxels, 1)], 1)


def _zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def _widened(conv: Any, before: int, channels: int) -> Any:
    """Return a convolution for images of several channels, which shares its weights over them.

    Args:
        conv: whose last inputs are the subvoxels of one channel.
        before: inputs before those.
        channels: of the image.
    """
    if channels == 1:
        return conv
    parts = conv.in_channels - before
    wide = type(conv)(before + channels * parts, conv.out_channels, 3, padding=1)
    with torch.no_grad():
        rest = torch.cat([conv.weight[:, before:]] * channels, 1) / channels
        wide.weight.copy_(torch.cat([conv.weight[:, :before], rest], 1))
        wide.bias.copy_(conv.bias)
    return wide
