"""SegResNet of MONAI as a network of semisam.

References:
    Myronenko. "3D MRI brain tumor segmentation using autoencoder regularization." BrainLes 2018.
    https://arxiv.org/abs/1810.11654
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from semisam.core.errors import InputError
from semisam.core.framework import check_head_levels


class MonaiSegResNet(nn.Module):
    """MONAI's SegResNet, whose last features are read by one 1x1x1 convolution per head.

    Args:
        in_channels: channels ``C`` of the image.
        heads: output channels by head name, e.g. ``{"logits": 2}``.
        width: features at full resolution, a multiple of 8; doubled at each of three halvings.

    Raises:
        InputError: MONAI is not installed.
        ValueError: a head is not at full resolution, or the width is no multiple of 8.
    """

    stride, axes = 8, (3,)

    def __init__(self, in_channels: int, heads: Mapping[str, int], *, width: int = 16) -> None:
        super().__init__()
        check_head_levels(heads, 0, "SegResNet")
        if width < 8 or width % 8:
            raise ValueError(f"width must be a multiple of 8, got {width}.")
        try:
            from monai.networks.nets import SegResNet
        except ImportError as error:
            raise InputError(
                f"the network monai-segresnet must have the package monai, got none ({error}). "
                "Run pip install monai."
            ) from None
        self.net = SegResNet(3, init_filters=width, in_channels=in_channels, out_channels=width)
        self.heads = nn.ModuleDict({name: nn.Conv3d(width, c, 1) for name, c in heads.items()})

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Return each head's raw output ``(B, c, *S)``, float32."""
        features = self.net(image)
        return {name: head(features).float() for name, head in self.heads.items()}
