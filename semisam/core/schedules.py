"""Weights and learning rates as pure functions of a Clock."""

from __future__ import annotations

import math
from dataclasses import dataclass

from semisam.core.types import Clock


@dataclass(frozen=True)
class Ramp:
    """``weight * exp(-rate * x ** power)``, where x is the way still to go (up) or gone (down).

    SemiSAM's paper uses ``power=1``: ``lambda_c = 0.1 exp(-5 (1 - t/T))`` rising and
    ``lambda_s = 0.1 exp(-5 t/T)`` falling. The published code squares the fraction (Laine & Aila,
    https://arxiv.org/abs/1610.02242) and advances it once in 150 iterations, 40 times in its 6000.

    The floor is of iterations, not of a share of the training: a shorter training has fewer steps
    of the same length (1000 iterations: 6), and one of fewer than ``every`` iterations has none, so
    that its weight stays ``weight * exp(-rate)`` from the first to the last.

    Args:
        weight: value at the end of a rising, or the start of a falling ramp.
        rising: direction.
        power: exponent on the fraction: 1 in the paper, 2 in the published code.
        every: the fraction advances once in that many iterations.
        rate: 5 everywhere in the literature.

    Raises:
        ValueError: a negative weight, a power that is not positive, or less than one iteration.
    """

    weight: float
    rising: bool = True
    power: float = 1.0
    every: int = 1
    rate: float = 5.0

    def __post_init__(self) -> None:
        # In the words of the options that every method gives its ramps.
        if self.weight < 0:
            raise ValueError(f"the weight of a ramp must be at least 0, got {self.weight}")
        if self.power <= 0:
            raise ValueError(f"ramp_power must be greater than 0, got {self.power}")
        if self.every < 1:
            raise ValueError(f"ramp_every must be at least 1 iteration, got {self.every}")

    def __call__(self, clock: Clock) -> float:
        """Return the weight at this time."""
        # A falling ramp is the rising one run backwards from the end, floor included.
        elapsed = clock.step if self.rising else clock.total - clock.step
        done = min(elapsed // self.every * self.every / max(clock.total, 1), 1.0)
        x = 1.0 - max(done, 0.0)
        return self.weight * math.exp(-self.rate * x**self.power)


def step_decay(clock: Clock, base: float, every: int, factor: float = 0.1) -> float:
    """Return ``base * factor ** floor(t / every)``: the published learning rate."""
    return base * factor ** (clock.step // every)
