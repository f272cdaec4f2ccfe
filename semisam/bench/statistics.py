"""Paired comparisons over test cases, to test whether a gain is more than chance.

A pair of rows is compared: a method and the same method with SemiSAM, on the same test cases,
labeled subsets and seeds. Resampling of cases shows how far the gain would move with other
patients: all scans of a patient are drawn together. It does not cover other seeds or other labeled
scans, which the SD over runs shows.

References:
    Efron, Tibshirani. "An introduction to the bootstrap." 1993, chapter 13 (percentile intervals).
    Wilcoxon. "Individual comparisons by ranking methods." Biometrics Bulletin 1, 1945.
    Holm. "A simple sequentially rejective multiple test procedure." Scand. J. Statist. 6, 1979.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]

RESAMPLES = 10_000
LEVEL = 0.95
ALPHA = 0.05


@dataclass(frozen=True)
class Comparison:
    """A gain over cases.

    Attributes:
        gain: mean over cases of the paired difference.
        low: lower end of its 95 % interval; NaN with fewer than two cases.
        high: upper end.
        p: of the two-sided Wilcoxon signed-rank test; NaN with fewer than two cases.
        cases: number of pairs; of patients with several scans the number of patients.
    """

    gain: float
    low: float
    high: float
    p: float
    cases: int


def compare(bare: Floats, wrapped: Floats, patients: Sequence[str] = ()) -> Comparison:
    """Compare two rows case by case. The same scores give the same interval.

    Args:
        bare: ``(n,)`` scores of the cases without SemiSAM, each the mean over runs.
        wrapped: ``(n,)`` scores of the same cases with SemiSAM.
        patients: of the cases; empty: each case is of another one.
    """
    difference = np.asarray(wrapped, float) - np.asarray(bare, float)
    owner = _owners(patients, len(difference))
    units = int(owner.max(initial=-1)) + 1
    if units < 2:
        return Comparison(float(difference.mean()), math.nan, math.nan, math.nan, units)
    low, high = bootstrap_interval(difference, patients)
    p = signed_rank(np.bincount(owner, difference) / np.bincount(owner))
    return Comparison(float(difference.mean()), low, high, p, units)


def least_p(cases: int) -> float:
    """Return the least two-sided p that Wilcoxon's test can give for a number of cases."""
    return float(min(1.0, 2.0 ** (1 - cases)))


def cases_for(comparisons: int) -> int:
    """Return the fewest cases with which one of several comparisons can be significant.

    Args:
        comparisons: for which Holm corrects.
    """
    cases = 1
    while comparisons * least_p(cases) >= ALPHA:
        cases += 1
    return cases


def _owners(patients: Sequence[str], cases: int) -> NDArray[np.intp]:
    """Return the number of each case's patient, counted from 0."""
    if not len(patients):
        return np.arange(cases)
    return np.unique(np.asarray(patients, str), return_inverse=True)[1]


def bootstrap_interval(values: Floats, patients: Sequence[str] = ()) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean of ``(n,)`` values.

    The same values give the same interval.

    Args:
        values: of cases.
        patients: of the cases, which are drawn with all their cases; empty: each case is of another
            one.
    """
    rng = np.random.Generator(np.random.Philox(0))
    owner = _owners(patients, len(values))
    sums, counts = np.bincount(owner, np.asarray(values)), np.bincount(owner)
    drawn = rng.integers(len(sums), size=(RESAMPLES, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def signed_rank(difference: Floats) -> float:
    """Return the two-sided p of Wilcoxon's signed-rank test; 1 where nothing differs."""
    difference = np.asarray(difference)
    if not difference.any():
        return 1.0
    return float(stats.wilcoxon(difference).pvalue)


@dataclass(frozen=True)
class Rank:
    """The place of a row among others at equal labels.

    Attributes:
        rank: by the mean over cases; 1 is the highest mean.
        low: lower end of its 95 % interval over cases.
        high: upper end.
        first: share of the resamples in which the row is the first.
    """

    rank: int
    low: int
    high: int
    first: float


def ranks(scores: Floats, patients: Sequence[str] = ()) -> list[Rank]:
    """Rank rows by their means, and show how the ranks would move with other patients.

    All rows are resampled together, so that a case that is hard for all moves none of them. The
    same scores give the same ranks.

    Args:
        scores: ``(rows, n)`` of the same cases.
        patients: of the cases; empty: each case is of another one.
    """
    rng = np.random.Generator(np.random.Philox(0))
    owner = _owners(patients, scores.shape[1])
    units = int(owner.max()) + 1
    weights = rng.multinomial(units, np.full(units, 1 / units), size=RESAMPLES)[:, owner]
    weights = weights / weights.sum(1, keepdims=True)
    drawn = stats.rankdata(-(weights @ scores.T), method="min", axis=1)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=0, method="nearest").astype(int)
    own = stats.rankdata(-scores.mean(1), method="min").astype(int)
    first = (drawn == 1).mean(0)
    return [
        Rank(int(own[n]), int(low[n]), int(high[n]), float(first[n])) for n in range(len(scores))
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p values, in the order given; NaN stays and does not count."""
    values = np.asarray(p_values, float)
    known = np.flatnonzero(~np.isnan(values))
    adjusted = values.copy()
    order = known[np.argsort(values[known], kind="stable")]
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min((len(order) - rank) * values[index], 1.0))
        adjusted[index] = highest
    return [float(value) for value in adjusted]
