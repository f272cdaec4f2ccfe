"""Clicks that correct the backend's last prediction towards the proposal, one per round."""

from __future__ import annotations

import torch

from semisam.core.types import Prompt, View
from semisam.prompters._points import check_count, check_fraction, sample, to_correct


class CorrectivePoints:
    """One random click per round, as by an annotator who sees only the proposal.

    The first click is in the proposal. Each later one is in the larger of the two errors between
    the certain part of the proposal and the backend's last prediction: a missed voxel takes a
    positive click, a wrongly included one a negative click. So the sign of a click is always the
    proposal's mask at the clicked voxel. The code of SAM-Med3D and SemiSAM follows this scheme,
    as simulated annotators do (Sofiiuk et al., "Reviving Iterative Training with Mask Guidance for
    Interactive Segmentation", ICIP 2022).

    Differs from the published code, which corrects towards the ground truth, reads the sign at
    another voxel than the clicked one, and thresholds logits at 0.5.

    Args:
        rounds: clicks per image and class, at least 1.
        max_uncertainty: click only where the uncertainty, in [0, 1], is below this.

    Raises:
        InputError: an option is out of range.
    """

    emits: frozenset[str] = frozenset({"points"})

    def __init__(self, *, rounds: int = 3, max_uncertainty: float = 0.5) -> None:
        check_count("rounds", rounds, 1)
        check_fraction("max_uncertainty", max_uncertainty)
        self.rounds = rounds
        self.max_uncertainty = max_uncertainty

    def __call__(self, view: View, rng: torch.Generator) -> Prompt | None:
        """Return one click, or ``None`` if no certain voxel is foreground or differs."""
        region, label = to_correct(view, self.max_uncertainty)
        point = sample(region, 1, rng)
        return Prompt(points=point, labels=point.new_full((1,), label)) if len(point) else None
