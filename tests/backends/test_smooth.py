import numpy as np
import pytest
import torch

from semisam.backends._smooth import smooth


@pytest.mark.parametrize("grid", [(5, 4), (5, 4, 3)])
def test_the_result_solves_the_linear_equations(grid):
    rng = np.random.default_rng(0)
    odds, pins = rng.normal(0, 2, (2, *grid))
    pinned = rng.random(grid) < 0.1
    weights = [rng.random([n - (a == k) for a, n in enumerate(grid)]) for k in range(len(grid))]
    smoothness = 8.0

    index = np.arange(odds.size).reshape(grid)
    hold = np.where(pinned, 3.0, 1 / smoothness).ravel()
    matrix = np.diag(hold)
    for axis, weight in enumerate(weights):
        near, far = index.take(range(grid[axis] - 1), axis), index.take(range(1, grid[axis]), axis)
        for a, b, w in zip(near.ravel(), far.ravel(), weight.ravel(), strict=True):
            matrix[[a, b], [a, b]] += w
            matrix[[a, b], [b, a]] -= w
    wanted = np.linalg.solve(matrix, hold * np.where(pinned, pins, odds).ravel())

    tensors = [torch.from_numpy(x) for x in (odds, pins, pinned)]
    found = smooth(*tensors, tuple(map(torch.from_numpy, weights)), smoothness)
    np.testing.assert_allclose(found.numpy().ravel(), wanted, atol=1e-4)


def test_a_level_map_stays():
    level = torch.full((4, 4, 4), 2.0)
    ties = tuple(torch.ones(s) for s in ((3, 4, 4), (4, 3, 4), (4, 4, 3)))
    same = smooth(level, torch.zeros_like(level), level > 3, ties, 8.0)
    torch.testing.assert_close(same, level)


def test_without_smoothness_nothing_changes():
    odds = torch.randn(3, 3)
    ties = (torch.ones(2, 3), torch.ones(3, 2))
    assert torch.equal(smooth(odds, torch.ones(3, 3), odds > 0, ties, 0.0), odds)
