"""The contracts of a promptable segmenter and of what prompts it."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from semisam.core.types import Prompt, View

PROMPT_KINDS = frozenset({"points", "box", "mask"})


@runtime_checkable
class Backend(Protocol):
    """A promptable segmenter. It owns its module, if any, and is none.

    So its weights stay out of ``parameters()`` and ``state_dict()`` of the method it guides. A
    backend keeps no state between images: all of it is in the embedding. It may have a
    ``slice_axis``, if it works slice by slice, and a ``memory``, what it is told of earlier clicks:
    `semisam.bench.zero_shot.interact` reads both.

    Attributes:
        ndim: 3, or 2 for slice models.
        accepts: the kinds of prompt it can use, of ``{"points", "box", "mask"}``.
    """

    ndim: int
    accepts: frozenset[str]

    def encode(self, image: Tensor) -> Any:
        """Encode one image ``(C, *S)`` once; the result is opaque to the caller."""
        ...

    def segment(self, embedding: Any, prompt: Prompt) -> Tensor:
        """Return logits ``(*S)`` float32 on the image's own grid for one prompt."""
        ...


@runtime_checkable
class Prompter(Protocol):
    """Turns a proposal into a prompt.

    Attributes:
        emits: the kinds of prompt it can make, of ``{"points", "box", "mask"}``.
        rounds: how often it is asked per image and class; from the second round on the view
            holds the backend's previous answer. Points of all rounds are collected by the caller.
    """

    emits: frozenset[str]
    rounds: int

    def __call__(self, view: View, rng: torch.Generator) -> Prompt | None:
        """Return a prompt, or ``None`` where nothing is worth asking."""
        ...
