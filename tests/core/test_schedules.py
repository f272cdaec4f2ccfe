"""Schedules against the figures of the paper and of the published code."""

from __future__ import annotations

import math

import pytest

from semisam.core.schedules import Ramp, cosine_decay, poly_decay, rise_and_fall, step_decay
from semisam.core.types import Clock

STEPS = (0, 1500, 3000, 4500, 6000)


@pytest.mark.parametrize(
    ("ramp", "values"),
    [
        (Ramp(0.1), (0.0007, 0.0024, 0.0082, 0.0287, 0.1)),
        (Ramp(0.1, power=2, every=150), (0.0007, 0.0060, 0.0287, 0.0732, 0.1)),
        (Ramp(0.1, rising=False), (0.1, 0.0287, 0.0082, 0.0024, 0.0007)),
        (Ramp(0.05, rising=False, power=2, every=150), (0.05, 0.0366, 0.0143, 0.0030, 0.0003)),
    ],
    ids=["lambda_c paper", "lambda_c published", "lambda_s paper", "lambda_s published"],
)
def test_values_of_the_literature(ramp, values):
    assert [ramp(Clock(step, 6000)) for step in STEPS] == pytest.approx(values, abs=6e-5)


def test_paper_formulas_at_every_step():
    for t in range(0, 6001, 7):
        clock = Clock(t, 6000)
        assert Ramp(0.1)(clock) == pytest.approx(0.1 * math.exp(-5 * (1 - t / 6000)))
        assert Ramp(0.1, rising=False)(clock) == pytest.approx(0.1 * math.exp(-5 * t / 6000))


def test_sigmoid_rampup_of_the_published_code(shared):
    import numpy as np

    want = np.load(shared / "goldens" / "losses_and_sdf.npz")["sigmoid_rampup_0_40"]
    ours = [Ramp(1.0, power=2, every=150)(Clock(150 * t, 6000)) for t in range(45)]
    assert ours == pytest.approx(want.tolist(), abs=1e-12)


def test_published_ramp_moves_once_in_150_iterations():
    ramp = Ramp(0.1, power=2, every=150)
    assert ramp(Clock(150, 6000)) == ramp(Clock(299, 6000)) != ramp(Clock(300, 6000))


def test_learning_rate_is_divided_by_ten_every_2500():
    rates = [step_decay(Clock(t, 6000), 0.01, 2500) for t in (0, 2499, 2500, 4999, 5000, 5999)]
    assert rates == pytest.approx([0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001])


def test_rates_that_end_at_zero():
    half = Clock(500, 1000)
    assert poly_decay(half, 0.01) == pytest.approx(0.01 * 0.5**0.9)
    assert cosine_decay(half, 0.01) == pytest.approx(0.005)
    for decay in (poly_decay, cosine_decay):
        assert decay(Clock(0, 1000), 0.01) == pytest.approx(0.01)
        assert decay(Clock(1000, 1000), 0.01) == pytest.approx(0, abs=1e-12)


def test_a_rate_that_rises_stays_and_falls():
    rates = [rise_and_fall(Clock(t, 1000), 3e-4) for t in range(1000)]
    assert rates[0] == pytest.approx(1e-5) and rates[29] == rates[30] == rates[599] == 3e-4
    assert rates[800] == pytest.approx(1.5e-4) and rates[999] == pytest.approx(3e-4 / 400)
    assert rates[:30] == sorted(rates[:30]) and rates[600:] == sorted(rates[600:], reverse=True)
    assert rise_and_fall(Clock(0, 5), 1.0) == 1.0
