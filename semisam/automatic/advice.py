"""The scans, and slices of them, whose labels would help a next training most."""

from __future__ import annotations

import base64
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from semisam.automatic.coverage import cover, described, doubt_by_slice, doubtful_slices
from semisam.automatic.shelf import Shelf
from semisam.automatic.survey import Survey
from semisam.inference.predictor import Deployed, read_scan, segment

Vector = NDArray[np.float16]
MOST = 5
"""Scans that are named."""
SLICES = 3
"""Slices of each that are named."""


@dataclass(frozen=True)
class Advice:
    """A scan to label next.

    Attributes:
        case: its name.
        slices: positions along the last axis of its file, from 0, the most doubtful first; empty
            for pictures and single slices, and if nothing was found in the scan.
    """

    case: str
    slices: tuple[int, ...] = ()

    def __str__(self) -> str:
        """Return the scan with its slices, for a person."""
        shown = ", ".join(map(str, self.slices))
        return f"{self.case} (slices k = {shown})" if shown else self.case


def scans_to_label(
    data: Survey, shelf: Shelf, model: Deployed, device: str, *, without: Collection[str]
) -> tuple[Advice, ...]:
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
    for case in (*data.labeled, *without):  # the others were described as their masks were made
        with described(model.network) as seen:
            segment(model, read_scan(data.files(case), model.card, series), device)
        vector = seen.vector()
        if vector is not None:
            vectors[case] = vector
    for case in data.unlabeled:
        entry = shelf.entries.get(case)
        if entry is not None and entry.features and case not in without:
            vectors[case] = from_text(entry.features)
    cases = list(vectors)
    labeled = [at for at, case in enumerate(cases) if case in data.labeled or case in without]
    count = min(MOST, len(cases) - len(labeled))
    if not labeled or count < 1:
        return ()
    together = np.stack(list(vectors.values())).astype(np.float32)
    chosen = [cases[at] for at in cover(together, labeled, count)]
    return tuple(Advice(case, _slices(data, case, model, device, series)) for case in chosen)


def _slices(data: Survey, case: str, model: Deployed, device: str, series: str) -> tuple[int, ...]:
    """Return the slices of a scan in which the model doubts its mask most."""
    probs = segment(model, read_scan(data.files(case), model.card, series), device).probabilities
    if probs.ndim < 4 or 1 in probs.shape[1:]:
        return ()
    return tuple(doubtful_slices(doubt_by_slice(torch.from_numpy(probs)), SLICES))


def as_text(vector: Vector | None) -> str:
    """Return a vector as text for a file of JSON, empty without one."""
    return "" if vector is None else base64.b64encode(vector.tobytes()).decode()


def from_text(text: str) -> Vector:
    """Return the vector of a text that is not empty."""
    return np.frombuffer(base64.b64decode(text), np.float16)
