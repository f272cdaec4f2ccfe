"""Signals that stop a training after the current step."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def deferred_interrupt(
    *, patient: bool = False, quiet: bool = False
) -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C and SIGTERM finish the current step; a second Ctrl-C stops at once.

    A grid sends SIGTERM to its runs after the terminal has sent them Ctrl-C. Two signals of
    different kinds are therefore one request to stop.

    Args:
        patient: a second Ctrl-C does not stop at once either, because torchrun repeats the
            terminal's signal to its processes.
        quiet: Ctrl-C prints no line.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    seen: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and number not in seen and not quiet:
            again = "" if patient else " Ctrl-C again stops at once."
            _print(f"\nStopping: this step is finished and a checkpoint saved.{again}\n")
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


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM, by which a batch system ends a job, raise `KeyboardInterrupt` as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def interrupt_after(seconds: float | None) -> Iterator[Callable[[], bool]]:
    """Raise `KeyboardInterrupt` after this time, as Ctrl-C does; ``None``: never.

    The function that it gives returns whether the time is over.
    """
    over: list[int] = []
    if seconds is None:
        yield lambda: False
        return

    def stop(number: int, frame: FrameType | None) -> None:
        over.append(number)
        signal.default_int_handler(number, frame)

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield lambda: bool(over)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _print(text: str) -> None:
    """Write to standard error at once; a signal may have interrupted a print."""
    with contextlib.suppress(OSError):
        os.write(2, text.encode())
