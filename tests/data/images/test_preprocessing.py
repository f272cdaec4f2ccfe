"""One orientation, one spacing, normal intensities, and the way back."""

import dataclasses
import itertools

import numpy as np
import pytest
import SimpleITK as sitk
from scan_files import OBLIQUE, scan

from semisam.core.errors import InputError, SemisamWarning
from semisam.data.images.files import Geometry
from semisam.data.images.preprocessing import Placement, Recipe

AS_IT_IS = Recipe(None, ("none",), crop="none")


def one_hot(label):
    return np.stack([label == value for value in range(3)]).astype(np.float32)


def directions():
    """All 48 orientations of the axes, each tilted a little."""
    tilt = np.reshape(OBLIQUE, (3, 3))
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            yield tuple((tilt @ np.eye(3)[:, order] * signs).ravel())


def test_orientation_is_that_of_simpleitk():
    array = scan(0)[0].astype(np.float32)
    for direction in directions():
        image = sitk.GetImageFromArray(array.T)
        image.SetSpacing((0.7, 1.0, 2.5))
        image.SetOrigin((1.0, 2.0, 3.0))
        image.SetDirection(direction)
        want = sitk.DICOMOrient(image, "LPS")
        geometry = Geometry((0.7, 1.0, 2.5), (1.0, 2.0, 3.0), direction)
        got, placed, _ = AS_IT_IS.apply(array[None], geometry)
        assert np.array_equal(got[0], sitk.GetArrayFromImage(want).T)
        assert placed.spacing == pytest.approx(want.GetSpacing())
        assert placed.origin == pytest.approx(want.GetOrigin())
        assert placed.direction == pytest.approx(want.GetDirection())


def test_a_label_returns_to_its_file():
    image, label = scan(1)
    image[:3] = 0  # padding
    label[:3] = 0
    for direction in directions():
        geometry = Geometry((0.7, 1.0, 2.5), (1.0, 2.0, 3.0), direction)
        recipe = Recipe(None, ("mr",))
        array, _, placement = recipe.apply(image[None].astype(np.float32), geometry)
        assert array.size < image.size
        assert Placement.from_json(placement.to_json()) == placement
        back = placement.classes(one_hot(placement.label(label)))
        assert np.array_equal(back, label)
        assert placement.geometry == geometry


@pytest.mark.parametrize("spacing", [None, (0.9, 1.4, 7.0)])
def test_a_single_slice_is_a_picture_and_returns_as_a_volume(spacing):
    """Of a slice in every orientation: the same picture, and a mask on the file's grid."""
    label = np.zeros((30, 26, 1), np.uint8)
    label[5:20, 6:18] = 1
    image, pictures = sitk.GetImageFromArray(label.T), []
    for order in itertools.permutations(("RL", "AP", "IS")):
        for code in itertools.product(*order):
            turned = sitk.GetArrayFromImage(sitk.DICOMOrient(image, "".join(code))).T
            where = sitk.DICOMOrient(image, "".join(code))
            geometry = Geometry(where.GetSpacing(), where.GetOrigin(), where.GetDirection())
            recipe = Recipe(spacing, ("none",), flat=2)
            picture, own, placement = recipe.apply(turned[None].astype(np.float32), geometry)
            assert picture.shape[1:] == placement.size and own.spacing == placement.spacing
            assert Placement.from_json(placement.to_json()) == placement
            assert Recipe.from_json(dataclasses.asdict(recipe)) == recipe
            drawn = placement.label(turned)
            assert drawn.shape == picture.shape[1:]
            probs = np.stack([drawn == 0, drawn == 1]).astype(np.float32)
            back = placement.classes(probs)
            assert back.shape == turned.shape and placement.geometry == geometry
            assert np.array_equal(back, placement.probabilities(probs).argmax(0))
            assert np.mean(back == turned) > (0.98 if spacing else 1 - 1e-9)
            inside = tuple(int(index.mean()) for index in np.nonzero(turned))
            voxel = placement.voxel(inside)
            assert len(voxel) == 2 and drawn[voxel] == 1
            pictures.append(picture)
    assert len(pictures) == 48 and all(np.array_equal(p, pictures[0]) for p in pictures)


def test_a_volume_among_single_slices_is_refused():
    recipe = Recipe(None, ("none",), crop="none", flat=2)
    with pytest.raises(InputError, match=r"must be a single slice.* got \(8, 8, 3\)"):
        recipe.apply(np.ones((1, 8, 8, 3), np.float32), Geometry((1.0, 1.0, 4.0)))


@pytest.mark.parametrize("spacing", [(0.5, 0.5, 0.5), (1.3, 1.1, 2.0)])
def test_a_resampled_label_returns_nearly(spacing):
    label = np.zeros((30, 26, 14), np.uint8)
    label[5:20, 6:18, 3:10] = 1
    label[20:25, 6:18, 3:10] = 2
    geometry = Geometry((1.0, 0.9, 2.0), (5.0, 0.0, -3.0), OBLIQUE)
    _, placed, placement = Recipe(spacing, ("none",), crop="none").apply(
        label[None].astype(np.float32), geometry
    )
    assert placed.spacing == spacing
    assert placement.geometry == geometry
    probs = one_hot(placement.label(label))
    back = placement.classes(probs)
    assert np.array_equal(back, placement.probabilities(probs).argmax(0))
    for value in (1, 2):
        both = np.sum((back == value) & (label == value))
        assert 2 * both / (np.sum(back == value) + np.sum(label == value)) > 0.9


def test_a_point_stays_in_its_place():
    """A linear ramp along the patient's left is the same ramp on any grid."""
    size, direction = (16, 14, 12), np.reshape(OBLIQUE, (3, 3))
    geometry = Geometry((1.0, 1.2, 2.0), (10.0, 20.0, 30.0), OBLIQUE)
    at = np.indices(size).reshape(3, -1) * np.array(geometry.spacing)[:, None]
    left = (direction @ at + np.array(geometry.origin)[:, None])[0].reshape(size)
    image, placed, _ = Recipe((0.8, 0.8, 1.0), ("none",)).apply(
        left[None].astype(np.float32), geometry
    )
    turn = np.reshape(placed.direction, (3, 3))
    at = np.indices(image.shape[1:]).reshape(3, -1) * np.array(placed.spacing)[:, None]
    want = (turn @ at + np.array(placed.origin)[:, None])[0].reshape(image.shape[1:])
    inside = (slice(3, -3),) * 3  # at the rim the ramp is continued as a constant
    assert np.allclose(image[0][inside], want[inside], atol=1e-4)


def test_intensities():
    rng = np.random.default_rng(0)
    array = np.stack([rng.normal(300, 40, (9, 9, 9)) for _ in range(3)]).astype(np.float32)
    array[1] = rng.uniform(-1000, 1000, (9, 9, 9))
    recipe = Recipe(None, ("mr", "ct", "none"), (-100.0, 300.0), "none")
    image, _, _ = recipe.apply(array, Geometry((1.0, 1.0, 1.0)))
    assert image[0].mean() == pytest.approx(0, abs=1e-5)
    assert image[0].std() == pytest.approx(1, abs=1e-5)
    assert image[1].min() == -1.0 and image[1].max() == 1.0
    middle = np.abs(array[1]) < 100
    assert np.allclose(image[1][middle], (array[1][middle] - 100) / 200, atol=1e-5)
    assert np.array_equal(image[2], array[2])


def test_ct_that_nobody_stated_is_noted(recwarn):
    air = np.full((1, 4, 4, 4), -1000, np.float32)
    for modality in ("ct", "none"):
        Recipe(None, (modality,)).place(air, PLAIN)
    Recipe(None, ("mr",)).place(air / 10, PLAIN)
    assert not recwarn
    with pytest.warns(SemisamWarning, match=r"low as those of air in CT.*modality=ct"):
        Recipe(None, ("mr",)).place(air, PLAIN)


def test_an_image_of_one_value_does_not_become_nan():
    image, _, _ = Recipe(None, ("mr",)).apply(np.full((1, 4, 4, 4), 7.0, np.float32), PLAIN)
    assert not image.any()


PLAIN = Geometry((1.0, 1.0, 1.0))


def test_image_and_label_are_resampled_both_or_neither():
    """Spacings that differ too little for another size still move the far edge."""
    label = np.zeros((100, 4, 4), np.uint8)
    label[97:99] = 1
    image, _, placement = Recipe((1.0049, 1.0, 1.0), ("none",), crop="none").apply(
        label[None].astype(np.float32), Geometry((1.0, 1.0, 1.0))
    )
    assert placement.resampled and placement.size == label.shape
    assert np.array_equal(placement.label(label), image[0] > 0.5)
    same = AS_IT_IS.apply(image, Geometry((1.0, 1.0, 1.0)))[2]
    assert not same.resampled and np.array_equal(same.label(label), label)


def test_a_channel_without_contrast_does_not_decide_the_crop():
    array = np.zeros((2, 8, 8, 8), np.float32)
    array[0, 2:6, 3:5, 1:4] = 100
    array[1] = 7
    placement = Recipe(None, ("mr", "mr"), crop="body").place(array, Geometry((1.0, 1.0, 1.0)))
    assert placement.box == ((2, 6), (3, 5), (1, 4))


def test_each_voxel_of_a_crop_has_a_voxel_of_the_image():
    """Also the last one, where the size of the image was rounded down."""
    array = np.zeros((1, 12, 14, 8), np.float32)
    array[0, :, 3:10] = 1
    recipe = Recipe((1.0, 1.0, 1.0), ("mr",))
    for direction in (None, (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)):
        placement = recipe.place(array, Geometry((0.7, 0.7, 0.7), None, direction))
        voxels = [placement.voxel((11, at, 7)) for at in range(14)]
        assert [voxel is None for voxel in voxels] == [not 3 <= at < 10 for at in range(14)]
        inside = [voxel for voxel in voxels if voxel is not None]
        assert all(
            0 <= v < n for voxel in inside for v, n in zip(voxel, placement.size, strict=True)
        )


def test_crops_follow_the_image():
    array = np.full((1, 12, 12, 12), 10.0, np.float32)
    array[0, 3:9, 3:9, 3:9] = 100.0
    array[0, :, :, :2] = 0.0
    padding = Recipe(None, ("mr",), crop="padding").apply(array, PLAIN)[2]
    body = Recipe(None, ("mr",), crop="body").apply(array, PLAIN)[2]
    assert padding.size == (12, 12, 10)
    assert body.size == (6, 6, 6)
    air = np.where(array > 50, 40.0, -1000.0).astype(np.float32)
    assert Recipe(None, ("ct",), crop="body").apply(air, PLAIN)[2].size == (6, 6, 6)
    label = np.zeros((12, 12, 12), np.uint8)
    label[1] = 1
    with pytest.raises(InputError, match=r"inside the crop.*option crop to none"):
        body.label(label)


def test_an_image_that_no_memory_holds_is_refused():
    array, metres = np.zeros((1, 24, 24, 24), np.float32), Geometry((1000.0, 1000.0, 1000.0))
    pattern = (
        r"must fit into memory at the training spacing, got 24000 x 24000 x 24000 voxels at "
        r"1 x 1 x 1 mm \(51498.4 GiB, .* are free\) of a scan at 1000 x 1000 x 1000 mm\. Check the "
        r"unit and the spacing"
    )
    for call in (Recipe((1.0, 1.0, 1.0), ("mr",)).place, Recipe((1.0,) * 3, ("mr",)).apply):
        with pytest.raises(InputError, match=pattern):
            call(array, metres)
    with pytest.raises(InputError, match="inf GiB"):
        Recipe((1.0, 1.0, 1.0), ("mr",)).place(array, Geometry((1e200, 1e200, 1.0)))
    assert Recipe(None, ("mr",)).place(array, metres).size == (24, 24, 24)


def test_another_number_of_channels_is_refused():
    with pytest.raises(InputError, match=r"2 channel\(s\), got 1"):
        Recipe(None, ("mr", "mr")).apply(np.zeros((1, 3, 3, 3), np.float32), PLAIN)
