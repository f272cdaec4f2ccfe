"""Signals that stop a training after the current step."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def deferred_interrupt(*, patient: bool = False) -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C and SIGTERM finish the current step; a second Ctrl-C stops at once.

    A grid sends SIGTERM to its runs after the terminal has sent them Ctrl-C. Two signals of
    different kinds are therefore one request to stop.

    Args:
        patient: a second Ctrl-C does not stop at once either, because torchrun repeats the
            terminal's signal to its processes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    seen: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        if number == signal.SIGINT and not patient:
            signal.signal(number, before[signal.SIGINT])

    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
