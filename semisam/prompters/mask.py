"""The proposal itself as the prompt."""

from __future__ import annotations

import torch

from semisam.core.types import Prompt, View


class MaskPrompter:
    """The proposal's probability map, for a backend that refines masks."""

    emits: frozenset[str] = frozenset({"mask"})
    rounds: int = 1

    def __call__(self, view: View, rng: torch.Generator) -> Prompt | None:
        """Return the detached map ``(*S)``, or ``None`` if no voxel is above 0.5."""
        if not bool((view.prob > 0.5).any()):
            return None
        return Prompt(mask=view.prob.detach())
