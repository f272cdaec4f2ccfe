"""Lifts a promptable model of two dimensions to volumes, slice by slice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from semisam.backends._seeds import check_prompt
from semisam.backends._slices import (
    as_slices,
    as_volume,
    batches,
    dice,
    mask_box,
    says_foreground,
    split,
    window,
)
from semisam.core.errors import InputError
from semisam.core.types import Prompt

_NOTHING = -10.0  # the log odds on a slice that nothing asks about
_KEPT = 0.5  # the Dice with the slice before, and the model's own IoU estimate, below which it ends


class SliceModel(Protocol):
    """A promptable model of pictures, asked about many at once.

    Slices and prompts are in array-index order ``(a, b)``. Scans are stored (x, y, z), so the first
    axis of a slice runs to the right in the picture and the second one down.

    Attributes:
        accepts: the kinds of prompt it can use, of ``{"points", "box", "mask"}``.
    """

    accepts: frozenset[str]

    def encode(self, slices: Tensor) -> Sequence[Any]:
        """Return the features of each slice of ``(N, 3, a, b)``, which are in [0, 1]."""
        ...

    def segment(
        self, features: Sequence[Any], prompts: Sequence[Prompt], shape: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Return logits ``(N, a, b)`` float32, and of each its estimated IoU ``(N,)``.

        Every prompt shows foreground: a positive point, a box ``(2, 2)`` or a mask ``(a, b)``.
        """
        ...


@dataclass(frozen=True)
class Embedding:
    """One image and what is encoded of it.

    Attributes:
        shape: ``(*S)`` of the image.
        slices: ``(D, 3, a, b)`` in [0, 1].
        features: of the slices that were asked about so far. They depend on the image alone; kept
            here, they end with it.
    """

    shape: tuple[int, ...]
    slices: Tensor
    features: dict[int, Any] = field(default_factory=dict)


class SliceWise:
    """Asks a model of pictures about the slices that a prompt touches.

    Each slice is asked with what of the prompt lies on it: its clicks of both signs, the box where
    the box spans the slice, the mask where it is not empty. A slice without any positive sign is
    background (log odds -10) and is not even encoded, as is an image that nothing is asked about.

    Clicks alone do not say that the slices without one are background, so the answer is carried on
    from slice to slice (``propagate``): the neighbour is asked with the answer's bounding box, its
    mask if the model takes one, and the negative clicks on it, in both directions, until the answer
    is empty, leaves the one before it (Dice below 0.5), or is one that the model itself estimates
    at an IoU below 0.5. Between two answered slices the nearer is carried; halfway, the mean of
    both. A box or a mask does say where the object ends, and nothing is carried beyond it.
    Where every slice is clicked, as the paper's Table I does with these models, switch it off.

    Images of two axes are one slice. Images of one channel become grey, of three the three colours,
    of others the grey mean; the whole volume shares one intensity window.

    Args:
        model: the model of pictures.
        axis: which axis of a volume runs through the slices; -1: the last, which is z in a scan.
        propagate: carry the answer to clicks to the slices without any.
        batch: slices that the model sees at once.
        clip: percent of the voxels that the intensity window clips at either end.

    Raises:
        InputError: an option is out of range.
    """

    ndim: int = 3

    def __init__(
        self,
        model: SliceModel,
        *,
        axis: int = -1,
        propagate: bool = True,
        batch: int = 4,
        clip: float = 0.5,
    ) -> None:
        if not -3 <= axis <= 2:
            raise InputError(f"axis must be 0, 1, 2 or -1 for the last; got {axis}")
        if batch < 1:
            raise InputError(f"batch must be at least 1 slice; got {batch}: take about 4")
        if not 0 <= clip < 50:
            raise InputError(f"clip must be in [0, 50) percent; got {clip}: take about 0.5")
        self.accepts = model.accepts
        self.memory = getattr(model, "memory", "clicks")
        self.slice_axis = axis
        self._model = model
        self._propagate = propagate and not model.accepts.isdisjoint({"box", "mask"})
        self._batch = batch
        self._clip = clip

    def encode(self, image: Tensor) -> Embedding:
        """Prepare the slices of one image ``(C, *S)``; each is encoded when first asked about."""
        if image.ndim not in (3, 4):
            raise InputError(
                f"an image must be (C, *S) with two or three spatial axes; got "
                f"{tuple(image.shape)}: drop the batch axis or add the channel axis"
            )
        slices = as_slices(window(image, self._clip), self.slice_axis % 3)
        return Embedding(tuple(image.shape[1:]), slices)

    @torch.no_grad()
    def segment(self, embedding: Embedding, prompt: Prompt) -> Tensor:
        """Return logits ``(*S)`` float32, -10 on the slices that nothing shows foreground on.

        Raises:
            InputError: a point, the box or the mask does not fit the image, or the model takes no
                prompt of that kind.
        """
        check_prompt(prompt, embedding.shape)
        self._check_kinds(prompt)
        device = embedding.slices.device
        asked = split(_to(prompt, device), self.slice_axis % 3, len(embedding.shape))
        count, _, *shape = embedding.slices.shape
        logits = torch.full((count, *shape), _NOTHING, device=device)
        found = self._ask(embedding, {i: p for i, p in asked.items() if says_foreground(p)})
        for i, (answer, _) in found.items():
            logits[i] = answer
        if self._propagate and prompt.box is None and prompt.mask is None:
            self._carry(embedding, logits, list(found), asked)
        return as_volume(logits, embedding.shape, self.slice_axis % 3)

    def _ask(
        self, embedding: Embedding, prompts: Mapping[int, Prompt]
    ) -> dict[int, tuple[Tensor, float]]:
        """Return the logits ``(a, b)`` of each slice asked about, and their estimated IoU."""
        new = [i for i in prompts if i not in embedding.features]
        for some in batches(new, self._batch):
            features = self._model.encode(embedding.slices[some])
            embedding.features.update(zip(some, features, strict=True))
        found: dict[int, tuple[Tensor, float]] = {}
        a, b = embedding.slices.shape[2:]
        for some in batches(list(prompts), self._batch):
            logits, quality = self._model.segment(
                [embedding.features[i] for i in some], [prompts[i] for i in some], (a, b)
            )
            found.update(zip(some, zip(logits, quality.tolist(), strict=True), strict=True))
        return found

    def _carry(
        self, embedding: Embedding, logits: Tensor, front: list[int], asked: Mapping[int, Prompt]
    ) -> None:
        """Carry the answers in ``logits (D, a, b)`` on to the neighbours, in place.

        All slices at one distance from an answered one are asked together.
        """
        done = set(front)
        while front:
            carried: dict[int, list[Tensor]] = {}
            for i in front:
                for j in {i - 1, i + 1} - done:
                    if 0 <= j < len(logits):
                        carried.setdefault(j, []).append(logits[i].sigmoid())
            probs = {j: torch.stack(near).mean(0) for j, near in sorted(carried.items())}
            masks = {j: prob > 0.5 for j, prob in probs.items()}
            follow = {
                j: self._follow(probs[j], asked.get(j)) for j, mask in masks.items() if mask.any()
            }
            found = self._ask(embedding, follow)
            done |= masks.keys()
            front = []
            for j, (answer, quality) in found.items():
                if quality >= _KEPT and dice(answer > 0, masks[j]) >= _KEPT:
                    logits[j] = answer
                    front.append(j)

    def _follow(self, prob: Tensor, clicks: Prompt | None) -> Prompt:
        """Return what a slice is asked with where its neighbour's answer was ``prob (a, b)``."""
        return Prompt(
            points=clicks.points if clicks is not None else None,
            labels=clicks.labels if clicks is not None else None,
            box=mask_box(prob > 0.5) if "box" in self.accepts else None,
            mask=prob if "mask" in self.accepts else None,
        )

    def _check_kinds(self, prompt: Prompt) -> None:
        given = {"points": prompt.points, "box": prompt.box, "mask": prompt.mask}
        kinds = [kind for kind, value in given.items() if value is not None and value.numel()]
        extra = [kind for kind in kinds if kind not in self.accepts]
        if extra:
            raise InputError(
                f"a prompt of {type(self).__name__} must be of {', '.join(sorted(self.accepts))}; "
                f"got {', '.join(extra)}: choose another prompter or backend"
            )


def _to(prompt: Prompt, device: torch.device) -> Prompt:
    fields = (prompt.points, prompt.labels, prompt.box, prompt.mask)
    return Prompt(*(None if value is None else value.to(device) for value in fields))
