"""Clicks where the uncertainty of the proposal is low."""

from __future__ import annotations

import torch

from semisam.core.types import Prompt, View
from semisam.prompters._points import check_count, check_fraction, draw_clicks


class UncertaintyPoints:
    """Random clicks among the voxels of low uncertainty.

    "We conduct an uncertainty-aware strategy to select out regions for the prompt generation"
    (Zhang et al., "SemiSAM: Enhancing Semi-Supervised Medical Image Segmentation via SAM-Assisted
    Consistency Regularization", BIBM 2024). The paper names neither the number of clicks nor the
    threshold, so both are options.

    Differs from the published code, which draws its clicks from the labels of the unlabeled
    volumes and computes the uncertainty without using it.

    Args:
        positive: positive clicks, where the probability is above 0.5; at least 1.
        negative: negative clicks, where it is not.
        rounds: rounds per image and class, at least 1. From the second on, clicks are only where
            the backend's last prediction differs from the proposal.
        max_uncertainty: click only where the uncertainty, in [0, 1], is below this.
        margin: negative clicks are in the proposal's bounding box grown by this many voxels.

    Raises:
        InputError: an option is out of range.
    """

    emits: frozenset[str] = frozenset({"points"})

    def __init__(
        self,
        *,
        positive: int = 5,
        negative: int = 5,
        rounds: int = 1,
        max_uncertainty: float = 0.5,
        margin: int = 8,
    ) -> None:
        check_count("positive", positive, 1)
        check_count("negative", negative, 0)
        check_count("rounds", rounds, 1)
        check_count("margin", margin, 0)
        check_fraction("max_uncertainty", max_uncertainty)
        self.positive = positive
        self.negative = negative
        self.rounds = rounds
        self.max_uncertainty = max_uncertainty
        self.margin = margin

    def __call__(self, view: View, rng: torch.Generator) -> Prompt | None:
        """Return the clicks, or ``None`` if no certain voxel remains to be clicked."""
        foreground = view.prob > 0.5
        allowed = view.uncertainty < self.max_uncertainty
        if view.previous is not None:
            allowed = allowed & (foreground != (view.previous > 0.5))
        return draw_clicks(
            foreground,
            allowed,
            positive=self.positive,
            negative=self.negative,
            margin=self.margin,
            rng=rng,
            lone_negatives=view.previous is not None,
        )
