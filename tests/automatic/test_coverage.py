"""The choice of scans to label next."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from semisam.automatic.coverage import cover, described
from semisam.frameworks.supervised import Supervised
from semisam.networks.unet2d import UNet2d


def _left(vectors, labeled):
    """Return the sum of all distances to the nearest labeled scan."""
    scaled = (vectors - vectors.mean(0)) / vectors.std(0)
    apart = np.linalg.norm(scaled[:, None] - scaled[labeled][None], axis=-1)
    return apart.min(1).sum()


@pytest.mark.parametrize("seed", range(5))
def test_each_scan_is_the_one_that_leaves_the_least(seed):
    vectors = np.random.default_rng(seed).standard_normal((12, 3)) * [1, 10, 100]
    labeled = [3, 7]
    for at in cover(vectors, [3, 7], 4):
        others = [n for n in range(12) if n not in labeled]
        best = min(others, key=lambda n: _left(vectors, [*labeled, n]))
        assert at == best
        labeled.append(at)


def test_equal_scans_are_not_chosen_twice():
    vectors = np.array([[0.0], [1], [1], [1], [0]])
    chosen = cover(vectors, [0], 4)
    assert chosen[0] in (1, 2, 3) and sorted(chosen) == [1, 2, 3, 4]


def _method():
    torch.manual_seed(0)
    method = Supervised(lambda **heads: UNet2d(1, heads, filters=2), 3)
    return method.eval()


@torch.no_grad()
def test_windows_of_a_scan_give_one_vector():
    method, image = _method(), torch.randn(3, 1, 32, 48)
    with described(method) as found:
        for row in image:
            method(row[None])
    with described(method) as together:
        probs = method(image)
    vector = found.vector()
    assert np.allclose(vector, together.vector(), atol=1e-3)
    seen = {}
    hook = method.net.down[4].register_forward_hook(lambda m, i, out: seen.update(deep=out))
    method(image)
    hook.remove()
    deep = seen["deep"]
    assert np.allclose(vector[: deep.shape[1]], deep.mean((0, 2, 3)), atol=1e-3)
    inside = nn.functional.adaptive_avg_pool2d(1 - probs[:, :1], deep.shape[2:])
    organ = (deep * inside).sum((0, 2, 3)) / inside.sum()
    assert np.allclose(vector[deep.shape[1] :], organ, atol=1e-3)


@torch.no_grad()
def test_a_method_is_as_before_afterwards():
    method = _method()
    with described(method) as found:
        pass
    assert found.vector() is None
    method(torch.randn(1, 1, 16, 16))
    assert found.vector() is None


@torch.no_grad()
def test_a_network_that_names_no_features_gives_no_vector():
    method = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Softmax(1))
    with described(method) as found:
        method(torch.randn(1, 1, 8, 8))
    assert found.vector() is None
