"""A network of another library as one with named heads."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from semisam.core.framework import check_head_levels
from semisam.networks.precision import channels_last


class ForeignNetwork(nn.Module):
    """Maps images to the features of another library's network, and these to named heads.

    Args:
        body: maps ``(B, C, *S)`` to ``(B, width, *S)``.
        width: channels of the body's output.
        heads: output channels by head name, at full resolution only.
        axes: spatial axes of an image.
        stride: divides every valid size.
        title: the network's name in errors.

    Shape:
        ``(B, C, *S)`` to ``{head: (B, c, *S)}`` float32, whatever the autocast precision.

    Raises:
        ValueError: a head names a level.
    """

    def __init__(
        self,
        body: nn.Module,
        width: int,
        heads: Mapping[str, int],
        *,
        axes: int,
        stride: int,
        title: str,
    ) -> None:
        super().__init__()
        check_head_levels(heads, 0, title)
        self.axes, self.stride, self.title = (axes,), stride, title
        self.body = body
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[axes]
        self.heads = nn.ModuleDict({name: conv(width, c, 1) for name, c in heads.items()})

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Return each head's raw output."""
        sizes = tuple(image.shape[2:])
        # The normalization of a single voxel is undefined.
        if any(n % self.stride for n in sizes) or max(sizes, default=0) == self.stride:
            raise ValueError(
                f"every spatial size of the input of {self.title} must be a multiple of "
                f"{self.stride}, and one must be larger, got {sizes}. Change the patch."
            )
        features: Tensor = self.body(channels_last(image))
        return {name: head(features).float() for name, head in self.heads.items()}


def check_width(width: int, unit: int, title: str) -> None:
    """Refuse numbers of channels that a network cannot have.

    Raises:
        ValueError: the width is not a positive multiple of the unit.
    """
    if width < unit or width % unit:
        raise ValueError(
            f"width of {title} must be a positive multiple of {unit}, got {width}. Use {4 * unit}."
        )
