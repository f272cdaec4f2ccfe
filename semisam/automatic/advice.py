"""The scans whose labels would help a next training most."""

from __future__ import annotations

import base64
from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from semisam.automatic.shelf import Shelf
from semisam.automatic.survey import Survey
from semisam.inference.choice import cover, described
from semisam.inference.predictor import Deployed, read_scan, segment

Vector = NDArray[np.float16]
MOST = 5
"""Scans that are named."""


def scans_to_label(
    data: Survey, shelf: Shelf, model: Deployed, device: str, *, without: Collection[str]
) -> tuple[str, ...]:
    """Return the scans to label next, the best first, or none if scans cannot be compared.

    Args:
        data: the cases.
        shelf: the masks, with the features of their scans.
        model: trained on the labeled scans.
        device: on which the model computes.
        without: scans whose masks a person has changed, which count as labeled.
    """
    series = str(data.options.get("series", ""))
    vectors: dict[str, Vector] = {}
    for case in data.labeled:
        with described(model.network) as seen:
            segment(model, read_scan(data.files(case), model.card, series), device)
        vector = seen.vector()
        if vector is not None:
            vectors[case] = vector
    for case in data.unlabeled:
        entry = shelf.entries.get(case)
        if entry is not None and entry.features:
            vectors[case] = from_text(entry.features)
    cases = list(vectors)
    labeled = [at for at, case in enumerate(cases) if case in data.labeled or case in without]
    count = min(MOST, len(cases) - len(labeled))
    if not labeled or count < 1:
        return ()
    together = np.stack(list(vectors.values())).astype(np.float32)
    return tuple(cases[at] for at in cover(together, labeled, count))


def as_text(vector: Vector | None) -> str:
    """Return a vector as text for a file of JSON, empty without one."""
    return "" if vector is None else base64.b64encode(vector.tobytes()).decode()


def from_text(text: str) -> Vector:
    """Return the vector of a text that is not empty."""
    return np.frombuffer(base64.b64decode(text), np.float16)
