"""Time of the surface metrics against MedPy's, on masks of the size of a full left-atrium scan.

MedPy computes Dice, Jaccard, HD95 and ASD in mm. Ours computes these, ASSD, and the distances in
voxels too, in one call. Both are timed alternately in one process, and must agree to 1e-6.

    python -m benchmarks.speed_metrics
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from semisam.metrics.scores import CaseMetrics, evaluate_mask

BoolArray = NDArray[np.bool_]
T = TypeVar("T")

SHAPE = (183, 140, 88)
ISOTROPIC = (0.625, 0.625, 0.625)
ANISOTROPIC = (0.61, 0.73, 1.1)
TOLERANCE = 1e-6


def deformed_ellipsoid(seed: int, strength: float = 0.2) -> BoolArray:
    """An ellipsoid of about the atrium's size with a smoothly disturbed surface."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(SHAPE), 9)
    axes = zip(np.indices(SHAPE, dtype=np.float64), SHAPE, (48, 36, 26), strict=True)
    level = sum(((grid - n / 2) / radius) ** 2 for grid, n, radius in axes)
    return level + strength * noise / noise.std() < 1


def good_prediction(ref: BoolArray, seed: int) -> BoolArray:
    """The reference with a displaced surface and a few false islands."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.standard_normal(ref.shape), 6)
    signed = ndimage.distance_transform_edt(ref) - ndimage.distance_transform_edt(~ref)
    pred = signed + 1.5 * noise / noise.std() > 0
    for radius in (2, 3, 5):
        centre = [int(rng.integers(radius, n - radius)) for n in ref.shape]
        box = tuple(slice(c - radius, c + radius + 1) for c in centre)
        ball = np.indices((2 * radius + 1,) * 3) - radius
        pred[box] |= (ball**2).sum(axis=0) <= radius**2
    return pred


def speckled_prediction(ref: BoolArray, seed: int, share: float) -> BoolArray:
    """The reference with this share of the voxels flipped, all over the volume."""
    return ref ^ (np.random.default_rng(seed).random(ref.shape) < share)


def medpy_four(pred: BoolArray, ref: BoolArray, spacing: tuple[float, ...]) -> tuple[float, ...]:
    from medpy.metric import binary

    return (
        binary.dc(pred, ref),
        binary.jc(pred, ref),
        binary.hd95(pred, ref, voxelspacing=spacing),
        binary.asd(pred, ref, voxelspacing=spacing),
    )


def _seconds(call: Callable[[], T]) -> tuple[float, T]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def _compare(
    pred: BoolArray, ref: BoolArray, spacing: tuple[float, ...], repeats: int
) -> tuple[float, float, float]:
    """Median seconds of MedPy, of ours, and the median of the paired ratios."""
    evaluate_mask(pred, ref, spacing)  # warm up
    theirs, ours, ratios = [], [], []
    for _ in range(repeats):
        slow, expected = _seconds(lambda: medpy_four(pred, ref, spacing))
        fast, got = _seconds(lambda: evaluate_mask(pred, ref, spacing))
        _check(got, expected)
        theirs.append(slow)
        ours.append(fast)
        ratios.append(slow / fast)
    return statistics.median(theirs), statistics.median(ours), statistics.median(ratios)


def _check(got: CaseMetrics, expected: tuple[float, ...]) -> None:
    values = (got.dice, got.jaccard, got.hd95_mm, got.asd_mm)
    worst = max(abs(a - b) for a, b in zip(values, expected, strict=True))
    if worst > TOLERANCE:
        raise AssertionError(f"values differ from MedPy by {worst:.2e}: {values} and {expected}")


def metrics_ratio(repeats: int = 5) -> dict[str, float]:
    """Return, per case, how many times faster than MedPy, and the milliseconds of both.

    Keys: ``<case>``, ``<case>_medpy_ms``, ``<case>_ours_ms``. ``good`` is the case to judge by.
    """
    ref = deformed_ellipsoid(seed=0)
    good = good_prediction(ref, seed=1)
    cases = {
        "good": (good, ISOTROPIC),
        "good_anisotropic": (good, ANISOTROPIC),
        "speckled_0.3%": (speckled_prediction(ref, 2, 0.003), ISOTROPIC),
        "speckled_3%": (speckled_prediction(ref, 3, 0.03), ISOTROPIC),
        "speckled_0.3%_anisotropic": (speckled_prediction(ref, 2, 0.003), ANISOTROPIC),
        "speckled_3%_anisotropic": (speckled_prediction(ref, 3, 0.03), ANISOTROPIC),
    }
    result: dict[str, float] = {}
    for name, (pred, spacing) in cases.items():
        medpy_s, ours_s, ratio = _compare(pred, ref, spacing, repeats)
        result |= {
            name: ratio,
            f"{name}_medpy_ms": 1e3 * medpy_s,
            f"{name}_ours_ms": 1e3 * ours_s,
        }
        print(
            f"{name:28s} MedPy {1e3 * medpy_s:7.1f} ms   ours {1e3 * ours_s:6.1f} ms"
            f"   {ratio:5.1f} times"
        )
    return result


if __name__ == "__main__":
    metrics_ratio()
