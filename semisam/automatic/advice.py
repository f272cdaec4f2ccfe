"""The scans, and slices of them, whose labels would help a next training most."""

from __future__ import annotations

import base64
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from semisam.automatic.shelf import Shelf
from semisam.automatic.survey import Survey
from semisam.data.datasets.dataset import Image
from semisam.inference.choice import cover, described, doubt_by_slice, doubtful_slices
from semisam.inference.evaluation import predict_probabilities
from semisam.inference.predictor import Deployed, read_scan, segment
from semisam.run.build import make_framework
from semisam.run.request import settings

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
            for pictures, and if nothing was found in the scan.
    """

    case: str
    slices: tuple[int, ...] = ()

    def __str__(self) -> str:
        """Return the scan with its slices, for a person."""
        shown = ", ".join(map(str, self.slices))
        return f"{self.case} (slices {shown})" if shown else self.case


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
    chosen = [cases[at] for at in cover(together, labeled, count)]
    return tuple(Advice(case, _slices(data, case, model, device, series)) for case in chosen)


def scans_to_label_first(
    data: Survey, patch: Sequence[int], device: str, on_scan: Callable[[int, int], None]
) -> tuple[str, ...]:
    """Return the scans to label first, the best first, if no scan has a mask yet.

    They are compared by the features of the network from which a training starts.

    Args:
        data: the cases.
        patch: of the sliding window.
        device: on which the network computes.
        on_scan: called with (scans seen, their number).
    """
    vectors, total = [], len(data.unlabeled)
    network = starting_network(patch, data.opened.channels, device)
    for done, case in enumerate(data.unlabeled):
        on_scan(done, total)
        vectors.append(features_of(network, data.opened.image(case), patch, device))
    on_scan(total, total)
    order = cover(np.stack(vectors), [], min(MOST, total))
    return tuple(data.unlabeled[at] for at in order)


def starting_network(patch: Sequence[int], channels: int, device: str) -> nn.Module:
    """Return a method whose network has its first weights."""
    start = settings(method="supervised", labels=1, patch=tuple(patch), device=device)
    return make_framework(start, channels, num_classes=2).to(device)


def features_of(
    method: nn.Module, image: Image, patch: Sequence[int], device: str
) -> NDArray[np.float32]:
    """Return the means ``(F,)`` of the deepest features over an image."""
    with described(method) as seen:
        stride = [max(side // 2, 1) for side in patch]
        predict_probabilities(
            method, image, patch, stride, device=torch.device(device), precision="fp32"
        )
    vector = seen.vector()
    assert vector is not None  # the default network names its features
    over_image, _ = np.split(vector.astype(np.float32), 2)  # the rest is of a foreground
    return over_image


def _slices(data: Survey, case: str, model: Deployed, device: str, series: str) -> tuple[int, ...]:
    """Return the slices of a scan in which the model doubts its mask most."""
    probs = segment(model, read_scan(data.files(case), model.card, series), device).probabilities
    if probs.ndim < 4:
        return ()
    return tuple(doubtful_slices(doubt_by_slice(torch.from_numpy(probs)), SLICES))


def as_text(vector: Vector | None) -> str:
    """Return a vector as text for a file of JSON, empty without one."""
    return "" if vector is None else base64.b64encode(vector.tobytes()).decode()


def from_text(text: str) -> Vector:
    """Return the vector of a text that is not empty."""
    return np.frombuffer(base64.b64decode(text), np.float16)
