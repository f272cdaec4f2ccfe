"""Weights and learning rates as pure functions of a Clock."""

from __future__ import annotations

import math
from dataclasses import dataclass

from semisam.core.types import Clock

_STEP_FACTOR = 0.1
_POLY_POWER = 0.9
_RISE = 30
"""Steps over which `rise_and_fall` rises at most."""
_FALL = 0.4
"""Part of the training over which `rise_and_fall` falls."""


@dataclass(frozen=True)
class Ramp:
    """A weight ``weight * exp(-rate * x ** power)`` that rises or falls with training time.

    ``x`` is the remaining fraction of the training for a rising ramp, the elapsed one for a falling
    ramp. SemiSAM's paper uses ``power=1``: ``lambda_c = 0.1 exp(-5 (1 - t/T))`` rising and
    ``lambda_s = 0.1 exp(-5 t/T)`` falling. The published code squares the fraction (Laine & Aila,
    https://arxiv.org/abs/1610.02242) and advances it every 150 iterations, 40 times in its 6000.

    ``every`` counts iterations, not a share of the training. A shorter training therefore has fewer
    steps of the same length (1000 iterations: 6). With fewer than ``every`` iterations the weight
    stays at ``weight * exp(-rate)``. With ``until`` below 1 the ramp ends there, and its last value
    stays.

    Args:
        weight: value at the end of a rising or the start of a falling ramp.
        rising: direction.
        power: exponent on the fraction: 1 in the paper, 2 in the published code.
        every: iterations between two advances of the fraction.
        rate: exponent's factor: 5 throughout the literature.
        until: share of the training at which the ramp ends; 0: ``weight`` throughout.

    Raises:
        ValueError: a negative weight, a power that is not positive, less than one iteration, or a
            share outside of [0, 1].

    Example:
        >>> from semisam.core.types import Clock
        >>> ramp = Ramp(0.1)
        >>> round(ramp(Clock(0, 100)), 5), ramp(Clock(100, 100))
        (0.00067, 0.1)
    """

    weight: float
    rising: bool = True
    power: float = 1.0
    every: int = 1
    rate: float = 5.0
    until: float = 1.0

    def __post_init__(self) -> None:
        # Named as the options of the methods are.
        if self.weight < 0:
            raise ValueError(f"the weight of a ramp must be at least 0, got {self.weight}.")
        if self.power <= 0:
            raise ValueError(f"ramp_power must be greater than 0, got {self.power}.")
        if self.every < 1:
            raise ValueError(f"ramp_every must be at least 1 iteration, got {self.every}.")
        if not 0 <= self.until <= 1:
            raise ValueError(f"rise must be in [0, 1], got {self.until}.")

    def __call__(self, clock: Clock) -> float:
        """Return the weight at this time."""
        if self.until == 0:
            return self.weight
        total = round(self.until * clock.total)
        # A falling ramp is a rising one reversed in time, including the rounding to `every`.
        elapsed = clock.step if self.rising else total - clock.step
        done = min(elapsed // self.every * self.every / max(total, 1), 1.0)
        x = 1.0 - max(done, 0.0)
        return self.weight * math.exp(-self.rate * x**self.power)


def step_decay(clock: Clock, base: float, every: int) -> float:
    """Return the published learning rate ``base * 0.1 ** floor(t / every)``."""
    return base * _STEP_FACTOR ** (clock.step // every)


def poly_decay(clock: Clock, base: float) -> float:
    """Return ``base * (1 - t/T) ** 0.9``, which ends at 0."""
    return float(base * (1.0 - clock.fraction) ** _POLY_POWER)


def cosine_decay(clock: Clock, base: float) -> float:
    """Return half a cosine from ``base`` to 0 (Loshchilov, Hutter, SGDR, ICLR 2017)."""
    return 0.5 * base * (1.0 + math.cos(math.pi * clock.fraction))


def rise_and_fall(clock: Clock, base: float) -> float:
    """Return a rate that rises for 30 steps, stays, and falls linearly to 0.

    The rise is at most a tenth of the training, and the fall its last 40 %.

    Args:
        clock: training time.
        base: the rate between.
    """
    steps = max(min(_RISE, clock.total // 10), 1)
    return base * min(1.0, (clock.step + 1) / steps) * min(1.0, (1.0 - clock.fraction) / _FALL)
