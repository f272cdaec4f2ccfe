"""The contract of a training method: all that a method's author must read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from semisam.types import Batch, Clock, Step


class NetBuilder(Protocol):
    """Builds one network with named heads.

    ``build(logits=2)`` returns a module with ``module(image) -> {"logits": (B, 2, *S)}``; DTC asks
    ``build(logits=K, sdf=K - 1)``. Outputs are raw (no softmax, no tanh) float32.
    """

    def __call__(self, **heads: int) -> nn.Module:
        """Return a freshly initialised module with these heads."""
        ...


class Framework(nn.Module, ABC):
    """A method that trains a segmentation network from labeled and unlabeled volumes.

    A subclass takes its options as keyword-only constructor arguments with the paper's defaults;
    they are its whole configuration. Randomness comes from torch's default generator, which the
    trainer seeds anew for every step from the run's seed: a method needs no generator of its own.

    Args:
        build: builds a network with named heads.
        num_classes: classes counting background, at least 2.
    """

    uses_unlabeled: ClassVar[bool] = True
    """False: the trainer hands over labeled rows alone."""

    def __init__(self, build: NetBuilder, num_classes: int) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes counts background, so at least 2; got {num_classes}")
        self.num_classes = num_classes

    @abstractmethod
    def forward(self, image: Tensor) -> Tensor:
        """Return the probabilities as deployed: ``(B, C, *S)`` to ``(B, K, *S)``."""

    @abstractmethod
    def training_step(self, batch: Batch, clock: Clock) -> Step:
        """Return weighted losses and the differentiable probability map of one batch."""

    def after_update(self, clock: Clock) -> None:
        """Run after each optimizer step: an EMA teacher is moved here."""

    def param_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's parameter groups: by default all that require a gradient."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]
