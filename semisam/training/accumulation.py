"""Gradient accumulation: one optimizer step from several micro-batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from semisam.core.errors import InputError, SemisamError
from semisam.core.types import Batch, OracleBatch, Total

_NO_MEMORY = (
    *("can't allocate memory", "not enough memory", "out of memory"),
    *("status_alloc_failed", "bad_alloc"),
)


class OutOfMemory(SemisamError):
    """The error of a training step that needs more memory than is free."""


def count_parts(batch: int, micro_batch: int | None) -> int:
    """Return the number of micro-batches of a batch.

    Args:
        batch: rows of a batch.
        micro_batch: rows of a micro-batch, labeled and unlabeled; ``None``: all.

    Raises:
        InputError: if the batch is not a multiple of it.
    """
    if micro_batch is None:
        return 1
    if micro_batch > batch or batch % micro_batch:
        raise InputError(
            f"--micro-batch must divide --batch, {batch}, got {micro_batch}. Choose another."
        )
    return batch // micro_batch


def micro_batches(batch: Batch, parts: int) -> Iterator[Batch]:
    """Yield the parts of a batch, each with as many labeled and unlabeled rows as the others."""
    labeled = batch.num_labeled
    if parts == 1:
        yield batch
        return
    known, rest = labeled // parts, (len(batch.image) - labeled) // parts
    for part in range(parts):
        first = labeled + part * rest
        places = [*range(part * known, (part + 1) * known), *range(first, first + rest)]
        numbers = tuple(batch.number(place) for place in places)
        own: dict[str, Any] = {"image": batch.image[places], "label": batch.label[places[:known]]}
        if batch.places is not None:
            own["places"] = tuple(batch.places[place] for place in places)
        if batch.inside is not None:
            own["inside"] = batch.inside[places]
        if isinstance(batch, OracleBatch):
            own["truth"] = batch.truth[places]
        yield dataclasses.replace(batch, rows=numbers, **own)


def merged_figures(several: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Merge the figures of a step's parts: the mean of each figure, the sum of each `Total`.

    A figure that some parts lack is averaged over those that have it.
    """
    found: dict[str, list[float]] = {}
    for figures in several:
        for name, value in figures.items():
            found.setdefault(name, []).append(value)
    merged: dict[str, float] = {}
    for name, values in found.items():
        if isinstance(values[0], Total):
            merged[name] = Total(sum(values))
        else:
            merged[name] = values[0] if len(values) == 1 else sum(values) / len(values)
    return merged


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory has run out, on a GPU or on the CPU."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _NO_MEMORY)


def too_little(error: BaseException) -> str:
    """Return a sentence for memory that has run out outside of a training step."""
    return (
        "the memory must hold the scans, the model and its probabilities, got too little "
        f"({type(error).__name__}). Choose --device cpu, or close what else uses the memory."
    )


def out_of_memory(error: BaseException, batch: Batch, parts: int) -> OutOfMemory:
    """Return the error for a step that did not fit into memory.

    Args:
        error: raised by torch.
        batch: rows of the step.
        parts: number of micro-batches of the step.
    """
    size = "x".join(map(str, batch.image.shape[2:]))
    labeled = batch.num_labeled
    divides = not (labeled % (2 * parts) or (len(batch.image) - labeled) % (2 * parts))
    ways = "Halve the rows at once with --micro-batch, or choose" if divides else "Choose"
    reason = str(error).strip().splitlines()
    return OutOfMemory(
        f"a training step must fit into memory, got {len(batch.image) // parts} rows of {size} at "
        f"once, for which there is not enough ({reason[0] if reason else type(error).__name__}). "
        f"{ways} a smaller --patch or --batch."
    )
