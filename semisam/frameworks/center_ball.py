"""A ball at the image's centre: what is known of an organ before any label is seen."""

from __future__ import annotations

import torch
from torch import Tensor

from semisam.core.framework import Framework, NetBuilder
from semisam.core.types import Batch, Clock, Step


class CenterBall(Framework):
    """Propose a ball at the centre of each scan. Nothing is trained, and no label is read.

    On data whose scans were cropped around the organ the centre is in the organ. With a promptable
    model the ball is the proposal, so the model predicts from clicks at the centre. The row needs
    no label, and shows how much of a score the crop gives away.

    Args:
        build: is not used.
        num_classes: classes counting background; each foreground class gets the ball.
        radius: of the ball, as a part of half the image's extent along each axis.
    """

    trains = False
    uses_unlabeled = False

    def __init__(self, build: NetBuilder, num_classes: int, *, radius: float = 0.2) -> None:
        super().__init__(build, num_classes)
        if not 0 < radius <= 1:
            raise ValueError(f"radius must be above 0 and at most 1, got {radius}.")
        self.radius = radius

    def forward(self, image: Tensor) -> Tensor:
        """Return equal probabilities of the foreground in the ball: whole scans ``(B, C, *S)``."""
        axes = [torch.linspace(-1, 1, n, device=image.device) for n in image.shape[2:]]
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        inside = (grid.square().sum(0) <= self.radius**2).float()
        share = inside / (self.num_classes - 1)
        row = torch.stack([1 - inside, *[share] * (self.num_classes - 1)])
        return row.expand(len(image), *row.shape).contiguous()

    def training_step(self, batch: Batch, clock: Clock) -> Step:
        """Raise an error: nothing is trained."""
        raise NotImplementedError("a ball is not trained")
