"""The phantom: the same everywhere, connected, of a sensible size, not solved by a threshold."""

import numpy as np
import pytest
from scipy import ndimage

from semisam.core.errors import InputError
from semisam.data.datasets.phantom import Phantom, make_case
from semisam.data.loading.store import array_hash

IMAGE_HASH = "0389ce9bda907bcd0fbf0c82c49388b7809a272e84d9de2a09801e3f03ffaa97"
LABEL_HASH = "ede164e2291aa1236fd78746970aeb42572929426f07f008e98af264bf4e9466"


@pytest.fixture(scope="module")
def scans():
    return [make_case(0, index) for index in range(24)]


def test_the_same_on_every_machine():
    image, label = make_case(0, 0)
    assert array_hash(label) == LABEL_HASH
    assert array_hash(image) == IMAGE_HASH


def test_a_case_is_a_function_of_seed_and_index():
    image, label = make_case(3, 5)
    again, label_again = make_case(3, 5)
    assert np.array_equal(image, again)
    assert np.array_equal(label, label_again)
    assert array_hash(make_case(3, 6)[0]) != array_hash(image)
    assert array_hash(make_case(4, 5)[0]) != array_hash(image)


def test_test_cases_do_not_depend_on_the_number_of_training_cases():
    few, many = Phantom(cases=2), Phantom(cases=20)
    assert np.array_equal(few.image("test_001").array, many.image("test_001").array)
    assert not np.array_equal(few.label("test_000"), few.label("train_000"))


def test_shapes_and_normalisation(scans):
    assert len({image.shape for image, _ in scans}) > 5
    for image, label in scans:
        assert image.shape == label.shape
        assert image.dtype == np.float32
        assert abs(image.mean(dtype=np.float64)) < 1e-5
        assert abs(image.std(dtype=np.float64) - 1) < 1e-5


def test_the_atrium_is_one_piece_of_5_to_15_percent(scans):
    for _, label in scans:
        assert 0.05 <= (label == 1).mean() <= 0.15
        pieces, count = ndimage.label(label == 1)
        assert np.bincount(pieces.ravel())[1:].max() > 0.99 * (label == 1).sum(), count


def test_every_structure_is_in_every_scan(scans):
    for _, label in scans:
        assert all((label == number).mean() > 0.01 for number in range(1, 5))


def test_no_threshold_finds_the_atrium(scans):
    for image, label in scans[:8]:
        truth = label == 1
        low, high = np.quantile(image[truth], (0.05, 0.95))
        found = (image > low) & (image < high)
        assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) < 0.7


def test_neighbours_are_as_bright_as_the_atrium(scans):
    for image, label in scans:
        levels = [np.median(image[label == number]) for number in range(1, 5)]
        assert max(levels) - min(levels) < 1.2


@pytest.mark.parametrize("classes", [2, 3, 4, 5])
def test_classes(classes):
    data = Phantom(cases=1, classes=classes)
    assert set(np.unique(data.label("train_000"))) == set(range(classes))
    assert len(data.class_names) == data.num_classes == classes
    assert data.label("train_000").shape == data.image("train_000").array.shape[1:]


@pytest.mark.parametrize(
    ("organs", "digest"),
    [
        ("halves", "0389ce9bda907bcd546e2308aed59766"),
        ("gland", "629b17ac58a3d4a8e0164ed26e559e71"),
        ("pair", "8ca7a665f582c16f7be7602624526bf8"),
    ],
)
def test_other_organs_are_the_same_on_every_machine(organs, digest):
    image, label = make_case(0, 0, organs=organs)
    assert array_hash(image)[:16] + array_hash(label)[:16] == digest


def test_halves_differ_by_their_place_alone():
    for index in range(8):
        image, label = make_case(0, index, organs="halves")
        heart, atrium = make_case(0, index)
        assert np.array_equal(image, heart)
        assert np.array_equal(label > 0, atrium == 1)
        near, far = (ndimage.center_of_mass(label == number) for number in (1, 2))
        assert near[0] < far[0]
        touching = ndimage.binary_dilation(label == 1) & (label == 2)
        assert touching.sum() > 50


def test_a_gland_is_small_and_one_piece():
    for index in range(24):
        _, label = make_case(0, index, organs="gland")
        assert 0.003 <= (label == 1).mean() <= 0.01
        assert ndimage.label(label == 1)[1] == 1


def test_a_pair_is_alike_on_both_sides():
    shares, levels = [], []
    for index in range(24):
        image, label = make_case(0, index, organs="pair")
        left, right = label == 1, label == 2
        assert not (ndimage.binary_dilation(left) & right).any()
        assert ndimage.center_of_mass(left)[0] < label.shape[0] / 2
        assert ndimage.center_of_mass(right)[0] > label.shape[0] / 2
        shares.append(left.sum() / right.sum())
        levels.append(image[left].mean() > image[right].mean())
    assert 0.6 < min(shares) < 1 < max(shares) < 1.7
    assert 0 < np.mean(levels) < 1


def test_the_contract():
    data = Phantom(cases=3, test_cases=2)
    assert data.split().train == ("train_000", "train_001", "train_002")
    assert data.split().test == ("test_000", "test_001")
    assert all(n % 16 == 0 for n in data.suggested["patch"])
    assert data.image("train_000").geometry.spacing == (1.25,) * 3
    assert not Phantom.recognises(None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cases": 0}, "cases of the phantom must be from 1"),
        ({"classes": 6}, "classes of the phantom must be from 2 to 5, got 6"),
        ({"classes": 4, "organs": "gland"}, "classes of the phantom must be from 2 to 3, got 4"),
        ({"seed": -1}, "seed of the phantom"),
        ({"size": 8}, "from 32"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(InputError, match=message):
        Phantom(**options)


def test_in_two_dimensions_a_case_is_the_slice_of_the_largest_atrium():
    data = Phantom(cases=2, test_cases=1, ndim=2)
    image, label = make_case(0, 1)
    area = (label == 1).sum((0, 1))
    assert np.array_equal(data.image("train_001").array[0], image[..., area.argmax()])
    assert (data.label("train_001") == 1).sum() == area.max() > 0
    assert data.suggested["patch"] == (48, 48)


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_canvas_moves_image_and_label_together(ndim):
    plain, moved = Phantom(cases=3, ndim=ndim), Phantom(cases=3, ndim=ndim, canvas=1.4)
    for case in plain.split().train:
        image, label = plain.image(case).array[0], plain.label(case)
        shape = tuple(round(1.4 * n) for n in image.shape)
        assert moved.image(case).array.shape == (1, *shape) and moved.label(case).shape == shape
        assert np.array_equal(moved.image(case).array[0][moved.label(case) > 0], image[label > 0])
