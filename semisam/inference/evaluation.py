"""Scores of a trained method on the test cases, one row per case and class."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from semisam.data.datasets.dataset import Image
from semisam.data.images.files import write_nifti
from semisam.data.loading.store import VolumeStore
from semisam.inference.sliding_window import sliding_window
from semisam.metrics.scores import evaluate_labelmap, largest_components
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


@torch.inference_mode()
def predict_probabilities(
    framework: nn.Module,
    image: Image,
    patch: Sequence[int],
    stride: Sequence[int],
    *,
    device: torch.device,
    precision: Precision,
    window_batch: int = 4,
    on_window: Callable[[int, int], None] | None = None,
) -> torch.Tensor:
    """Return ``(K, *S)`` probabilities of one volume: eval mode, mean over overlapping windows."""

    def predict(window: torch.Tensor) -> torch.Tensor:
        with autocast(device, precision):
            probs: torch.Tensor = framework(to_channels_last(window))
        return probs.float()

    framework.eval()
    volume = torch.tensor(image.array, device=device)
    probabilities: torch.Tensor = sliding_window(
        predict, volume, patch, stride, window_batch=window_batch, on_window=on_window
    )
    return probabilities


def evaluate(
    framework: nn.Module,
    store: VolumeStore,
    cases: Sequence[str],
    patch: Sequence[int],
    stride: Sequence[int],
    *,
    device: torch.device,
    precision: Precision,
    largest_component: bool = False,
    predictions: Path | None = None,
    on_case: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Predict and score every case.

    Args:
        framework: maps images to probabilities; on ``device``.
        store: gives images and labels of the cases.
        cases: their names.
        patch: sliding window, in voxels.
        stride: of the window, in voxels.
        device: where the network runs.
        precision: of the network.
        largest_component: keep each class's largest component only.
        predictions: a folder for ``<case>.nii.gz``, in the scan's own geometry where the dataset
            keeps it, else in the image's.
        on_case: called with (cases done, number of cases).

    Returns:
        One row per case and foreground class: ``case``, ``class``, the metrics, flags for an empty
        prediction or reference, and the seconds that the prediction took.
    """
    rows: list[dict[str, Any]] = []
    classes = store.dataset.num_classes
    for done, case in enumerate(cases, start=1):
        image = store.image(case)
        began = time.perf_counter()
        probs = predict_probabilities(
            framework, image, patch, stride, device=device, precision=precision
        )
        labelmap: NDArray[Any] = probs.argmax(0).to(torch.uint8).cpu().numpy()
        seconds = time.perf_counter() - began
        if largest_component:
            labelmap = largest_components(labelmap, classes)
        if predictions is not None:
            placed = (labelmap, image.geometry)
            if image.placement is not None:
                placed = image.placement.restore(labelmap)
            write_nifti(predictions / f"{case}.nii.gz", *placed)
        scores = evaluate_labelmap(labelmap, store.label(case), classes, image.geometry.spacing)
        names = store.dataset.class_names[1:]
        for name, score in zip(names, scores, strict=True):
            rows.append({"case": case, "class": name, **asdict(score), "seconds": seconds})
        if on_case is not None:
            on_case(done, len(cases))
    return rows


def summarise(rows: Iterable[Mapping[str, Any]]) -> dict[str, float | int]:
    """Return mean and SD over cases of every metric, the classes of a case averaged first.

    Keys are ``<metric>`` and ``<metric>_sd_cases`` (``n - 1``; 0 for a single case), and
    ``empty_predictions``, the number of (case, class) pairs with nothing predicted. With several
    classes there is also ``<metric>:<class>``, the mean over cases of one class.
    """
    rows = list(rows)
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
    summary["empty_predictions"] = sum(bool(row["empty_prediction"]) for row in rows)
    return summary
