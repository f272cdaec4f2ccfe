"""Work on many items in a few threads, as reading and checking scans."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    items: Sequence[Item],
    work: Callable[[Item], Result],
    on_done: Callable[[int, int], None] | None = None,
    *,
    workers: int = 4,
) -> list[Result]:
    """Return the result of each item, in the order of the items.

    The first item whose work raises ends it: what is at work is finished, and nothing else begins.

    Args:
        items: to work on.
        work: called in several threads at once.
        on_done: called in this thread with (items done, number of items) after each.
        workers: threads at most, one for each CPU; each may hold a scan.

    Example:
        >>> in_order(["b", "a"], str.upper)
        ['B', 'A']
    """
    results = []
    with ThreadPoolExecutor(min(workers, os.cpu_count() or 1)) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            for future in futures:
                results.append(future.result())
                if on_done is not None:
                    on_done(len(results), len(items))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return results
