"""The promptable model of a run, adapted to its labeled scans before the training."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from semisam.core.backend import Adaptable
from semisam.core.errors import InputError, SemisamWarning
from semisam.core.files import digest_of_path, read_json, write_json
from semisam.core.layout import ADAPTED, ADAPTED_NOTE
from semisam.core.seeding import derive_seed
from semisam.core.types import IGNORE
from semisam.data.loading.store import VolumeStore, data_hash
from semisam.plugins import registry
from semisam.run.build import cases_of, make_pair, open_dataset, split_of
from semisam.run.model import window_of
from semisam.run.record import versions
from semisam.run.settings import RunSettings

OnStep = Callable[[int], None]
"""A function called with the number of finished steps."""


def adapt_model(
    settings: RunSettings,
    backend: Adaptable,
    store: VolumeStore,
    folder: Path,
    on_step: OnStep,
    left_out: Collection[int] = (),
) -> float:
    """Write the adapted weights into a run's folder, once, and return the seconds it took.

    Only labeled cases are read. A file of a killed run is used again if its digest is the noted
    one.

    Args:
        settings: of the run.
        backend: the model as it is.
        store: the scans.
        folder: of the run.
        on_step: called after each step.
        left_out: classes that the model is not queried for, which it does not learn either.

    Raises:
        InputError: every labeled case has ignored voxels.
    """
    file, note = folder / ADAPTED, folder / ADAPTED_NOTE
    known = read_json(note) or {}
    if file.is_file() and known.get("sha256") == digest_of_path(file):
        return float(known["seconds"])
    began = time.perf_counter()
    _adapt(settings, backend, store, file, on_step, left_out)
    seconds = time.perf_counter() - began
    write_json(note, {"seconds": seconds, "sha256": digest_of_path(file)})
    return seconds


def adapt_to_file(settings: RunSettings, file: Path, on_step: OnStep) -> dict[str, Any]:
    """Write the weights that a run with these settings would adapt, and return their card.

    The card is written next to the file, as ``.json``.

    Raises:
        InputError: the data cannot be used, every labeled case has ignored voxels, no class is one
            component, or the backend is several joined ones, whose weights have no option that
            reads them.
    """
    if len(names := registry.members("backend", settings.sam)) > 1:
        raise InputError(
            f"--sam must be one model whose weights are written, got {settings.sam}. Adapt "
            f"{' and '.join(names)} each."
        )
    dataset = open_dataset(settings)
    split = split_of(settings, dataset)
    labeled = cases_of(settings, dataset, split).labeled
    store = VolumeStore(dataset, labeled=labeled, unlabeled=[], test=[])
    hashes = store.check()
    backend: Any = make_pair(settings)[0]
    several = settings.semisam_options["several"]
    left_out = () if several else classes_of_several(store, len(settings.patch))
    if len(left_out) == dataset.num_classes - 1:
        raise InputError(
            "an adaptation must have a class that is one component in each labeled mask, got none. "
            "Ask for the others with --set semisam.several=true."
        )
    _adapt(settings, backend, store, file, on_step, left_out)
    card = {
        "sam": settings.sam,
        "sam_options": settings.sam_options,
        "sources": settings.sam_sources,
        "steps": settings.sam_adapt,
        "seed": settings.seed,
        "labeled_cases": list(labeled),
        "left_out": [dataset.class_names[k] for k in left_out],
        "data": data_hash(hashes),
        "sha256": digest_of_path(file),
        "versions": versions(),
    }
    write_json(file.with_suffix(".json"), card)
    return card


def classes_of_several(store: VolumeStore, axes: int | None) -> tuple[int, ...]:
    """Return the classes that the branch leaves out by default, with a warning that names them.

    They are several components in a complete label, or in its slices, and a prompt marks one.

    Args:
        store: the scans.
        axes: of components; ``None``: of the labels.
    """
    _, several = store.components(axes)
    if several:
        names = ", ".join(store.dataset.class_names[c] for c in several)
        warnings.warn(
            f"SemiSAM leaves out {names}: several components in a labeled mask or its slices, of "
            "which a prompt marks one. --set semisam.several=true asks for them.",
            SemisamWarning,
            stacklevel=3,
        )
    return several


def _adapt(
    settings: RunSettings,
    backend: Adaptable,
    store: VolumeStore,
    file: Path,
    on_step: OnStep,
    left_out: Collection[int] = (),
) -> None:
    without = torch.tensor(list(left_out))
    backend.adapt(
        [
            (image, label.masked_fill(torch.isin(label, without), 0))
            for image, label in cases_to_adapt(settings, backend, store)
        ],
        file,
        steps=settings.sam_adapt,
        seed=derive_seed(settings.seed, "adapt"),
        device=torch.device(settings.device),
        on_step=on_step,
    )


def cases_to_adapt(
    settings: RunSettings, backend: Adaptable, store: VolumeStore
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the labeled cases without ignored voxels, as slices if a model takes these.

    Raises:
        InputError: every labeled case has ignored voxels.
    """
    patch, _ = window_of(settings)
    whole = False
    for case in labeled_cases(store):
        if not bool((case[1] == IGNORE).any()):
            whole = True
            # Slice models cut volumes themselves.
            yield from _parts(case, len(patch)) if patch and backend.ndim == 3 else [case]
    if not whole:
        raise InputError(
            "an adaptation must have a labeled case without ignored voxels, got none. Label a "
            "whole scan, or train with --sam-adapt 0."
        )


def _parts(case: tuple[Tensor, Tensor], axes: int) -> list[tuple[Tensor, Tensor]]:
    """Return a case, or the slices of a volume for patches of two axes."""
    image, label = case
    if label.ndim == axes:
        return [case]
    return list(zip(image.unbind(-1), label.unbind(-1), strict=True))


def labeled_cases(store: VolumeStore) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield images ``(C, *S)`` and labels ``(*S)`` of the labeled cases."""
    for case in store.labeled:
        image = torch.from_numpy(store.image(case).array.copy())
        yield image, torch.from_numpy(store.label(case).astype("int64"))
