"""The component that a mask keeps of classes that are one component."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from semisam.core.masks import bounding_box

_LEAST = 1e-6
"""The least probability, so that a certain voxel does not outweigh all others."""


@dataclass(frozen=True)
class OneComponent:
    """Classes of which a mask keeps one component, and which one.

    Attributes:
        classes: of the foreground.
        surest: True: the component with the most evidence (see `keep_surest`); False: the largest.
    """

    classes: tuple[int, ...] = ()
    surest: bool = False


EVERY = OneComponent()
"""Masks keep every component."""


def of_every_class(components: str | None, classes: int) -> OneComponent:
    """Return what masks keep of each class.

    Args:
        components: ``largest`` or ``surest``: one component of each; else every component.
        classes: counting background.
    """
    if components not in ("largest", "surest"):
        return EVERY
    return OneComponent(tuple(range(1, classes)), surest=components == "surest")


def keep_surest(probs: NDArray[np.float32], classes: Iterable[int]) -> NDArray[np.float32]:
    """Return probabilities in which the less certain components of some classes are background.

    The evidence for a component is the sum over its voxels of ``log p - log q``, with the
    probability ``p`` of its class and ``q`` of the next one. Of a small organ the largest component
    may be another structure, which the network may be less sure of; on new phantoms that was rare
    (`benchmarks/README.md`).

    Args:
        probs: ``(K, *S)``; they are not changed.
        classes: of the foreground.

    Example:
        >>> organ = np.array([0.9, 0.9, 0.2, 0.6, 0.6, 0.6], np.float32)
        >>> keep_surest(np.stack([1 - organ, organ]), [1]).argmax(0).tolist()
        [1, 1, 0, 0, 0, 0]
    """
    found, kept = probs.argmax(0), probs
    for c in classes:
        whole = found == c
        box = bounding_box(whole) if whole.any() else (slice(0),) * whole.ndim
        labels, count = ndimage.label(whole[box], structure=np.ones((3,) * whole.ndim))
        if count < 2:
            continue
        mask = labels > 0
        inside = np.maximum(probs[:, *box][:, mask], _LEAST).astype(np.float64)
        evidence = np.log(inside[c]) - np.log(np.delete(inside, c, axis=0).max(0))
        surest = 1 + int(np.bincount(labels[mask], evidence)[1:].argmax())
        others = mask & (labels != surest)
        kept = kept.copy() if kept is probs else kept
        kept[0, *box][others] += kept[c, *box][others]
        kept[c, *box][others] = 0.0
    return kept
