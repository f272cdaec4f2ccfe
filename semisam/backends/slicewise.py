"""A backend that applies a two-dimensional promptable model to volumes, slice by slice."""

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
    says_foreground,
    split,
    window,
)
from semisam.core.errors import InputError
from semisam.core.masks import dice
from semisam.core.regions import box_of_mask
from semisam.core.types import Prompt

_NOTHING = -10.0  # log odds on a slice without a prompt
_KEPT = 0.5  # least Dice with the previous slice and least estimated IoU to propagate further


class SliceModel(Protocol):
    """A promptable model of pictures that predicts many slices at once.

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
        """Return logits ``(N, a, b)`` float32 and the estimated IoU ``(N,)``.

        Every prompt shows foreground: a positive point, a box ``(2, 2)`` or a mask ``(a, b)``.
        """
        ...


@dataclass(frozen=True)
class Embedding:
    """One image and the features of the slices encoded so far.

    Attributes:
        shape: ``(*S)`` of the image.
        slices: ``(D, 3, a, b)`` in [0, 1].
        features: features by slice. They depend only on the image and are freed with it.
    """

    shape: tuple[int, ...]
    slices: Tensor
    features: dict[int, Any] = field(default_factory=dict)


class SliceWise:
    """A backend that applies a model of pictures to the slices that a prompt touches.

    The prompt of a slice is the part of the volume's prompt on it: clicks of both signs, the box if
    it spans the slice, the mask if it is not empty. A slice without a sign of foreground is
    background (log odds -10) and is not encoded.

    Clicks do not show that slices without a click are background. So the prediction is propagated
    from slice to slice, in both directions (``propagate``). The neighbour's prompt is the
    prediction's bounding box, its mask if the model accepts one, and the neighbour's own clicks.
    Propagation ends when the prediction is empty, has a Dice below 0.5 with the previous slice, or
    has an estimated IoU below 0.5. Between two predicted slices the nearer one is propagated;
    halfway, the mean of both. A box or a mask already shows where the object ends, so nothing is
    propagated beyond it. Switch it off if every slice is clicked, as in the paper's Table I.

    An image of two axes is one slice. One channel becomes grey, three become the three colours, and
    of other numbers the mean becomes grey. The whole volume shares one intensity window.

    Args:
        model: the model of pictures.
        axis: the axis of a volume through the slices; -1 is the last, which is z in a scan.
        propagate: propagate predictions to slices without clicks.
        batch: slices per forward pass of the model.
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
            raise InputError(f"axis must be from -3 to 2, got {axis}. Use -1 for the last axis.")
        if batch < 1:
            raise InputError(f"batch must be at least 1 slice, got {batch}. Use about 4.")
        if not 0 <= clip < 50:
            raise InputError(f"clip must be in [0, 50) percent, got {clip}. Use about 0.5.")
        self.accepts = model.accepts
        self.memory = getattr(model, "memory", "clicks")
        self.slice_axis = axis
        self._model = model
        self._propagate = propagate and not model.accepts.isdisjoint({"box", "mask"})
        self._batch = batch
        self._clip = clip

    def encode(self, image: Tensor) -> Embedding:
        """Prepare the slices of one image ``(C, *S)``; each is encoded at its first prompt."""
        if image.ndim not in (3, 4):
            raise InputError(
                f"an image must be (C, *S) with two or three spatial axes, got "
                f"{tuple(image.shape)}. Drop the batch axis or add the channel axis."
            )
        slices = as_slices(window(image, self._clip), self.slice_axis % 3)
        return Embedding(tuple(image.shape[1:]), slices)

    @torch.no_grad()
    def segment(self, embedding: Embedding, prompt: Prompt) -> Tensor:
        """Return logits ``(*S)`` float32, -10 on slices without a sign of foreground.

        Raises:
            InputError: a point, the box or the mask does not fit the image, or the model does not
                accept a prompt of that kind.
        """
        check_prompt(prompt, embedding.shape)
        self._check_kinds(prompt)
        device = embedding.slices.device
        prompts = split(on_device(prompt, device), self.slice_axis % 3, len(embedding.shape))
        count, _, *shape = embedding.slices.shape
        logits = torch.full((count, *shape), _NOTHING, device=device)
        found = self._query(embedding, {i: p for i, p in prompts.items() if says_foreground(p)})
        for i, (predicted, _) in found.items():
            logits[i] = predicted
        if self._propagate and prompt.box is None and prompt.mask is None:
            self._carry(embedding, logits, list(found), prompts)
        return as_volume(logits, embedding.shape, self.slice_axis % 3)

    def _query(
        self, embedding: Embedding, prompts: Mapping[int, Prompt]
    ) -> dict[int, tuple[Tensor, float]]:
        """Return the logits ``(a, b)`` of each prompted slice and their estimated IoU."""
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
        self, embedding: Embedding, logits: Tensor, front: list[int], prompts: Mapping[int, Prompt]
    ) -> None:
        """Propagate the predictions in ``logits (D, a, b)`` to the neighbours, in place.

        All slices at one distance from a predicted slice are predicted together.
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
                j: self._follow(probs[j], prompts.get(j)) for j, mask in masks.items() if mask.any()
            }
            found = self._query(embedding, follow)
            done |= masks.keys()
            front = []
            for j, (predicted, quality) in found.items():
                if quality >= _KEPT and dice(predicted > 0, masks[j], empty=0.0) >= _KEPT:
                    logits[j] = predicted
                    front.append(j)

    def _follow(self, prob: Tensor, clicks: Prompt | None) -> Prompt:
        """Return the prompt of a slice whose neighbour's prediction is ``prob (a, b)``."""
        return Prompt(
            points=clicks.points if clicks is not None else None,
            labels=clicks.labels if clicks is not None else None,
            box=box_of_mask(prob > 0.5) if "box" in self.accepts else None,
            mask=prob if "mask" in self.accepts else None,
        )

    def _check_kinds(self, prompt: Prompt) -> None:
        given = {"points": prompt.points, "box": prompt.box, "mask": prompt.mask}
        kinds = [kind for kind, value in given.items() if value is not None and value.numel()]
        extra = [kind for kind in (*kinds, *prompt.more) if kind not in self.accepts]
        if extra:
            raise InputError(
                f"a prompt of {type(self).__name__} must be of {', '.join(sorted(self.accepts))}, "
                f"got {', '.join(extra)}. Choose another prompter or backend."
            )


def on_device(prompt: Prompt, device: torch.device) -> Prompt:
    """Return a prompt with its tensors on a device."""
    fields = (prompt.points, prompt.labels, prompt.box, prompt.mask)
    return Prompt(*(None if value is None else value.to(device) for value in fields))
