"""Clicks that are simulated from the truth, and a dialogue of them with a promptable model.

Only `semisam.bench.zero_shot` makes prompts by them, for test cases. Training cannot reach them.

References:
    Wang et al. "SAM-Med3D: Towards general-purpose segmentation models for volumetric medical
    images." 2023. https://arxiv.org/abs/2310.15161 (the clicks, and the prompts from earlier
    clicks: ``validation.py`` of the authors' code, whose default is ``published`` here)
    Sofiiuk, Petrov, Konushin. "Reviving iterative training with mask guidance for interactive
    segmentation." ICIP 2022. https://arxiv.org/abs/2102.06583 (the first two of them)
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from semisam.core.backend import Backend, encode_at
from semisam.core.masks import deepness
from semisam.core.timing import now
from semisam.core.types import Place, Prompt

Bools = NDArray[np.bool_]
Clicks = Literal["published", "random"]
Memory = Literal["clicks", "mask", "both"]
Click = tuple[tuple[int, ...], int]

_DEEP = 2  # first clicks, which SAM-Med3D's evaluation draws from the inside of the error


def random_click(truth: Bools, predicted: Bools, rng: np.random.Generator) -> Click | None:
    """Return a click drawn uniformly from all wrong voxels, missed and surplus together.

    Its sign is the truth at that voxel. If the prediction is empty, it is a voxel of the target.

    Args:
        truth: ``(*S)``.
        predicted: ``(*S)``, the last prediction; empty before the first click.
        rng: the source of randomness.

    Returns:
        The voxel and its sign, 1 for foreground; ``None`` if no voxel is wrong.
    """
    return _draw(truth, truth != predicted, rng)


def deep_click(truth: Bools, predicted: Bools, rng: np.random.Generator) -> Click | None:
    """Return a click drawn from the inside of the deeper error, the missed or the surplus one.

    The error there is more than half as deep as at its deepest voxel. Arguments and result are
    those of `random_click`.
    """
    depths = [deepness(error) for error in (truth & ~predicted, predicted & ~truth)]
    missed, surplus = (float(depth.max()) for depth in depths)
    # A tie goes to the surplus, as published.
    depth = depths[0] if missed > surplus else depths[1]
    return _draw(truth, depth > max(missed, surplus) / 2, rng)


def interact(
    backend: Backend,
    image: torch.Tensor,
    truth: Bools,
    counts: Sequence[int],
    rng: np.random.Generator,
    clicks: Clicks = "published",
    known: Bools | None = None,
    place: Place | None = None,
    class_name: str = "",
) -> list[tuple[int, NDArray[np.float32], float, float]]:
    """Query a backend click by click for one target of one volume.

    The image is encoded once. The backend's attribute ``memory`` names the prompts that it was
    trained with. ``clicks``, the default: all clicks so far. ``mask``: the newest click, and the
    last prediction as the mask prompt. ``both``: all of these. A backend that works slice by slice
    (it has a ``slice_axis``) gets a click on every slice of a volume that holds the target, which
    is the paper's "N points".

    Args:
        backend: any promptable segmenter.
        image: ``(C, *S)``.
        truth: ``(*S)``, not empty.
        counts: numbers of clicks after which the prediction is returned, ascending.
        rng: of the clicks.
        clicks: ``published``: two by `deep_click`, then `random_click`, as SAM-Med3D is evaluated,
            and only `random_click` slice by slice; ``random``: only `random_click`.
        known: ``(*S)``, the annotated voxels. Outside, a prediction counts as background.
        place: of the image, for a backend that wants it.
        class_name: of the target.

    Returns:
        Per count: the count, the target's probability ``(*S)``, and the seconds of encoding and
        prediction.
    """
    began = now(image.device)
    embedding = encode_at(backend, image, place)
    encoding = now(image.device) - began
    axis = getattr(backend, "slice_axis", None) if truth.ndim == 3 else None
    memory: Memory = getattr(backend, "memory", "clicks")
    planes = _planes(truth, axis)
    deep = _DEEP if clicks == "published" and axis is None else 0
    predicted = np.zeros_like(truth)
    prob = predicted.astype(np.float32)
    mask: torch.Tensor | None = None
    prompt: Prompt | None = None
    points: list[tuple[int, ...]] = []
    labels: list[int] = []
    found, predicting = [], 0.0
    for count in range(1, max(counts) + 1):
        draw = deep_click if count <= deep else random_click
        made = [(draw(truth[plane], predicted[plane], rng), plane) for plane in planes]
        new = [(_whole(click[0], plane), click[1]) for click, plane in made if click is not None]
        if new:
            kept = 0 if memory == "mask" else len(points)
            points = points[:kept] + [point for point, _ in new]
            labels = labels[:kept] + [label for _, label in new]
            # A model that gets the mask of the last prediction needs no earlier prompt.
            last = prompt if memory == "clicks" else None
            prompt = Prompt(
                torch.tensor(points),
                torch.tensor(labels),
                mask=mask,
                class_name=class_name,
                last=last,
            )
            began = time.perf_counter()
            logits = backend.segment(embedding, prompt)
            predicted = logits.cpu().numpy() > 0
            if known is not None:
                predicted &= known
            predicting = time.perf_counter() - began
            mask = None if memory == "clicks" else logits.sigmoid()
            prob = logits.float().sigmoid().cpu().numpy()
        if count in counts:
            found.append((count, prob, encoding, predicting))
    return found


def _draw(truth: Bools, where: Bools, rng: np.random.Generator) -> Click | None:
    """Return a voxel of ``where`` and its sign."""
    found = np.flatnonzero(where)
    if not len(found):
        return None
    at = int(found[rng.integers(len(found))])
    return tuple(int(i) for i in np.unravel_index(at, truth.shape)), int(truth.flat[at])


def _planes(truth: Bools, axis: int | None) -> list[tuple[Any, ...]]:
    """Return the regions with their own clicks: the volume, or each slice that has the target."""
    if axis is None:
        return [(Ellipsis,)]
    others = tuple(a for a in range(truth.ndim) if a != axis % truth.ndim)
    hit = np.flatnonzero(truth.any(axis=others))
    return [(*(slice(None),) * (axis % truth.ndim), int(i)) for i in hit]


def _whole(point: tuple[int, ...], plane: tuple[Any, ...]) -> tuple[int, ...]:
    """Return the voxel of the volume at a click on a plane."""
    if plane == (Ellipsis,):
        return point
    axis = len(plane) - 1
    return (*point[:axis], plane[-1], *point[axis:])
