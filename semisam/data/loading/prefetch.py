"""A thread that makes the batches of the next steps while the network trains."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Protocol

from semisam.core.types import Batch


class _HasBatch(Protocol):
    def batch(self, step: int) -> Batch: ...


class Prefetcher:
    """A background thread that makes the batches of steps ``start`` to ``stop - 1`` in advance.

    Iterating yields ``(step, batch, seconds_waited)``: the batches of ``source.batch`` in order,
    and the consumer's waiting time for each. An exception of the thread is raised in the consumer.
    Leaving the ``with`` block ends the thread.

    Args:
        source: a `BatchSource` or another object with ``batch(step)``.
        start: the first step.
        stop: one past the last step.
        depth: number of batches to keep ready.
    """

    def __init__(self, source: _HasBatch, start: int, stop: int, *, depth: int = 3) -> None:
        self._source = source
        self._steps = range(start, stop)
        self._unseen = iter(self._steps)
        self._queue: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=depth)
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._produce, name="prefetch", daemon=True)

    def __enter__(self) -> Prefetcher:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave.set()
        self._thread.join()

    def __iter__(self) -> Iterator[tuple[int, Batch, float]]:
        if self._thread.ident is None:
            raise RuntimeError("a Prefetcher must be iterated inside its `with` block")
        for step in self._unseen:
            before = time.perf_counter()
            item = self._queue.get()
            waited = time.perf_counter() - before
            if isinstance(item, BaseException):
                self._unseen = iter(())  # no batch follows
                raise item
            yield step, item, waited

    def _produce(self) -> None:
        for step in self._steps:
            try:
                item: Batch | BaseException = self._source.batch(step)
            except BaseException as error:
                item = error
            if not self._put(item) or isinstance(item, BaseException):
                return

    def _put(self, item: Batch | BaseException) -> bool:
        """Wait for room in the queue, but not after the consumer has left."""
        while not self._leave.is_set():
            try:
                self._queue.put(item, timeout=0.05)
            except queue.Full:
                continue
            return True
        return False
