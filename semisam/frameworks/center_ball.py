"""A ball at the image's centre: what is known of an organ before any label is seen."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from semisam.core.errors import UnservedHeads
from semisam.core.framework import Framework, NetBuilder
from semisam.core.types import Batch, Clock, Step


class CenterBall(Framework):
    """Propose a ball at the centre of each scan. Nothing is trained, and no label is read.

    On data whose scans were cropped around the organ the centre is in the organ. With a promptable
    model the ball is the proposal, so the model predicts from clicks at the centre. The row needs
    no label, and shows how much of a score the crop gives away.

    Args:
        build: is not used.
        num_classes: 2, the background and the class that gets the ball.
        radius: of the ball, as a part of half the image's extent along each axis.

    Raises:
        ValueError: the radius is out of range.
        UnservedHeads: there are several classes, whose balls would be one. A grid loses the row.
    """

    trains = False
    uses_unlabeled = False

    def __init__(self, build: NetBuilder, num_classes: int, *, radius: float = 0.2) -> None:
        super().__init__(build, num_classes)
        if num_classes > 2:
            raise UnservedHeads(
                f"center-ball must have one foreground class, got {num_classes - 1}. Leave it out."
            )
        if not 0 < radius <= 1:
            raise ValueError(f"radius must be above 0 and at most 1, got {radius}.")
        self.radius = radius

    def forward(self, image: Tensor) -> Tensor:
        """Return probability 1 of the class in the ball: whole scans ``(B, C, *S)``."""
        axes = [torch.linspace(-1, 1, n, device=image.device).abs() for n in image.shape[2:]]
        inside = self._ball(axes)
        if not inside.any():  # of a few slices none is this near to the centre
            inside = self._ball([axis - axis.min() for axis in axes])
        row = torch.stack([~inside, inside]).float()
        return row.expand(len(image), *row.shape).contiguous()

    def _ball(self, axes: Sequence[Tensor]) -> Tensor:
        """Return the voxels ``(*S)`` of the ball from the distances to its centre along axes."""
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        return grid.square().sum(0) <= self.radius**2

    def training_step(self, batch: Batch, clock: Clock) -> Step:
        """Raise an error: nothing is trained."""
        raise NotImplementedError("a ball is not trained")
