"""Networks of MONAI with named heads.

References:
    Cardoso et al. "MONAI: An open-source framework for deep learning in healthcare." 2022.
    https://arxiv.org/abs/2211.02701
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import nn

from semisam.core.errors import PluginError
from semisam.networks._foreign import ForeignNetwork, check_width

Name = Literal["SegResNet", "DynUNet", "SwinUNETR", "UNet"]
_STRIDES = {"SegResNet": 8, "DynUNet": 16, "UNet": 16, "SwinUNETR": 32}
_UNITS = {"SegResNet": 8, "DynUNet": 1, "UNet": 1, "SwinUNETR": 12}


class MonaiNetwork(ForeignNetwork):
    """A network of MONAI; needs ``pip install 'semisam[monai]'``.

    It starts from random weights, and heads are at full resolution. Depths are those of MONAI, or
    of its examples: four halvings, residual units, InstanceNorm (SegResNet: three, GroupNorm).

    - ``SegResNet``: Myronenko, https://arxiv.org/abs/1810.11654
    - ``DynUNet``: nnU-Net's network, https://arxiv.org/abs/1809.10486
    - ``SwinUNETR``: Hatamizadeh et al., https://arxiv.org/abs/2201.01266
    - ``UNet``: Kerfoot et al., https://doi.org/10.1007/978-3-030-12029-0_40

    Args:
        in_channels: channels ``C`` of the image.
        heads: output channels by head name, e.g. ``{"logits": 2}``.
        name: of the network in MONAI.
        width: channels at full resolution, of SwinUNETR a multiple of 12, of SegResNet of 8; 0 is
            16, or 24 for SwinUNETR.
        axes: spatial axes of an image, 3 or 2.

    Raises:
        PluginError: MONAI is not installed.
        ValueError: the width is not possible, or a head names a level.
    """

    def __init__(
        self,
        in_channels: int,
        heads: Mapping[str, int],
        *,
        name: Name = "SegResNet",
        width: int = 0,
        axes: Literal[2, 3] = 3,
    ) -> None:
        title = f"MONAI's {name}"
        width = width or (24 if name == "SwinUNETR" else 16)
        check_width(width, _UNITS[name], title)
        super().__init__(
            _body(name, in_channels, width, axes),
            width,
            heads,
            axes=axes,
            stride=_STRIDES[name],
            title=title,
        )


def _body(name: Name, channels: int, width: int, axes: int) -> nn.Module:
    """Return the network with ``width`` channels at its first level and at its output."""
    widths = [width << level for level in range(5)]
    shape: dict[str, Any] = {"spatial_dims": axes, "in_channels": channels, "out_channels": width}
    options: dict[str, dict[str, Any]] = {
        "SegResNet": {"init_filters": width},
        "UNet": {"channels": widths, "strides": (2, 2, 2, 2), "num_res_units": 2},
        "SwinUNETR": {"feature_size": width},
        "DynUNet": {
            "kernel_size": [3] * 5,
            "strides": [1, 2, 2, 2, 2],
            "upsample_kernel_size": [2] * 4,
            "filters": widths,
            "res_block": True,
        },
    }
    try:
        from monai.networks import nets

        net: nn.Module = getattr(nets, name)(**shape, **options[name])
    except ImportError as error:  # SwinUNETR imports einops when it is made
        reason = str(error).splitlines()[0]
        raise PluginError(
            f"the network monai needs the packages monai and einops, got an import error "
            f"({reason}). Run pip install 'semisam[monai]'."
        ) from error
    return net
