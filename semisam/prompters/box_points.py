"""A box around the proposal and clicks in it."""

from __future__ import annotations

import torch

from semisam.core.types import Prompt, View
from semisam.prompters.box import BoxPrompter
from semisam.prompters.uncertainty_points import UncertaintyPoints


class BoxAndPoints:
    """The prompts of ``BoxPrompter`` and ``UncertaintyPoints`` combined.

    The box gives the extent, the clicks the object in it. Later rounds keep the box and add clicks
    where the prediction differs from the proposal.

    Args:
        positive: positive clicks, where the probability is above 0.5; at least 1.
        negative: negative clicks, where it is not.
        rounds: rounds per image and class, at least 1.
        max_uncertainty: use only voxels with an uncertainty, in [0, 1], below this.
        margin: negative clicks are in the proposal's bounding box grown by this many voxels.
        box_margin: voxels added to the box on each side, clipped to the image.

    Raises:
        InputError: an option is out of range.
    """

    emits: frozenset[str] = frozenset({"box", "points"})

    def __init__(
        self,
        *,
        positive: int = 3,
        negative: int = 3,
        rounds: int = 1,
        max_uncertainty: float = 0.5,
        margin: int = 8,
        box_margin: int = 2,
    ) -> None:
        self._box = BoxPrompter(margin=box_margin, max_uncertainty=max_uncertainty)
        self._points = UncertaintyPoints(
            positive=positive,
            negative=negative,
            rounds=rounds,
            max_uncertainty=max_uncertainty,
            margin=margin,
        )
        self.rounds = rounds

    def __call__(self, view: View, rng: torch.Generator) -> Prompt | None:
        """Return box and clicks, or ``None`` if no certain voxel is foreground."""
        clicks = self._points(view, rng)
        if clicks is None or view.previous is not None:
            return clicks
        box = self._box(view, rng)
        return Prompt(clicks.points, clicks.labels, None if box is None else box.box)
