"""Clicks at the centre of the proposal, then of its largest difference from the prediction."""

from __future__ import annotations

import torch

from semisam.core.regions import deepest_points, largest_face_component
from semisam.core.types import Prompt, View
from semisam.prompters._points import check_count, check_fraction, to_correct


class CenterPoints:
    """The deepest points of the largest component, by Euclidean distance transform.

    An annotator with one click puts it there. In the first round, the component is from the
    proposal's certain foreground. In later rounds, it is from the larger of two errors between the
    certain part of the proposal and the backend's last prediction: a missed component takes
    positive clicks, a wrongly included one negative clicks. Nothing is drawn at random. Simulated
    annotators of interactive segmentation follow this rule (Xu et al., "Deep Interactive Object
    Selection", CVPR 2016; Sofiiuk et al., ICIP 2022).

    Args:
        points: clicks per round, the deepest first, spread over the component; at least 1.
        rounds: rounds per image and class, at least 1.
        max_uncertainty: use only voxels with an uncertainty, in [0, 1], below this.

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
        """Return the clicks, or ``None`` if no certain voxel is foreground or differs."""
        region, label = to_correct(view, self.max_uncertainty)
        if not bool(region.any()):
            return None
        points = deepest_points(largest_face_component(region), self.points)
        return Prompt(points=points, labels=points.new_full((len(points),), label))
