"""The eight orientations: all of them, equally often, the identity among them."""

import numpy as np
import pytest

from semisam.data.loading.augmentation import (
    ORIENTATIONS,
    change_looks,
    draw_orientation,
    orient,
    shape_before,
)

PLANE = np.arange(6).reshape(2, 3)


def test_identity_is_orientation_zero():
    assert np.array_equal(orient(PLANE, 0), PLANE)


def test_eight_different_orientations():
    seen = {(orient(PLANE, o).shape, orient(PLANE, o).tobytes()) for o in range(ORIENTATIONS)}
    assert len(seen) == 8


def test_orientation_out_of_range_is_refused():
    with pytest.raises(ValueError, match="0 to 7, got 8"):
        orient(PLANE, 8)


def test_all_drawn_equally_often_identity_included():
    rng = np.random.default_rng(0)
    counts = np.bincount([draw_orientation(rng) for _ in range(8000)], minlength=8)
    assert counts.shape == (8,)
    assert abs(counts - 1000).max() < 130  # over four standard deviations


def test_channels_first_image_turns_like_its_label():
    volume = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    for orientation in range(ORIENTATIONS):
        turned = orient(np.stack([volume, -volume]), orientation, (1, 2))
        assert np.array_equal(turned[0], orient(volume, orientation))
        assert np.array_equal(turned[1], -orient(volume, orientation))


def test_third_axis_is_left_alone():
    volume = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    for orientation in range(ORIENTATIONS):
        turned = orient(volume, orientation)
        assert np.array_equal(turned[..., 1], orient(volume[..., 1], orientation))


def test_shape_before_gives_the_wanted_shape():
    for orientation in range(ORIENTATIONS):
        cut = np.zeros(shape_before((4, 6, 3), orientation))
        assert orient(cut, orientation).shape == (4, 6, 3)
        assert orient(np.zeros(shape_before((4, 6), orientation)), orientation).shape == (4, 6)


def test_orient_copies_nothing():
    for orientation in range(ORIENTATIONS):
        assert np.shares_memory(orient(PLANE, orientation), PLANE)


def test_looks_change_and_places_stay():
    rng = np.random.default_rng(0)
    image = np.zeros((2, 24, 20, 16), np.float32)
    image[:, 8:16, 6:14, 4:12] = 3.0
    seen = set()
    for _ in range(20):
        made = change_looks(image, rng)
        assert made.shape == image.shape and made.dtype == np.float32 and np.isfinite(made).all()
        for channel in made:
            assert channel[10:14, 8:12, 6:10].mean() > channel[:4].mean() + 2
        seen.add(round(float(made.std()), 4))
    assert len(seen) == 20
    flat = change_looks(np.ones((1, 4, 4, 4), np.float32), rng)
    assert np.allclose(flat, 1.0)


@pytest.mark.parametrize("end", [0, 1])
def test_contrast_is_a_gamma_that_keeps_the_range(end):
    """Without blur and noise, at both ends of the gammas."""

    class Ends:
        def uniform(self, low, high):
            return (low, high)[end] if low else 0.0  # the noise starts at 0

        def random(self):
            return 0.9

        def standard_normal(self, shape, kind):
            return np.ones(shape, kind)

    image = np.linspace(-2, 6, 24, dtype=np.float32).reshape(1, 4, 3, 2)
    made = change_looks(image, Ends())
    want = -2 + 8 * ((image + 2) / 8) ** (0.7, 1.4)[end]
    np.testing.assert_allclose(made, want, rtol=1e-5, atol=1e-5)
    assert made.min() == pytest.approx(-2) and made.max() == pytest.approx(6)
