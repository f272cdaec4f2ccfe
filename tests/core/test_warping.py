"""Patches that are zoomed, turned and bent."""

from __future__ import annotations

import numpy as np
import pytest

from semisam.core.warping import draw_places, sample


def _grid(size, corner=0.0):
    return np.stack(np.meshgrid(*[np.arange(n) + corner for n in size], indexing="ij")).astype("f4")


@pytest.mark.parametrize("shape", [(2, 9, 7, 5), (1, 9, 7)])
def test_whole_places_read_the_voxels_themselves(shape):
    volume = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    np.testing.assert_allclose(sample(volume, _grid(shape[1:]), label=False), volume, atol=1e-5)
    label = (volume > 0).astype(np.int64) * 255
    assert np.array_equal(sample(label, _grid(shape[1:]), label=True), label)
    part = sample(volume, _grid([n - 2 for n in shape[1:]], 1.0), label=False)
    inner = volume[(slice(None), *[slice(1, -1)] * (len(shape) - 1))]
    np.testing.assert_allclose(part, inner, atol=1e-5)


def test_places_between_voxels_are_linear_and_those_outside_empty():
    line = np.arange(10, dtype=np.float32)[None, :, None].repeat(3, 2)
    places = np.zeros((2, 4, 1), np.float32)
    places[0, :, 0], places[1] = [2.5, 7.25, -3.0, 14.0], 1.0
    np.testing.assert_allclose(
        sample(line, places, label=False)[0, :, 0], [2.5, 7.25, 0, 0], atol=1e-5
    )
    label = np.ones((1, 10, 3), np.int64)
    got = sample(label, places, label=True, around=255)[0, :, 0]
    assert got.tolist() == [1, 1, 255, 255] and got.dtype == np.int64


def test_image_and_label_move_together():
    rng = np.random.default_rng(0)
    label = np.zeros((1, 40, 36, 30), np.int64)
    label[0, 10:30, 12:26, 8:22] = 255
    for _ in range(10):
        places = (
            draw_places((24, 24, 16), rng) + np.float32([19.5, 17.5, 14.5])[:, None, None, None]
        )
        made = sample(label, places, label=True)
        image = sample(label.astype(np.float32), places, label=False)
        assert set(np.unique(made)) <= {0, 255}
        assert image[made > 0].mean() > 220 and image[made == 0].mean() < 35


def test_thick_slices_are_turned_and_bent_in_mm():
    """A grid of 1 mm and one of thick slices show the same turn and bend of the same organ."""
    fine, thick = (64, 64, 64), (64, 64, 16)
    for seed in range(10):
        one, other = (np.random.default_rng(seed) for _ in range(2))
        cube = draw_places(fine, one, (1.0, 1.0, 1.0))
        slab = (
            draw_places(thick, other, (1.0, 1.0, 4.0)) * np.float32([1, 1, 4])[:, None, None, None]
        )
        # The corners and the centre of the patch, whose voxels are at other places by half a voxel.
        apart = slab[..., 7:9].mean(-1) - cube[..., 31:33].mean(-1)
        assert np.abs(apart).max() < 0.5
        steps = np.diff(slab, axis=3).reshape(3, -1).mean(1)
        assert 2.2 < steps[2] < 6.2 and np.abs(steps[:2]).max() < 2.6


def test_equal_spacing_changes_no_bit():
    for size, mm in (((24, 20, 16), 0.7), ((30, 18), 1.3)):
        one, other = (np.random.default_rng(0) for _ in range(2))
        assert np.array_equal(draw_places(size, one), draw_places(size, other, [mm] * len(size)))


@pytest.mark.parametrize("size", [(40, 32), (40, 32, 24)])
def test_patches_are_zoomed_turned_and_bent_a_little(size):
    rng = np.random.default_rng(0)
    along = []
    for _ in range(40):
        places = draw_places(size, rng)
        assert places.shape == (len(size), *size) and places.dtype == np.float32
        # Steps from voxel to voxel along the first axis: its zoom, and the turn into the second.
        step = np.diff(places, axis=1).reshape(len(size), -1).mean(1)
        along.append(step)
        # No axis is mirrored or exchanged with another.
        for axis in range(len(size)):
            steps = np.diff(places, axis=axis + 1).reshape(len(size), -1).mean(1)
            assert steps[axis] > 0.6 and np.abs(np.delete(steps, axis)).max() < 0.65
    lengths = np.linalg.norm(along, axis=1)
    assert lengths.min() > 0.7 and lengths.max() < 1.4 and np.std(lengths) > 0.05
    assert np.std([step[1] for step in along]) > 0.05
