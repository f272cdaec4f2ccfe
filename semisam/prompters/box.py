"""A box around the proposal."""

from __future__ import annotations

import torch

from semisam.core.regions import box_of_mask, largest_face_component
from semisam.core.types import Prompt, View
from semisam.prompters._points import check_count, check_fraction, grow_box


class BoxPrompter:
    """The box around the largest face-connected component of the certain foreground.

    A single stray voxel could stretch the box of the whole proposal over the image. The largest
    component excludes it.

    Args:
        margin: voxels added on each side, clipped to the image.
        max_uncertainty: use only voxels with an uncertainty, in [0, 1], below this.

    Raises:
        InputError: an option is out of range.
    """

    emits: frozenset[str] = frozenset({"box"})
    rounds: int = 1

    def __init__(self, *, margin: int = 2, max_uncertainty: float = 0.5) -> None:
        check_count("margin", margin, 0)
        check_fraction("max_uncertainty", max_uncertainty)
        self.margin = margin
        self.max_uncertainty = max_uncertainty

    def __call__(self, view: View, rng: torch.Generator) -> Prompt | None:
        """Return the half-open box, or ``None`` if no certain voxel is foreground."""
        sure = (view.prob > 0.5) & (view.uncertainty < self.max_uncertainty)
        if not bool(sure.any()):
            return None
        box = box_of_mask(largest_face_component(sure))
        return Prompt(box=grow_box(box, self.margin, sure.shape))
