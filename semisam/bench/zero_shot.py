"""The interactive baseline of the paper's Table I: a promptable model with clicks from the truth.

Only this module makes prompts from the truth, for test cases only, and its tables state that.
Training cannot reach it.

References:
    Wang et al. "SAM-Med3D: Towards general-purpose segmentation models for volumetric medical
    images." 2023. https://arxiv.org/abs/2310.15161 (the clicks, and the prompts from earlier
    clicks: ``validation.py`` of the authors' code, whose default is ``published`` here)
    Sofiiuk, Petrov, Konushin. "Reviving iterative training with mask guidance for interactive
    segmentation." ICIP 2022. https://arxiv.org/abs/2102.06583 (the first two of them)
    Zhang et al. SemiSAM, Table I. https://arxiv.org/abs/2312.06316
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from semisam.core.backend import Backend, encode_at
from semisam.core.errors import InputError
from semisam.core.masks import deepness
from semisam.core.seeding import derive_seed
from semisam.core.timing import now
from semisam.core.types import IGNORE, Place, Prompt
from semisam.data.loading.store import VolumeStore
from semisam.inference.evaluation import class_map
from semisam.metrics.scores import evaluate_mask

Bools = NDArray[np.bool_]
Clicks = Literal["published", "random"]
Memory = Literal["clicks", "mask", "both"]
Click = tuple[tuple[int, ...], int]

NOTE = "clicks simulated from the truth of the test cases"
_DEEP = 2  # first clicks, which SAM-Med3D's evaluation draws from the inside of the error


@dataclass(frozen=True)
class PaperRow:
    """A row of the paper's Table I, at full resolution; N is the number of slices (about 60)."""

    model: str
    points: str
    dice: float
    jaccard: float


PAPER = (
    PaperRow("SAM", "N", 41.98, 27.00),
    PaperRow("SAM", "2N", 46.11, 30.41),
    PaperRow("SAM", "5N", 58.90, 42.32),
    PaperRow("SAM", "10N", 71.38, 56.03),
    PaperRow("SAM-Med3D", "1", 56.51, 40.74),
    PaperRow("SAM-Med3D", "2", 63.96, 48.47),
    PaperRow("SAM-Med3D", "5", 70.28, 55.13),
    PaperRow("SAM-Med3D", "10", 73.78, 59.27),
)


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


def run(
    backends: Mapping[str, Backend],
    store: VolumeStore,
    counts: Sequence[int],
    seeds: Sequence[int],
    on_volume: Callable[[int, int], None] | None = None,
    clicks: Clicks = "published",
    device: torch.device | str = "cpu",
) -> pd.DataFrame:
    """Query every backend for every test case.

    The clicks' randomness depends only on seed, case and class, so every backend starts from the
    same first click.

    Args:
        backends: by their name in the table.
        store: holds the test cases.
        counts: numbers of clicks.
        seeds: of the clicks.
        on_volume: called with (volumes done, number of volumes).
        clicks: rule of the clicks; see `interact`.
        device: where the backends compute.

    Returns:
        One row per backend, seed, case, class and count, scored on the grid of the case's file; a
        class that a case lacks is left out.
    """
    if not store.test:
        raise InputError(
            "the test cases must be at least one, with a label, got none. Label another scan."
        )
    dataset = store.dataset
    rows: list[dict[str, Any]] = []
    total, done = len(backends) * len(seeds) * len(store.test), 0
    for name, backend in backends.items():
        for seed in seeds:
            for case in store.test:
                image, label = store.image(case), store.label(case)
                known, drawn = label != IGNORE, store.drawn_label(case)
                geometry = image.placement.geometry if image.placement else image.geometry
                for k in range(1, dataset.num_classes):
                    truth = label == k
                    if not truth.any():
                        continue
                    rng = np.random.Generator(np.random.Philox(derive_seed(seed, case, k)))
                    volume = torch.tensor(image.array, device=device)
                    middle = tuple((size - 1) / 2 for size in truth.shape)
                    about = (case, middle, image.geometry.spacing, dataset.channel_names)
                    asked = interact(
                        *(backend, volume, truth, counts, rng, clicks, known, Place(*about)),
                        class_name=dataset.class_names[k],
                    )
                    for count, prob, encoding, predicting in asked:
                        predicted = class_map(np.stack([1 - prob, prob]), image.placement) == 1
                        predicted &= drawn != IGNORE
                        scores = evaluate_mask(predicted, drawn == k, geometry.spacing)
                        what = {"backend": name, "seed": seed, "case": case}
                        shown = {"class": dataset.class_names[k], "points": count}
                        cost = {"encode_seconds": encoding, "predict_seconds": predicting}
                        rows.append({**what, **shown, **asdict(scores), **cost})
                done += 1
                if on_volume is not None:
                    on_volume(done, total)
    return pd.DataFrame(rows)


def summary(
    cases: pd.DataFrame, slices: Sequence[str] = (), clicks: Clicks = "published"
) -> pd.DataFrame:
    """Return mean and SD over cases per backend and number of clicks, in percent.

    A case's value is its mean over classes and seeds. Seconds are medians.

    Args:
        cases: the result of `run`.
        slices: backends that got their clicks on every slice; their counts are shown as "5N".
        clicks: rule of the clicks.
    """
    rows: list[dict[str, Any]] = []
    for (backend, count), group in cases.groupby(["backend", "points"], sort=False):
        row: dict[str, Any] = {
            "model": backend,
            "source": "measured",
            "points": f"{count}N" if backend in slices else str(count),
        }
        for metric in ("dice", "jaccard"):
            by_case = 100 * group.groupby("case")[metric].mean()
            row[metric], row[f"{metric}_sd"] = by_case.mean(), by_case.std(ddof=1)
        row["cases"] = group["case"].nunique()
        row["seeds"] = group["seed"].nunique()
        row["encode_seconds"] = group["encode_seconds"].median()
        row["predict_seconds"] = group["predict_seconds"].median()
        row["clicks"] = clicks
        row["prompts"] = NOTE
        rows.append(row)
    return pd.DataFrame(rows)


def paper_rows() -> pd.DataFrame:
    """Return the paper's rows in the shape of `summary`."""
    source = "SemiSAM paper, Table I (full resolution, 128^3 crop)"
    return pd.DataFrame([{**asdict(row), "source": source} for row in PAPER])


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
