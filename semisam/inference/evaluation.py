"""Scores of a trained method on the test cases, one row per case and class."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from semisam.data.datasets.dataset import Image
from semisam.data.datasets.labels import as_drawn
from semisam.data.images.files import write_nifti
from semisam.data.images.preprocessing import Placement
from semisam.data.loading.sampling import slice_axes
from semisam.data.loading.store import VolumeStore
from semisam.inference.components import EVERY, OneComponent, keep_surest
from semisam.inference.sliding_window import sliding_window
from semisam.metrics.scores import evaluate_labelmap, largest_components, missed, rightly_empty
from semisam.networks.precision import Precision, autocast, to_channels_last

METRICS = (
    "dice",
    "jaccard",
    "hd95_voxel",
    "asd_voxel",
    "assd_voxel",
    "hd95_mm",
    "asd_mm",
    "assd_mm",
)


_WINDOWS = 4  # per call of the network


@torch.inference_mode()
def predict_probabilities(
    framework: nn.Module,
    image: Image,
    patch: Sequence[int] | None,
    stride: Sequence[int] | None,
    *,
    device: torch.device,
    precision: Precision,
) -> torch.Tensor:
    """Return ``(K, *S)`` probabilities of one image: eval mode, mean over overlapping windows.

    A patch of two axes moves over each slice of a volume, across its last axis. Without a patch the
    window is the whole volume.
    """
    volume = torch.tensor(image.array, device=device)
    if patch is None or stride is None:
        patch = stride = volume.shape[1:]
    sliced = (1,) * slice_axes(volume.ndim - 1, patch)

    def predict(window: torch.Tensor) -> torch.Tensor:
        window = window.squeeze(-1) if sliced else window
        with autocast(device, precision):
            probs: torch.Tensor = framework(to_channels_last(window))
        return probs.float().unsqueeze(-1) if sliced else probs.float()

    framework.eval()
    probabilities: torch.Tensor = sliding_window(
        predict,
        volume,
        (*patch, *sliced),
        (*stride, *sliced),
        window_batch=_WINDOWS,
    )
    return probabilities


def class_map(
    probs: NDArray[np.float32], placement: Placement | None, one_component: OneComponent = EVERY
) -> NDArray[np.uint8]:
    """Return the most probable class of each voxel, on the grid of the scan's file.

    Args:
        probs: ``(K, *S')`` on the image's grid.
        placement: of the image in its file; ``None`` if both have the same grid.
        one_component: classes of which the mask keeps one component.
    """
    if one_component.surest:
        probs = keep_surest(probs, one_component.classes)
    found = probs.argmax(0) if placement is None else placement.classes(probs)
    return largest_components(found.astype(np.uint8, copy=False), one_component.classes)


def evaluate(
    framework: nn.Module,
    store: VolumeStore,
    cases: Sequence[str],
    patch: Sequence[int] | None,
    stride: Sequence[int] | None,
    *,
    device: torch.device,
    precision: Precision,
    one_component: OneComponent = EVERY,
    predictions: Path | None = None,
    on_case: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Predict every case and score it on the grid of its file, against the label as drawn.

    Args:
        framework: maps images to probabilities; on ``device``.
        store: gives images and labels of the cases.
        cases: their names.
        patch: sliding window, in voxels; ``None``: the whole scan.
        stride: of the window, in voxels.
        device: where the network runs.
        precision: of the network.
        one_component: classes of which a mask keeps one component.
        predictions: a folder for the scored masks, ``<case>.nii.gz``, with values of the labels.
        on_case: called with (cases done, number of cases).

    Returns:
        One row per case and foreground class: ``case``, ``class``, the metrics, flags for an empty
        prediction or reference, the seconds that the prediction took, and ``patient`` if the
        dataset names patients.
    """
    rows: list[dict[str, Any]] = []
    classes = store.dataset.num_classes
    patients = store.dataset.groups
    for done, case in enumerate(cases, start=1):
        image = store.image(case)
        began = time.perf_counter()
        probs = predict_probabilities(
            framework, image, patch, stride, device=device, precision=precision
        )
        labelmap = class_map(probs.cpu().numpy(), image.placement, one_component)
        seconds = time.perf_counter() - began
        geometry = image.geometry if image.placement is None else image.placement.geometry
        if predictions is not None:
            values = as_drawn(labelmap, store.dataset.label_values)
            mask = predictions / f"{case}.nii.gz"
            mask.parent.mkdir(exist_ok=True, parents=True)  # a case may be named with a folder
            write_nifti(mask, values, geometry)
        scores = evaluate_labelmap(labelmap, store.drawn_label(case), classes, geometry.spacing)
        names = store.dataset.class_names[1:]
        for name, score in zip(names, scores, strict=True):
            about = {"case": case, "class": name, **asdict(score), "seconds": seconds}
            rows.append(about | ({"patient": patients.get(case, case)} if patients else {}))
        if on_case is not None:
            on_case(done, len(cases))
    return rows


def summarise(rows: Iterable[Mapping[str, Any]]) -> dict[str, float | int]:
    """Return mean and SD over cases of every metric, the classes of a case averaged first.

    Keys are ``<metric>`` and ``<metric>_sd_cases`` (``n - 1``; 0 for a single case), and
    ``empty_predictions``, the number of (case, class) pairs of which nothing was predicted although
    something is there. ``rightly_empty`` counts those of which nothing was predicted and nothing is
    there, whose Dice is 1. With several classes there is also ``<metric>:<class>``, the mean over
    cases of one class. Without rows there are no figures.
    """
    rows = list(rows)
    if not rows:
        return {}
    by_case: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_case.setdefault(row["case"], []).append(row)
    summary: dict[str, float | int] = {}
    for metric in METRICS:
        values = [math.fsum(r[metric] for r in group) / len(group) for group in by_case.values()]
        summary[metric] = math.fsum(values) / len(values)
        summary[f"{metric}_sd_cases"] = statistics.stdev(values) if len(values) > 1 else 0.0
    names = list(dict.fromkeys(row["class"] for row in rows))
    for name in names if len(names) > 1 else ():
        of_class = [row for row in rows if row["class"] == name]
        for metric in METRICS:
            summary[f"{metric}:{name}"] = math.fsum(r[metric] for r in of_class) / len(of_class)
    summary["empty_predictions"] = sum(missed(row) for row in rows)
    summary["rightly_empty"] = sum(rightly_empty(row) for row in rows)
    return summary
