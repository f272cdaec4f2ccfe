"""Queries of a promptable model: a proposal becomes prompts, and these become a prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from semisam.core.backend import Backend, Prompter, encode_at
from semisam.core.errors import PluginError
from semisam.core.losses import entropy
from semisam.core.seeding import derive_seed
from semisam.core.types import Place, Prompt, View


class Queries:
    """A promptable model and the prompter that makes its prompts from a method's map.

    The prompter gets a class's probabilities as the proposal and sees no label. A prompter of
    several rounds sees the model's last prediction, too, and the model gets the prompts of all
    rounds. Each row draws from a generator of its own, so no state passes from one to the next.

    Args:
        backend: a promptable segmenter.
        prompter: makes prompts of a kind that the backend accepts.
        class_names: of all classes, for prompter and backend; empty: not known.
        seed: of the prompts.

    Raises:
        PluginError: the prompter makes a kind of prompt that the backend does not accept.
    """

    def __init__(
        self,
        backend: Backend,
        prompter: Prompter,
        class_names: Sequence[str] = (),
        *,
        seed: int = 0,
    ) -> None:
        check_pair(backend, prompter)
        self.backend = backend
        self.prompter = prompter
        self.class_names = tuple(class_names)
        self.seed = seed

    def of_maps(self, image: Tensor, probs: Tensor, classes: Sequence[int]) -> Tensor:
        """Return the model's map for a proposal, which stays where no prompt is made.

        Args:
            image: ``(B, C, *S)``.
            probs: ``(B, K, *S)``, the proposal.
            classes: to query for.
        """
        unsure = entropy(probs)
        found = [
            self.of_row(image[i], probs[i], unsure[i, 0], 0, i, classes)[0]
            for i in range(len(image))
        ]
        return join(probs, found, dict.fromkeys(classes, 1.0))

    @torch.no_grad()
    def of_row(
        self,
        image: Tensor,
        probs: Tensor,
        uncertainty: Tensor,
        step: int,
        row: int,
        classes: Sequence[int],
        place: Place | None = None,
    ) -> tuple[dict[int, Tensor], int]:
        """Query the model for the classes of one row.

        Args:
            image: ``(C, *S)``.
            probs: ``(K, *S)``, the proposal.
            uncertainty: ``(*S)``, of the proposal.
            step: of the training; it seeds the prompter with ``row``.
            row: number of the row in the batch.
            classes: to query for.
            place: of the row in its scan.

        Returns:
            The prediction ``(*S)`` in [0, 1] of each prompted class, and the calls made.
        """
        rng = torch.Generator(device=probs.device)
        rng.manual_seed(derive_seed(self.seed, "prompts", step, row))
        embedding: Any = None
        predictions: dict[int, Tensor] = {}
        calls = 0
        for k in classes:
            prompt: Prompt | None = None
            name = self.class_names[k] if self.class_names else ""
            for _ in range(self.prompter.rounds):
                new = self.prompter(View(probs[k], uncertainty, predictions.get(k), name), rng)
                if new is None:
                    break
                prompt = merge_prompts(prompt, replace(new, class_name=name))
                if embedding is None:
                    embedding = encode_at(self.backend, image, place)
                logits = self.backend.segment(embedding, prompt)
                check_logits(self.backend, logits, probs[k])
                calls += 1
                predictions[k] = logits.to(device=probs.device, dtype=torch.float32).sigmoid()
        return predictions, calls


def check_pair(backend: Backend, prompter: Prompter) -> None:
    """Refuse a prompter that makes prompts which the backend does not accept."""
    extra = prompter.emits - backend.accepts
    if extra:
        raise PluginError(
            f"the prompter must make prompts that the backend {type(backend).__name__} accepts "
            f"({_names(backend.accepts)}), got {type(prompter).__name__}, which makes "
            f"{_names(prompter.emits)}. Choose another prompter or backend."
        )


def check_logits(backend: Backend, logits: Tensor, like: Tensor) -> None:
    """Refuse logits of another shape than the image's, which would be broadcast, and NaN."""
    fits = isinstance(logits, Tensor) and logits.shape == like.shape
    if not fits or bool(torch.isnan(logits).any()):
        what = f"{type(logits).__name__} {tuple(getattr(logits, 'shape', ()))}"
        got = "NaN" if fits else what
        raise PluginError(
            f"the backend {type(backend).__name__} must return logits {tuple(like.shape)}, got "
            f"{got}. Repair the plugin (semisam.testing.BackendContract)."
        )


def merge_prompts(old: Prompt | None, new: Prompt) -> Prompt:
    """Return one prompt with the points of all rounds and the newest of each other kind."""
    if old is None:
        return new
    points, labels = new.points, new.labels
    if old.points is not None and old.labels is not None:
        points = old.points if points is None else torch.cat([old.points, points])
        labels = old.labels if labels is None else torch.cat([old.labels, labels])
    return Prompt(
        points,
        labels,
        old.box if new.box is None else new.box,
        old.mask if new.mask is None else new.mask,
        more={**old.more, **new.more},
        class_name=new.class_name,
        last=old,
    )


def join(
    probs: Tensor, predictions: Sequence[Mapping[int, Tensor]], weights: Mapping[int, float]
) -> Tensor:
    """Return the weighted mean of maps and of a model's predictions, as probabilities.

    Args:
        probs: ``(B, K, *S)``.
        predictions: per row, a map ``(*S)`` in [0, 1] by class.
        weights: of the predictions by class, in [0, 1].
    """
    joined = probs.clone()
    for row, found in zip(joined, predictions, strict=True):
        for k, prediction in found.items():
            row[k].lerp_(prediction.to(row), weights[k])
    joined[:, 0] = (1 - joined[:, 1:].sum(1)).clamp(min=0)
    return joined / joined.sum(1, keepdim=True)


def _names(kinds: frozenset[str]) -> str:
    return ", ".join(sorted(kinds)) or "nothing"
