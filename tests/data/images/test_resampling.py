"""Linear resampling, whole and by rows."""

import numpy as np
import pytest

from semisam.data.images import resampling
from semisam.data.images.resampling import (
    resample,
    resample_classes,
    resample_label,
    resampled_size,
)

SPACINGS = [
    ((1.0, 1.0, 1.0), (2.0, 2.0, 2.0)),
    ((2.0, 2.0, 2.0), (1.0, 1.0, 1.0)),
    ((0.7, 1.3, 2.5), (1.1, 0.9, 1.0)),
    ((1.0, 1.0, 6.0), (3.0, 0.4, 1.0)),
    ((9.0, 1.0), (0.5, 2.0)),
]


@pytest.mark.parametrize(("spacing", "target"), SPACINGS)
def test_rows_are_those_of_the_whole(spacing, target):
    shape = (1, 13) if len(spacing) == 2 else (11, 9, 7)
    array = np.random.default_rng(0).random(shape, np.float32)
    size = resampled_size(shape, spacing, target)
    whole = resample(array, spacing, target, size)
    assert whole.shape == size
    for start in range(size[0]):
        for stop in (start + 1, min(start + 3, size[0])):
            rows = resample(array, spacing, target, size, range(start, stop))
            assert np.allclose(rows, whole[start:stop], atol=1e-6)


def test_a_ramp_stays_a_ramp():
    ramp = np.arange(20, dtype=np.float32)[:, None, None] * np.ones((1, 3, 3), np.float32)
    found = resample(ramp, (1.0,) * 3, (0.5, 1.0, 1.0), (40, 3, 3), range(10, 20))
    assert np.allclose(found[:, 1, 1], (np.arange(10, 20) + 0.5) / 2 - 0.5, atol=1e-5)


@pytest.mark.parametrize("at_once", [1, 50, 1 << 22])
@pytest.mark.parametrize(("spacing", "target"), SPACINGS)
def test_the_class_is_taken_after_resampling(monkeypatch, spacing, target, at_once):
    monkeypatch.setattr(resampling, "_AT_ONCE", at_once)
    shape = (1, 13) if len(spacing) == 2 else (11, 9, 7)
    probs = np.random.default_rng(1).dirichlet(np.ones(4), shape).astype(np.float32)
    probs = np.ascontiguousarray(np.moveaxis(probs, -1, 0))
    size = resampled_size(shape, spacing, target)
    whole = np.stack([resample(channel, spacing, target, size) for channel in probs])
    found = resample_classes(probs, spacing, target, size)
    top = np.sort(whole, 0)
    clear = top[-1] - top[-2] > 1e-5
    assert found.dtype == np.uint8 and clear.mean() > 0.9
    assert np.array_equal(found[clear], whole.argmax(0)[clear])


def test_of_equal_classes_the_first_is_taken():
    found = resample_classes(np.ones((3, 4, 4, 4), "f4"), (1.0,) * 3, (2.0,) * 3, (2, 2, 2))
    assert not found.any()


def test_at_twice_the_spacing_no_class_shrinks():
    """Where a half of the voxels is of a class, its number must not decide."""
    grid = np.stack(np.meshgrid(*[np.arange(32)] * 3, indexing="ij"))
    half = ((1.0,) * 3, (2.0,) * 3, (16,) * 3)
    ratios = []
    for centre in np.random.default_rng(0).uniform(14, 18, (8, 3)):
        ball = ((grid - centre[:, None, None, None]) ** 2).sum(0) <= 25
        ratios.append(8 * resample_label(ball.astype(np.uint8), *half).sum() / ball.sum())
    assert np.mean(ratios) == pytest.approx(1, abs=0.04)
    label = np.where(grid[0] < 15, 1, 2).astype(np.uint8) * (grid[1] > 6)
    swapped = np.array([0, 2, 1], np.uint8)
    one, other = resample_label(label, *half), resample_label(swapped[label], *half)
    assert np.array_equal(swapped[one], other)
