"""The contracts of a backend and of a prompter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from semisam.core.types import Place, Prompt, View

PROMPT_KINDS = frozenset({"points", "box", "mask"})
"""The kinds of prompt with a field of `Prompt`. A plugin may name others, see `Prompt.more`."""


@runtime_checkable
class Backend(Protocol):
    """A promptable segmenter.

    It may wrap an ``nn.Module`` but is not one, so its weights stay out of the method's
    ``parameters()`` and ``state_dict()``. A backend keeps no state between images: the embedding
    holds all of it. Four attributes are optional:

    - ``axes``: the numbers of spatial axes of its images; without it, two and three.
    - ``wants_place``: if True, `encode` gets the image's `Place`, with case, spacing and channels,
      as a second argument, or ``None`` where it is not known.
    - ``slice_axis``: of a slice model, read by `semisam.bench.clicks.interact`.
    - ``memory``: the record of earlier clicks that it expects, read there, too.

    Attributes:
        ndim: 3, or 2 for slice models.
        accepts: the kinds of prompt it can use: some of ``{"points", "box", "mask"}``, or others,
            which it reads from `Prompt.more`.
    """

    ndim: int
    accepts: frozenset[str]

    def encode(self, image: Tensor) -> Any:
        """Encode one image ``(C, *S)`` once; the result is opaque to the caller."""
        ...

    def segment(self, embedding: Any, prompt: Prompt) -> Tensor:
        """Return logits ``(*S)`` float32 on the image's own grid for one prompt."""
        ...


def encode_at(backend: Backend, image: Tensor, place: Place | None) -> Any:
    """Return a backend's embedding of an image ``(C, *S)``; the place is for one that wants it."""
    if getattr(backend, "wants_place", False):
        return backend.encode(image, place)  # type: ignore[call-arg]
    return backend.encode(image)


@runtime_checkable
class Adaptable(Backend, Protocol):
    """A backend that can be adapted to labeled scans, an optional part of the contract.

    ``--sam-adapt STEPS`` asks for it before a training, with the labeled cases of the run only.
    """

    def adapt(
        self,
        cases: Sequence[tuple[Tensor, Tensor]],
        file: Path,
        *,
        steps: int,
        seed: int,
        device: torch.device,
        on_step: Callable[[int], None],
    ) -> None:
        """Write weights that are adapted to labeled cases, atomically.

        Args:
            cases: images ``(C, *S)`` and labels ``(*S)`` of classes, without ignored voxels.
            file: to write.
            steps: of the optimizer.
            seed: of all draws; equal arguments give equal weights.
            device: to train on.
            on_step: called with the number of finished steps.
        """
        ...

    def adapted(self, file: Path) -> Self:
        """Return this model, with its options, and the weights of a file that `adapt` wrote."""
        ...


def can_adapt(loaded: object) -> bool:
    """Return whether a backend's class, or an instance, has what `Adaptable` adds."""
    return hasattr(loaded, "adapt") and hasattr(loaded, "adapted")


@runtime_checkable
class Prompter(Protocol):
    """A prompt strategy: it turns a proposal into a prompt.

    Attributes:
        emits: the kinds of prompt it can make: some of ``{"points", "box", "mask"}``, or others,
            which it puts into `Prompt.more`. The backend of a run must accept all of them.
        rounds: prompts per image and class. From the second round on, the view holds the
            backend's previous prediction. The caller collects the points of all rounds.
    """

    emits: frozenset[str]
    rounds: int

    def __call__(self, view: View, rng: torch.Generator) -> Prompt | None:
        """Return a prompt, or ``None`` to skip this image and class."""
        ...
