"""The proposal as a mask, and clicks on it."""

from __future__ import annotations

from dataclasses import replace

import torch

from semisam.core.types import Prompt, View
from semisam.prompters.mask import MaskPrompter
from semisam.prompters.uncertainty_points import UncertaintyPoints


class MaskAndPoints:
    """The prompts of ``MaskPrompter`` and ``UncertaintyPoints`` combined.

    In later rounds the mask is the backend's last prediction, as in SAM's iterations, and clicks
    are added where it differs from the proposal.

    Args:
        positive: positive clicks, where the probability is above 0.5; at least 1.
        negative: negative clicks, where it is not.
        rounds: rounds per image and class, at least 1.
        max_uncertainty: click only where the uncertainty, in [0, 1], is below this.
        margin: negative clicks are in the proposal's bounding box grown by this many voxels.

    Raises:
        InputError: an option is out of range.
    """

    emits: frozenset[str] = frozenset({"mask", "points"})

    def __init__(
        self,
        *,
        positive: int = 3,
        negative: int = 3,
        rounds: int = 1,
        max_uncertainty: float = 0.5,
        margin: int = 8,
    ) -> None:
        self._mask = MaskPrompter()
        self._points = UncertaintyPoints(
            positive=positive,
            negative=negative,
            rounds=rounds,
            max_uncertainty=max_uncertainty,
            margin=margin,
        )
        self.rounds = rounds

    def __call__(self, view: View, rng: torch.Generator) -> Prompt | None:
        """Return mask and clicks, or ``None`` if no certain voxel is foreground."""
        clicks = self._points(view, rng)
        if clicks is None:
            return None
        if view.previous is not None:
            return replace(clicks, mask=view.previous.detach())
        mask = self._mask(view, rng)
        return None if mask is None else replace(clicks, mask=mask.mask)
