"""Random fields that are the same on every machine."""

import numpy as np

from semisam.data.datasets.exact import ExactRandom, blurred, z_scored


def test_draws_are_uniform_and_normal():
    rng = ExactRandom(0, 0)
    uniform, normal = rng.uniforms((50_000,)), rng.normals((50_000,))
    assert abs(uniform.mean()) < 0.02
    assert abs(uniform.std() - 3**-0.5) < 0.01
    assert abs(normal.mean()) < 0.02
    assert abs(normal.std() - 1) < 0.02
    assert {rng.whole(2, 4) for _ in range(100)} == {2, 3, 4}


def test_streams_differ_by_seed_and_index():
    firsts = {ExactRandom(seed, index).uniform(0, 1) for seed in range(3) for index in range(3)}
    assert len(firsts) == 9
    assert ExactRandom(1, 2).uniform(0, 1) == ExactRandom(1, 2).uniform(0, 1)


def test_smooth_fields_are_bounded_and_smooth():
    field = ExactRandom(0, 0).smooth((40, 36, 20), 4)
    assert field.shape == (40, 36, 20)
    assert field.dtype == np.float32
    assert abs(field).max() <= 1
    assert field.std() > 0.1
    assert max(abs(np.diff(field, axis=axis)).max() for axis in range(3)) < 0.25


def test_blur_keeps_constants_and_spreads_a_point():
    assert np.array_equal(blurred(np.full((4, 5, 3), 2, np.float32)), np.full((4, 5, 3), 2))
    point = np.zeros((5, 5, 5), np.float32)
    point[2, 2, 2] = 64
    assert blurred(point)[2, 2, 2] == 8
    assert blurred(point)[1, 2, 3] == 2
    assert blurred(point).sum() == 64


def test_z_scores():
    scaled = z_scored(np.linspace(0, 1, 1001, dtype=np.float32))
    assert abs(scaled.mean()) < 1e-6
    assert abs(scaled.std() - 1) < 1e-6
