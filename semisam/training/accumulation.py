"""One optimizer step from several micro-batches, chosen by the user or forced by the memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from semisam.core.errors import InputError, SemisamError
from semisam.core.types import Batch, OracleBatch, Total

_NO_MEMORY = (
    *("can't allocate memory", "not enough memory", "out of memory"),
    *("status_alloc_failed", "bad_alloc"),
)


class OutOfMemory(SemisamError):
    """A training step needs more memory than there is."""


def count_parts(batch: int, micro_batch: int | None) -> int:
    """Return how many micro-batches a batch is taken in.

    Args:
        batch: rows of a batch.
        micro_batch: rows of a micro-batch, labeled and unlabeled; ``None``: all.

    Raises:
        InputError: if the batch is no multiple of it.
    """
    if micro_batch is None:
        return 1
    if micro_batch > batch or batch % micro_batch:
        raise InputError(
            f"--micro-batch must divide --batch, {batch}, got {micro_batch}: choose another"
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
        image, label = batch.image[places], batch.label[places[:known]]
        if isinstance(batch, OracleBatch):
            yield OracleBatch(image, label, batch.truth[places], rows=numbers)
        else:
            yield Batch(image, label, rows=numbers)


def divides(batch: Batch, parts: int) -> bool:
    """Return whether a batch has equally many rows of each kind for so many parts."""
    labeled = batch.num_labeled
    return labeled % parts == 0 and (len(batch.image) - labeled) % parts == 0


def merged_figures(several: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return the figures of a step's parts as those of the whole: means, and sums of a `Total`.

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
    """Return whether an error says that memory has run out, on a GPU or on the CPU."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _NO_MEMORY)


def out_of_memory(error: BaseException, batch: Batch, parts: int, *, allowed: bool) -> OutOfMemory:
    """Return the sentence for a step that did not fit.

    Args:
        error: what torch said.
        batch: the step's rows.
        parts: micro-batches that it was taken in.
        allowed: whether the run might have halved them.
    """
    size = "x".join(map(str, batch.image.shape[2:]))
    ways = ["choose a smaller --patch or --batch"]
    if divides(batch, 2 * parts):
        if not allowed:
            ways.insert(0, "let the run do so when it must with --allow-accumulation")
        ways.insert(0, "take half as many at once with --micro-batch")
    said = str(error).strip().splitlines()
    return OutOfMemory(
        f"a training step must fit into memory, got {len(batch.image) // parts} rows of {size} at "
        f"once, for which there is not enough ({said[0] if said else type(error).__name__}): "
        f"{', or '.join(ways)}"
    )


@dataclasses.dataclass(frozen=True)
class Buffers:
    """What a forward pass changes, to be put back before it is repeated."""

    values: tuple[Tensor, ...]

    @classmethod
    def of(cls, module: nn.Module) -> Buffers:
        """Copy the buffers of a module, such as BatchNorm's statistics."""
        return cls(tuple(buffer.detach().clone() for buffer in module.buffers()))

    @torch.no_grad()
    def restore(self, module: nn.Module) -> None:
        """Put them back."""
        for buffer, value in zip(module.buffers(), self.values, strict=True):
            buffer.copy_(value)
