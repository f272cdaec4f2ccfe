"""The paths of a CPU and of a GPU are the same; compared on the CPU, where both work."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from semisam.backends import synthsam
from semisam.backends._synthsam import prompts
from semisam.backends._synthsam.paths import FAREST, FLAT, Graph, Sweeps, make_paths
from semisam.core.types import Prompt
from semisam.pretraining.generator import draw_volume

VOLUME = draw_volume(3, 4, (48, 40, 32))


def blank(*grid):
    return torch.full(grid, FAREST)


def test_a_cpu_has_the_graph():
    assert isinstance(
        make_paths([torch.ones(1, 2, 2), torch.ones(2, 1, 2), torch.ones(2, 2, 1)]), Graph
    )


@pytest.mark.parametrize("make", [Graph, Sweeps])
def test_a_winding_path_is_found(make):
    # A corridor that turns at every wall: the straight way is long.
    length = torch.full((9, 9, 1), 0.4)
    length[1::2] = 50.0
    for row in range(1, 9, 2):
        length[row, 0 if row % 4 == 1 else 8] = 0.4
    lengths = [
        torch.maximum(length[1:], length[:-1]),
        torch.maximum(length[:, 1:], length[:, :-1]),
        torch.zeros(9, 9, 0),
    ]
    paths = make([x - FLAT for x in lengths])
    found = paths.closer(blank(9, 9, 1), torch.tensor([8]))
    # Four rows of eight steps, and two steps through each of four gaps.
    assert found[8, 8, 0] == pytest.approx(0.4 * (4 * 8 + 4 * 2), rel=1e-4)
    assert found[0, 8, 0] == 0


@pytest.mark.parametrize("make", [Graph, Sweeps])
def test_a_seed_only_shortens_paths(make):
    paths = make([torch.ones(5, 6, 6), torch.ones(6, 5, 6), torch.ones(6, 6, 5)])
    first = paths.closer(blank(6, 6, 6), torch.tensor([0]))
    both = paths.closer(first, torch.tensor([215]))
    other = paths.closer(blank(6, 6, 6), torch.tensor([215]))
    torch.testing.assert_close(both, torch.minimum(first, other))
    assert float(first.max()) == pytest.approx(15 * (1 + FLAT), rel=1e-5)


@pytest.mark.parametrize("make", [Graph, Sweeps])
def test_farther_voxels_are_equally_far(make):
    paths = make([torch.full((99, 1, 1), 1.0), torch.zeros(100, 0, 1), torch.zeros(100, 1, 0)])
    found = paths.closer(blank(100, 1, 1), torch.tensor([0])).flatten()
    assert float(found[30]) == pytest.approx(30 * (1 + FLAT), rel=1e-4)
    torch.testing.assert_close(found[31:], torch.full((69,), FAREST), rtol=0, atol=2e-3)


def test_both_find_the_same_lengths():
    coarse = VOLUME.image[::2, ::2, ::2]
    steps = prompts.relative_steps(coarse)
    cells = torch.from_numpy(np.random.default_rng(0).integers(0, coarse.numel(), 4))
    one, other = (make(steps).closer(blank(*coarse.shape), cells) for make in (Graph, Sweeps))
    assert len(one.unique()) > 1000
    torch.testing.assert_close(other, one, rtol=0, atol=2e-3)


def test_predictions_with_both_are_the_same(monkeypatch):
    rng = np.random.default_rng(0)
    points = np.stack([rng.integers(0, n, 4) for n in VOLUME.image.shape], 1)
    prompt = Prompt(points=torch.from_numpy(points), labels=torch.tensor([1, 0, 1, 0]))
    backend, found = synthsam.SynthSAM(), []
    for make in (Graph, Sweeps):
        monkeypatch.setattr(prompts, "make_paths", make)
        found.append(backend.segment(backend.encode(VOLUME.image[None]), prompt))
    one, other = found
    assert 0 < (one > 0).sum() < one.numel()
    assert ((one > 0) == (other > 0)).float().mean() > 0.999
    torch.testing.assert_close(other, one, rtol=0, atol=0.2)
