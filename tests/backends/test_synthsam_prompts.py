"""The prompts in tensors are those of the arrays; on the CPU, where both can be compared."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from semisam.backends import synthsam
from semisam.backends._smooth import smooth, smooth_tensors
from semisam.backends._synthsam.prompts import FAREST, Marks, make_guide
from semisam.backends._synthsam.prompts_gpu import GpuMarks, make_gpu_guide, shortest_paths
from semisam.core.types import Prompt
from semisam.pretraining.generator import draw_volume

VOLUME = draw_volume(3, 4, (48, 40, 32))


def _points(count, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(0, n, count) for n in VOLUME.image.shape], 1)


@pytest.mark.parametrize("told", ["clicks", "clicks in turn", "box and mask", "one side"])
def test_channels_are_the_same(told):
    box = torch.tensor([[5, 6, 7], [21, 30, 20]]) if told == "box and mask" else None
    mask = torch.rand(24, 20, 16) if told == "box and mask" else None
    maps = []
    for marks in (Marks(make_guide(VOLUME.image)), GpuMarks(make_gpu_guide(VOLUME.image))):
        marks.add(_points(3), 1)
        if told != "one side":
            marks.add(_points(2, seed=1), 0)
        if told == "clicks in turn":
            for n in range(4):
                marks.add(_points(1, seed=10 + n), n % 2)
        marks.add(_points(0), 1)
        maps.append((marks.channels(box, mask), marks.cells))
    (one, cells), (other, same) = maps
    assert cells == same
    assert one.abs().sum() > 0
    torch.testing.assert_close(other, one, rtol=0, atol=2e-4)


def test_a_winding_path_is_found():
    # A corridor that turns at every wall: the straight way is dear.
    length = torch.full((9, 9, 1), 0.1)
    length[1::2] = 50.0
    for row in range(1, 9, 2):
        length[row, 0 if row % 4 == 1 else 8] = 0.1
    between = [torch.maximum(length[1:], length[:-1]), torch.maximum(length[:, 1:], length[:, :-1])]
    sums = (
        torch.cat([torch.zeros(1, 9, 1), between[0]]).cumsum(0),
        torch.cat([torch.zeros(9, 1, 1), between[1]], 1).cumsum(1),
        torch.zeros(9, 9, 1),
    )
    start = torch.full((9, 9, 1), FAREST)
    start[0, 8] = 0
    found = shortest_paths(sums, start)
    # Four rows of eight steps, and two steps through each of four gaps.
    assert found[8, 8, 0] == pytest.approx(0.1 * (4 * 8 + 4 * 2), rel=1e-4)


def test_smoothing_is_the_same():
    rng = np.random.default_rng(0)
    odds = rng.normal(0, 2, (12, 10, 8)).astype(np.float32)
    pinned = rng.random(odds.shape) < 0.01
    pins = np.where(pinned, 6, 0).astype(np.float32)
    shapes = [[n - (a == k) for a, n in enumerate(odds.shape)] for k in range(3)]
    weights = tuple(rng.random(shape).astype(np.float32) for shape in shapes)
    one = smooth(odds, pins, pinned, weights, 8.0)
    tensors = [torch.from_numpy(x) for x in (odds, pins, pinned)]
    other = smooth_tensors(*tensors, tuple(map(torch.from_numpy, weights)), 8.0)
    np.testing.assert_allclose(other.numpy(), one, rtol=0, atol=1e-3)
    level = torch.full((4, 4, 4), 2.0)
    ties = tuple(torch.ones(s) for s in ((3, 4, 4), (4, 3, 4), (4, 4, 3)))
    same = smooth_tensors(level, torch.zeros_like(level), level > 3, ties, 8.0)
    torch.testing.assert_close(same, level)


@pytest.mark.parametrize("flips", [False, True])
def test_answers_are_the_same(monkeypatch, flips):
    prompt = Prompt(
        points=torch.from_numpy(_points(4)),
        labels=torch.tensor([1, 0, 1, 0]),
        mask=VOLUME.target.float(),
    )
    backend, answers = synthsam.SynthSAM(flips=flips), []
    for gpu in (False, True):
        monkeypatch.setattr(synthsam, "_is_gpu", lambda image, gpu=gpu: gpu)
        answers.append(backend.segment(backend.encode(VOLUME.image[None]), prompt))
    one, other = answers
    assert 0 < (one > 0).sum() < one.numel()
    assert ((one > 0) == (other > 0)).float().mean() > 0.999
    torch.testing.assert_close(other, one, rtol=0, atol=0.2)
