"""V-Net with batch normalisation and dropout, as in the semi-supervised literature.

References:
    Milletari, Navab, Ahmadi. "V-Net: Fully convolutional neural networks for volumetric medical
    image segmentation." 3DV 2016. https://arxiv.org/abs/1606.04797
    Yu et al. "Uncertainty-aware self-ensembling model for semi-supervised 3D left atrium
    segmentation." MICCAI 2019. https://arxiv.org/abs/1907.07034 (the variant that is common since)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semisam.core.errors import InputError
from semisam.core.framework import check_head_levels, head_decoder, head_level
from semisam.networks.activation import InPlaceReLU

_STRIDE = 16  # four halvings
_LEVELS = 3  # decoder levels below full resolution
_DECODERS = 3
# Names of the outputs in the published code: the first of DTC's two is the signed distance.
_PUBLISHED_HEADS = {
    ("out_conv",): {"out_conv": "logits"},
    ("out_conv", "out_conv2"): {"out_conv": "sdf", "out_conv2": "logits"},
}


class VNet(nn.Module):
    """The 9.45 M-parameter V-Net of UA-MT, with named 1x1x1 heads.

    The arithmetic is that of the published code. The interface differs: heads have names and are
    returned raw (DTC's published network applies tanh to its first output; here the method does).
    Heads named ``..._level1`` to ``..._level3`` read the decoder at a half, a quarter and an eighth
    of the resolution, after a dropout as at full resolution. Heads named ``..._decoder2`` and
    ``..._decoder3`` read further decoders, as in MC-Net+, which enlarge linearly and by copies
    before a 3x3x3 convolution, where the first has a transposed one.

    Args:
        in_channels: channels ``C`` of the image.
        heads: output channels by head name, e.g. ``{"logits": 2}``.
        filters: channels at full resolution; doubled at each of the four halvings.
        dropout: channel dropout rate at the bottleneck and before the heads, in training mode.

    Shape:
        ``(B, C, W, H, D)``, each spatial size a multiple of 16, to
        ``{head: (B, c, W, H, D)}`` float32, whatever the autocast precision.

    Raises:
        ValueError: a spatial size is not a multiple of 16, a head names a level below 3 or a
            decoder above 3, or ``filters`` is below 1.
    """

    stride = _STRIDE
    axes = (3,)
    deepest = "block_five"

    def __init__(
        self,
        in_channels: int,
        heads: Mapping[str, int],
        *,
        filters: int = 16,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        check_head_levels(heads, _LEVELS, "V-Net", _DECODERS)
        if filters < 1:
            raise ValueError(f"filters must be at least 1, got {filters}. Choose for example 16.")
        f = filters
        self.block_one = _convs(1, in_channels, f)
        self.block_one_dw = _down(f, 2 * f)
        self.block_two = _convs(2, 2 * f, 2 * f)
        self.block_two_dw = _down(2 * f, 4 * f)
        self.block_three = _convs(3, 4 * f, 4 * f)
        self.block_three_dw = _down(4 * f, 8 * f)
        self.block_four = _convs(3, 8 * f, 8 * f)
        self.block_four_dw = _down(8 * f, 16 * f)
        self.block_five = _convs(3, 16 * f, 16 * f)
        _add_decoder(self, f, _up)
        self.heads = nn.ModuleDict(
            {name: nn.Conv3d(f << head_level(name), c, 1) for name, c in heads.items()}
        )
        self.dropout = nn.Dropout3d(dropout)
        further = {head_decoder(name) for name in heads} - {1}
        if further:
            self.decoders = nn.ModuleDict()
            for number in sorted(further):
                self.decoders[str(number)] = decoder = nn.Module()
                _add_decoder(decoder, f, _UPS[number])

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Return each head's raw output."""
        if any(size % _STRIDE for size in image.shape[2:]):
            raise ValueError(
                f"every spatial size of V-Net's input must be a multiple of {_STRIDE}, got "
                f"{tuple(image.shape[2:])}. Change the patch."
            )
        x1 = self.block_one(image)
        x2 = self.block_two(self.block_one_dw(x1))
        x3 = self.block_three(self.block_two_dw(x2))
        x4 = self.block_four(self.block_three_dw(x3))
        x5 = self.dropout(self.block_five(self.block_four_dw(x4)))
        read = {
            number: self._decoded(number, (x1, x2, x3, x4), x5)
            for number in sorted({head_decoder(name) for name in self.heads})
        }
        outputs: dict[str, Tensor] = {}
        for name, head in self.heads.items():
            level = head_level(name)
            raw = head(read[head_decoder(name)][level]).float()
            outputs[name] = raw if level == 0 else _enlarge(raw, image.shape[2:])
        return outputs

    def _decoded(self, number: int, skips: Sequence[Tensor], x5: Tensor) -> dict[int, Tensor]:
        """Return the features of a decoder at the levels that its heads read."""
        part: Any = self if number == 1 else self.decoders[str(number)]
        x1, x2, x3, x4 = skips
        y3 = part.block_six(part.block_five_up(x5) + x4)
        y2 = part.block_seven(part.block_six_up(y3) + x3)
        y1 = part.block_eight(part.block_seven_up(y2) + x2)
        y0 = self.dropout(part.block_nine(part.block_eight_up(y1) + x1))
        # Dropout only where a head reads the level: without deep heads no random number is drawn.
        own = (name for name in self.heads if head_decoder(name) == number)
        deep = {head_level(name) for name in own} - {0}
        return {0: y0} | {i: self.dropout((y1, y2, y3)[i - 1]) for i in sorted(deep)}


def _add_decoder(module: Any, f: int, up: Callable[[int, int], nn.Module]) -> None:
    """Give a module the layers of a decoder, which enlarge in a way."""
    module.block_five_up = up(16 * f, 8 * f)
    module.block_six = _convs(3, 8 * f, 8 * f)
    module.block_six_up = up(8 * f, 4 * f)
    module.block_seven = _convs(3, 4 * f, 4 * f)
    module.block_seven_up = up(4 * f, 2 * f)
    module.block_eight = _convs(2, 2 * f, 2 * f)
    module.block_eight_up = up(2 * f, f)
    module.block_nine = _convs(1, f, f)


def _enlarge(raw: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(raw, size=size, mode="trilinear", align_corners=False)


class _Block(nn.Module):
    """A sequence named ``conv``, as in the published state dicts."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.conv(x))


def _convs(stages: int, c_in: int, c_out: int) -> _Block:
    layers: list[nn.Module] = []
    for stage in range(stages):
        layers += [nn.Conv3d(c_in if stage == 0 else c_out, c_out, 3, padding=1)]
        layers += [nn.BatchNorm3d(c_out), InPlaceReLU()]
    return _Block(*layers)


def _down(c_in: int, c_out: int) -> _Block:
    return _Block(nn.Conv3d(c_in, c_out, 2, stride=2), nn.BatchNorm3d(c_out), InPlaceReLU())


def _up(c_in: int, c_out: int) -> _Block:
    return _Block(
        nn.ConvTranspose3d(c_in, c_out, 2, stride=2), nn.BatchNorm3d(c_out), InPlaceReLU()
    )


def _up_linear(c_in: int, c_out: int) -> _Block:
    return _enlarging(
        nn.Upsample(scale_factor=2, mode="trilinear", align_corners=True), c_in, c_out
    )


def _up_nearest(c_in: int, c_out: int) -> _Block:
    return _enlarging(nn.Upsample(scale_factor=2, mode="nearest"), c_in, c_out)


def _enlarging(larger: nn.Module, c_in: int, c_out: int) -> _Block:
    conv = nn.Conv3d(c_in, c_out, 3, padding=1)
    return _Block(larger, conv, nn.BatchNorm3d(c_out), InPlaceReLU())


_UPS = {2: _up_linear, 3: _up_nearest}
"""The layer that enlarges, by the number of a further decoder."""


def from_published(state: Mapping[str, Tensor]) -> VNet:
    """Build the V-Net that a published state dict describes and load it.

    Args:
        state: parameters under the keys of UA-MT's ``VNet`` (head ``logits``) or DTC's (heads
            ``sdf``, the first output, and ``logits``); a ``module.`` prefix is dropped.

    Raises:
        InputError: the keys or shapes are not those of that network.
    """
    state = {key.removeprefix("module."): value for key, value in state.items()}
    outputs = tuple(sorted({key.split(".")[0] for key in state if key.startswith("out_conv")}))
    names = _PUBLISHED_HEADS.get(outputs)
    first = state.get("block_one.conv.0.weight")
    if names is None or first is None or first.ndim != 5:
        raise InputError(
            "a published V-Net checkpoint must hold block_one.conv.0.weight and "
            f"out_conv(.2).weight, got {len(state)} keys such as {sorted(state)[:3]}. Check that "
            "it is not another network's."
        )
    heads = {new: int(state[f"{old}.weight"].shape[0]) for old, new in names.items()}
    net = VNet(int(first.shape[1]), heads, filters=int(first.shape[0]))
    renamed = {
        f"heads.{names[key.split('.')[0]]}.{key.split('.')[1]}"
        if key.startswith("out_conv")
        else key: value
        for key, value in state.items()
    }
    try:
        net.load_state_dict(renamed)
    except RuntimeError as error:
        raise InputError(f"the checkpoint must fit the published V-Net, got {error}.") from error
    return net


def load_published(path: Path) -> VNet:
    """Load a published V-Net checkpoint without executing anything in it.

    Raises:
        InputError: the file is unreadable, holds more than tensors, or is another network's.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile or broken file fails in many ways
        raise InputError(
            f"{path}: the checkpoint must hold only tensors, got a file that torch.load refuses "
            f"with weights_only: {str(error).splitlines()[0]}"
        ) from error
    for key in ("state_dict", "model_state_dict", "net"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        got = type(state).__name__
        raise InputError(
            f"{path}: the checkpoint must be a dict of tensors, got {got}. Choose another file."
        )
    return from_published(state)
