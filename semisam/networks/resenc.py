"""nnU-Net's residual encoder U-Net with named heads.

References:
    Isensee et al. "nnU-Net revisited: A call for rigorous validation in 3D medical image
    segmentation." MICCAI 2024. https://arxiv.org/abs/2404.09556
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import nn

from semisam.core.errors import PluginError
from semisam.networks._foreign import ForeignNetwork, check_width

_BLOCKS = (1, 3, 4, 6, 6)  # of nnU-Net's presets, to 16 voxels
_WIDEST = 320


class ResidualEncoder(ForeignNetwork):
    """The residual encoder U-Net of nnU-Net's presets; needs ``pip install 'semisam[resenc]'``.

    It starts from random weights, and heads are at full resolution. Five stages, InstanceNorm and
    leaky ReLU, and one convolution per stage of the decoder.

    Args:
        in_channels: channels ``C`` of the image.
        heads: output channels by head name, e.g. ``{"logits": 2}``.
        width: channels at full resolution, doubled at each halving up to 320; the presets have 32.
        axes: spatial axes of an image, 3 or 2.

    Raises:
        PluginError: dynamic-network-architectures is not installed.
        ValueError: the width is not positive, or a head names a level.
    """

    def __init__(
        self,
        in_channels: int,
        heads: Mapping[str, int],
        *,
        width: int = 32,
        axes: Literal[2, 3] = 3,
    ) -> None:
        title = "the residual encoder U-Net"
        check_width(width, 1, title)
        super().__init__(
            _body(in_channels, width, axes), width, heads, axes=axes, stride=16, title=title
        )


def _body(channels: int, width: int, axes: int) -> nn.Module:
    try:
        from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
    except ImportError as error:
        raise PluginError(
            "the network resenc needs the package dynamic-network-architectures, got an import "
            f"error ({error}). Run pip install 'semisam[resenc]'."
        ) from error
    stages = len(_BLOCKS)
    net: nn.Module = ResidualEncoderUNet(
        input_channels=channels,
        n_stages=stages,
        features_per_stage=[min(width << stage, _WIDEST) for stage in range(stages)],
        conv_op=nn.Conv2d if axes == 2 else nn.Conv3d,
        kernel_sizes=3,
        strides=[1, *[2] * (stages - 1)],
        n_blocks_per_stage=list(_BLOCKS),
        num_classes=width,
        n_conv_per_stage_decoder=1,
        conv_bias=True,
        norm_op=nn.InstanceNorm2d if axes == 2 else nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
    )
    decoder = net.decoder
    # Outputs below full resolution are made for deep supervision, and nothing here uses them.
    decoder.seg_layers = decoder.seg_layers[-1:]  # type: ignore[union-attr, index]
    return net
