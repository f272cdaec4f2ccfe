"""The interactive baseline of the paper's Table I: a promptable model with clicks from the truth.

The clicks come from the truth of the test cases, which its tables state; no training uses them. The
rules of the clicks are in `semisam.bench.clicks`.

Reference: Zhang et al. SemiSAM, Table I. https://arxiv.org/abs/2312.06316
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from semisam.bench.clicks import Clicks, interact
from semisam.bench.results import write
from semisam.core.backend import Backend
from semisam.core.errors import InputError
from semisam.core.files import writable_folder
from semisam.core.layout import CASES, TABLE
from semisam.core.seeding import derive_seed
from semisam.core.types import IGNORE, Place
from semisam.data.loading.store import VolumeStore
from semisam.inference.evaluation import class_map
from semisam.metrics.scores import evaluate_mask
from semisam.plugins import registry
from semisam.plugins.construction import construct
from semisam.run.build import open_plugin, recognise_dataset

NOTE = "clicks simulated from the truth of the test cases"
"""The files of scores and of their means."""


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


@dataclass(frozen=True)
class ZeroShot:
    """Promptable models and the test cases that score them.

    Attributes:
        backends: by their name in the table.
        store: with the test cases only.
    """

    backends: Mapping[str, Backend]
    store: VolumeStore

    @property
    def by_slice(self) -> list[str]:
        """Names of the backends that get their clicks on every slice of a volume."""
        test = self.store.test
        if not test or self.store.image(test[0]).array.ndim < 4:
            return []
        return [n for n, b in self.backends.items() if getattr(b, "slice_axis", None) is not None]


def open_zero_shot(
    names: Sequence[str],
    data: Path | None = None,
    dataset: str | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    cases: int | None = None,
) -> ZeroShot:
    """Open promptable models and the test cases of a folder.

    Args:
        names: of the backends; a plus joins several.
        data: folder of the scans; ``None``: generated phantoms.
        dataset: its plugin; ``None``: the one that reads the folder.
        options: of the backends and of the dataset, by the name of the plugin.
        cases: number of test cases, the first ones; ``None``: all.

    Raises:
        InputError: an option names another plugin, a backend accepts no points, or the data cannot
            be read.
        PluginError: there is no such plugin or option.
    """
    given = options or {}
    dataset = dataset or recognise_dataset(data)
    known = registry.with_members("backend", names)
    idle = sorted(set(given) - {*known, dataset})
    if idle:
        raise InputError(
            f"--set must name a backend or the dataset, got {', '.join(idle)}. Name one of "
            f"{', '.join([*known, dataset])}."
        )
    backends: dict[str, Any] = {}
    for name in names:
        own = registry.check_options("backend", name, registry.options_of("backend", name, given))
        # Every slice of the target gets its own clicks here, as in the paper.
        if any(option.name == "propagate" for option in registry.describe_options("backend", name)):
            own.setdefault("propagate", False)
        backends[name] = construct("backend", name, (), own)
    blind = [name for name, backend in backends.items() if "points" not in backend.accepts]
    if blind:
        raise InputError(
            f"a backend must accept points for zero-shot, got {', '.join(blind)}. Leave it out."
        )
    opened = open_plugin(dataset, data, dict(given.get(dataset, {})))
    test = opened.split().test[:cases]
    return ZeroShot(backends, VolumeStore(opened, labeled=[], unlabeled=[], test=test))


def free_folder(out: Path) -> Path:
    """Return a folder for the tables, made if it is missing.

    Raises:
        InputError: it has tables of an earlier call, or cannot be written.
    """
    folder = writable_folder(out)
    if any((folder / name).exists() for name in (CASES, TABLE)):
        raise InputError(
            f"--out must be a folder without the table of an earlier call, got {out}. Name another."
        )
    return folder


def write_tables(
    rows: pd.DataFrame, opened: ZeroShot, clicks: Clicks, folder: Path
) -> pd.DataFrame:
    """Write the scores of `run` and the table of their means, and return the table.

    Args:
        rows: of `run`.
        opened: the models and the cases.
        clicks: rule of the clicks.
        folder: of the files.
    """
    table = summary(rows, opened.by_slice, clicks)
    if opened.store.dataset.name == "la":
        # Marked as the paper's rows, which have another resolution and another crop.
        table = pd.concat([table, paper_rows()], ignore_index=True)
    write(rows, folder / CASES)
    write(table, folder / TABLE)
    return table


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
