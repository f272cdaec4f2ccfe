"""A box around the proposal."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from semisam.prompters._points import bounding_box, check_count, check_fraction, grow_box
from semisam.types import Prompt, View


class BoxPrompter:
    """The box of the largest connected piece of the proposal's sure foreground.

    One stray voxel would stretch the box of the whole proposal over the image; the largest piece
    ignores it. Pieces are connected through faces.

    Args:
        margin: voxels added on each side, clipped to the image.
        max_uncertainty: only voxels with an uncertainty, in [0, 1], below this count.

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
        """Return the half-open box, or ``None`` where no sure voxel is foreground."""
        sure = (view.prob > 0.5) & (view.uncertainty < self.max_uncertainty)
        if not bool(sure.any()):
            return None
        box = bounding_box(_largest_component(sure))
        return Prompt(box=grow_box(box, self.margin, sure.shape))


def _largest_component(mask: Tensor) -> Tensor:
    """Return the largest face-connected piece of a non-empty ``(*S)`` bool mask."""
    pieces, count = ndimage.label(mask.cpu().numpy())
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    sizes[0] = 0
    return torch.from_numpy(pieces == sizes.argmax()).to(mask.device)
