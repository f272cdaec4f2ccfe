"""Clicks anywhere in and near the proposal: an ablation of the uncertainty."""

from __future__ import annotations

import torch

from semisam.core.types import Prompt, View
from semisam.prompters._points import check_count, draw_clicks


class RandomPoints:
    """Random clicks that ignore the uncertainty, but are otherwise as ``UncertaintyPoints``.

    Args:
        positive: positive clicks, where the probability is above 0.5; at least 1.
        negative: negative clicks, where it is not.
        margin: negative clicks are in the proposal's bounding box grown by this many voxels.

    Raises:
        InputError: an option is out of range.
    """

    emits: frozenset[str] = frozenset({"points"})
    rounds: int = 1

    def __init__(self, *, positive: int = 5, negative: int = 5, margin: int = 8) -> None:
        check_count("positive", positive, 1)
        check_count("negative", negative, 0)
        check_count("margin", margin, 0)
        self.positive = positive
        self.negative = negative
        self.margin = margin

    def __call__(self, view: View, rng: torch.Generator) -> Prompt | None:
        """Return the clicks, or ``None`` if the proposal is empty."""
        foreground = view.prob > 0.5
        return draw_clicks(
            foreground,
            torch.ones_like(foreground),
            positive=self.positive,
            negative=self.negative,
            margin=self.margin,
            rng=rng,
        )
