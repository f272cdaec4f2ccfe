import numpy as np
import pytest
import torch

from semisam.backends._synthsam.paths import FAREST
from semisam.backends._synthsam.prompts import (
    ALIKE,
    FAR,
    NEAR,
    REACH,
    Marks,
    make_guide,
    relative_steps,
)
from semisam.pretraining.generator import draw_volume

VOLUME = draw_volume(3, 4, (48, 40, 32))


def test_the_mean_step_is_1():
    assert make_guide(VOLUME.image).grid == (24, 20, 16)
    steps = torch.cat([step.flatten() for step in relative_steps(VOLUME.image)])
    assert float(steps.mean()) == pytest.approx(1, rel=1e-4)
    assert all(not step.any() for step in relative_steps(torch.zeros(8, 8, 8)))


def test_channels_follow_their_formulas():
    marks = Marks(make_guide(VOLUME.image))
    points = {1: np.array([[10, 11, 12], [40, 3, 30]]), 0: np.array([[20, 30, 5]])}
    for label, some in points.items():
        marks.add(some, label)
        marks.add(some[:0], label)
    mask = torch.rand(24, 20, 16)
    maps = marks.channels(mask=mask).numpy()

    grid = np.stack(np.meshgrid(*map(np.arange, (24, 20, 16)), indexing="ij"), -1)
    grey = marks.guide.grey.numpy()
    far = []
    for sign, label in enumerate((1, 0)):
        centres = (points[label] + 0.5) / 2 - 0.5
        apart = np.min([((grid - c) ** 2).sum(-1) for c in centres], axis=0)
        np.testing.assert_allclose(maps[sign], np.exp(-apart / 2), atol=1e-5)
        np.testing.assert_allclose(maps[2 + sign], np.exp(-np.sqrt(apart) / REACH), atol=1e-5)
        cells = tuple((points[label] // 2).T)
        assert set(marks.cells[label]) == set(np.ravel_multi_index(cells, grey.shape).tolist())
        seeds = torch.tensor(marks.cells[label])
        length = marks.guide.paths.closer(torch.full((24, 20, 16), FAREST), seeds).numpy()
        far.append(length)
        np.testing.assert_allclose(maps[4 + sign], np.exp(-length / NEAR), atol=1e-5)
        np.testing.assert_allclose(maps[6 + sign], np.exp(-length / FAR), atol=1e-5)
        unlike = np.min([(grey - level) ** 2 for level in grey[cells]], axis=0)
        np.testing.assert_allclose(maps[8 + sign], np.exp(-unlike / 2 / ALIKE**2), atol=1e-5)
    fore, back = far
    np.testing.assert_allclose(maps[10], (back - fore) / (back + fore + 1), atol=1e-5)
    assert not maps[11].any()
    np.testing.assert_allclose(maps[12], 2 * mask.numpy() - 1, atol=1e-6)


def test_a_box_ends_where_the_fine_one_does():
    marks = Marks(make_guide(VOLUME.image))
    inside = marks.channels(torch.tensor([[5, 6, 7], [21, 30, 20]]))[11] > 0
    found = inside.nonzero()
    assert found.amin(0).tolist() == [2, 3, 3] and found.amax(0).tolist() == [10, 14, 9]
