"""The time left of a grid, from how long its runs take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import mean
from typing import Any

_AFTER_TRAINING = 0.1
"""Part of a run's training time that its evaluation takes, until a run of the grid has ended."""

_BEGINNING = 0.3
"""Part of a run after which its own speed counts more than that of others."""


@dataclass
class _Active:
    """A run at work: when it began, the first state that was seen of its phase, and its end."""

    began: float
    phase: str = ""
    since: float = 0.0
    first: int = 0
    done: int = 0
    end: float | None = None


class TimeLeft:
    """An estimate that every run of the grid moves, also where several are at work.

    A run at work is estimated by its own speed, and later by the runs of its kind that have ended.
    A waiting run takes as long as those of its kind, or as the mean of all kinds.

    Args:
        kinds: of all runs, by name; runs of one kind take about the same time.
        now: clock in seconds.
    """

    def __init__(self, kinds: Mapping[str, Any], now: Callable[[], float] = time.monotonic) -> None:
        self._kinds = dict(kinds)
        self._now = now
        self._began = now()
        self._waiting = dict.fromkeys(kinds)
        self._active: dict[str, _Active] = {}
        self._took: dict[Any, list[float]] = {}
        self._tests: list[float] = []  # seconds that the evaluations of ended runs took
        self._most = 1  # runs at work at a time
        self._shown = 0.0

    def started(self, name: str) -> None:
        """Note that a run is at work."""
        self._waiting.pop(name, None)
        self._active[name] = _Active(self._now())
        self._most = max(self._most, len(self._active))

    def moved(self, name: str, state: Mapping[str, Any]) -> None:
        """Note the progress of a run: ``phase``, ``done`` and ``total``."""
        run, now = self._active[name], self._now()
        done, total = int(state["done"]), max(int(state["total"]), 1)
        if run.phase != state["phase"]:
            # A resumed run begins in the middle, so its speed counts from here.
            run.phase, run.since, run.first, run.done = state["phase"], now, done, done
        # Between two counts the estimate stays.
        if done > run.done and run.phase in ("train", "evaluate"):
            run.done = done
            left = (now - run.since) / (done - run.first) * (total - done)
            if run.phase == "train":
                whole = _AFTER_TRAINING * (now - run.since + left)
                left += mean(self._tests) if self._tests else whole
            run.end = now + left

    def ended(self, name: str, done: bool) -> float | None:
        """Note the end of a run, and return the seconds that it took here, if it was done here."""
        self._waiting.pop(name, None)
        run = self._active.pop(name, None)
        if run is None or not done:
            return None
        took = self._now() - run.began
        if run.phase == "evaluate" and run.first == 0:
            self._tests.append(self._now() - run.since)
        self._took.setdefault(self._kinds[name], []).append(took)
        return took

    def seconds(self) -> float | None:
        """Return the time left; ``None`` while nothing is known."""
        active = [self._left_of(name) for name in self._active]
        # Many runs may wait, but they are of few kinds.
        lengths = {kind: self._length_of(kind) for kind in {self._kinds[n] for n in self._waiting}}
        waiting = [lengths[self._kinds[name]] for name in self._waiting]
        known = [seconds for seconds in (*active, *waiting) if seconds is not None]
        if len(known) < len(active) + len(waiting):
            return None
        # Runs share the places; no end comes before that of the longest run.
        return max([sum(known) / self._most, *known])

    def share(self) -> float:
        """Return the part of the grid that is done, in [0, 1]; it never goes back."""
        left = self.seconds()
        if left is not None:
            elapsed = self._now() - self._began
            self._shown = max(self._shown, elapsed / max(elapsed + left, 1e-9))
        return min(self._shown, 1.0)

    def _left_of(self, name: str) -> float | None:
        run, took = self._active[name], self._took.get(self._kinds[name])
        elapsed = self._now() - run.began
        # The first steps of a run tell less than the runs of its kind that have ended.
        if run.end is not None and (took is None or elapsed > _BEGINNING * mean(took)):
            return max(run.end - self._now(), 0.0)
        length = self._length_of(self._kinds[name])
        return None if length is None else max(length - elapsed, 0.0)

    def _length_of(self, kind: Any) -> float | None:
        """Return how long a run of a kind takes, by those that ended, else by those at work."""
        if kind in self._took:
            return mean(self._took[kind])
        guesses = list(self._guesses())
        own = [seconds for other, seconds in guesses if other == kind]
        return mean(own or [seconds for _, seconds in guesses]) if guesses else None

    def _guesses(self) -> Iterable[tuple[Any, float]]:
        for kind, took in self._took.items():
            yield kind, mean(took)
        for name, run in self._active.items():
            if run.end is not None:
                yield self._kinds[name], run.end - run.began
