"""The validation of a training: its scores, the best weights, and the early stop."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import torch

FIGURE = "validation_dice"
"""The name of the score in the log."""


@dataclasses.dataclass(frozen=True)
class Validation:
    """The settings of a validation.

    Args:
        every: iterations between two; the weights after the last iteration are validated too.
        keep: weights to deploy: ``last``, or the ``best`` of the validations.
        patience: validations without a better score after which the training stops.
    """

    every: int
    keep: Literal["last", "best"] = "last"
    patience: int | None = None


class Scores:
    """The scores of the validations so far. They belong to the checkpoint.

    Args:
        plan: settings of the validation; ``None``: no validation.
    """

    def __init__(self, plan: Validation | None) -> None:
        self._plan = plan
        self._found: dict[str, float] = {}
        self._since = 0
        self.best: dict[str, torch.Tensor] | None = None
        """The best weights as deployed, where they are kept."""

    def due(self, done: int, total: int) -> bool:
        """Return whether the weights of this many finished steps are validated."""
        return self._plan is not None and (done % self._plan.every == 0 or done == total)

    @property
    def stops(self) -> bool:
        """True if the training ends early."""
        patience = None if self._plan is None else self._plan.patience
        return patience is not None and self._since >= patience

    def add(self, done: int, score: float, weights: dict[str, torch.Tensor]) -> None:
        """Take the score of the weights after this many steps; of equal scores the first counts."""
        self._since += 1
        if not self._found or score > self._found["best_dice"]:
            self._since = 0
            self._found |= {"best_iteration": done, "best_dice": score}
            if self._plan is not None and self._plan.keep == "best":
                self.best = weights
        self._found |= {"last_iteration": done, "last_dice": score}

    def summary(self) -> dict[str, float]:
        """Return the best and the last score and their iterations; empty without a validation."""
        return dict(self._found)

    def state(self) -> dict[str, Any]:
        """Return the content of a checkpoint."""
        return {"found": self._found, "since": self._since, "best": self.best}

    def load(self, state: dict[str, Any], device: torch.device) -> None:
        """Take the content of a checkpoint."""
        self._found, self._since = dict(state["found"]), int(state["since"])
        best = state["best"]
        self.best = best and {name: value.to(device) for name, value in best.items()}
