"""Clicks in the middle of the proposal, and then of its largest disagreement with the answer."""

from __future__ import annotations

import torch

from semisam.core.types import Prompt, View
from semisam.prompters._components import deepest_points, largest_component
from semisam.prompters._points import check_count, check_fraction


class CenterPoints:
    """The deepest points of the largest piece, by Euclidean distance transform.

    Where an annotator who is asked for one click puts it. In the first round the piece is of the
    proposal's sure foreground; in every further one, of the larger error between the sure part of
    the proposal and the backend's last answer: a missed piece takes positive clicks, a wrongly
    included one negative ones. Nothing is drawn at random. The rule is that of the simulated
    annotators of interactive segmentation (Xu et al., "Deep Interactive Object Selection", CVPR
    2016; Sofiiuk et al., ICIP 2022).

    Args:
        points: clicks per round, the deepest first, spread over the piece; at least 1.
        rounds: rounds per image and class, at least 1.
        max_uncertainty: only voxels with an uncertainty, in [0, 1], below this count.

    Raises:
        InputError: an option is out of range.
    """

    emits: frozenset[str] = frozenset({"points"})

    def __init__(self, *, points: int = 1, rounds: int = 1, max_uncertainty: float = 0.5) -> None:
        check_count("points", points, 1)
        check_count("rounds", rounds, 1)
        check_fraction("max_uncertainty", max_uncertainty)
        self.points = points
        self.rounds = rounds
        self.max_uncertainty = max_uncertainty

    def __call__(self, view: View, rng: torch.Generator) -> Prompt | None:
        """Return the clicks, or ``None`` where the answer agrees or nothing sure is foreground."""
        sure = view.uncertainty < self.max_uncertainty
        target = view.prob > 0.5
        if view.previous is None:
            return self._click(sure & target, 1)
        answer = view.previous > 0.5
        missed, surplus = sure & target & ~answer, sure & ~target & answer
        if int(missed.sum()) >= int(surplus.sum()):
            return self._click(missed, 1)
        return self._click(surplus, 0)

    def _click(self, region: torch.Tensor, label: int) -> Prompt | None:
        if not bool(region.any()):
            return None
        points = deepest_points(largest_component(region), self.points)
        return Prompt(points=points, labels=points.new_full((len(points),), label))
