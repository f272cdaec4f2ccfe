"""The scans to label first, before any has a mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from semisam.core.errors import InputError
from semisam.data.datasets.dataset import Dataset
from semisam.inference.choice import cover, described
from semisam.inference.evaluation import predict_probabilities
from semisam.run.build import make_framework
from semisam.run.request import settings

SMALL = {2: (128, 128), 3: (64, 64, 48)}
"""Patches that any machine can train, by axes."""


def small_patch(dataset: Dataset) -> tuple[int, ...]:
    """Return a patch within the one that suits the scans, which any machine can train.

    Raises:
        InputError: the scans have another number of axes than two or three.
    """
    suggested = dataset.suggested.get("patch", SMALL[3])
    small = SMALL.get(len(suggested))
    if small is None:
        raise InputError(f"scans must have two or three axes, got {len(suggested)}. Split them.")
    return tuple(min(pair) for pair in zip(suggested, small, strict=True))


def first_to_label(
    dataset: Dataset,
    cases: Sequence[str],
    count: int,
    device: str = "cpu",
    on_case: Callable[[int, int], None] | None = None,
) -> tuple[str, ...]:
    """Return the cases to label first, the best first: together, many others resemble them.

    Cases are compared by the means of the deepest features of the network from which a training
    starts. No label is read.

    Args:
        dataset: of the cases.
        cases: to choose from.
        count: of them, if there are so many.
        device: on which the network computes.
        on_case: called with (cases seen, their number).
    """
    patch = small_patch(dataset)
    start = settings(method="supervised", labels=1, patch=patch, device=device)
    method = make_framework(start, dataset.channels, num_classes=2).to(device)
    vectors = []
    for done, case in enumerate(cases):
        if on_case is not None:
            on_case(done, len(cases))
        with described(method) as seen:
            predict_probabilities(
                method,
                dataset.image(case),
                patch,
                [max(side // 2, 1) for side in patch],
                device=torch.device(device),
                precision="fp32",
            )
        vector = seen.vector()
        assert vector is not None  # the default network names its features
        over_image, _ = np.split(vector.astype(np.float32), 2)  # the rest is of a foreground
        vectors.append(over_image)
    if on_case is not None:
        on_case(len(cases), len(cases))
    chosen = cover(np.stack(vectors), [], min(count, len(cases)))
    return tuple(cases[at] for at in chosen)
