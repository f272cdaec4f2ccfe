"""Surface metrics against MedPy's numbers and against their definitions."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from semisam.core.types import IGNORE
from semisam.metrics.scores import (
    classes_by_components,
    evaluate_labelmap,
    evaluate_mask,
    largest_component,
    largest_components,
    surface_dice,
)

SPACINGS = ((1.0, 1.0, 1.0), (0.625, 0.625, 0.625), (1.5, 1.0, 3.0), (0.61, 0.73, 1.1))


def brute_border(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Foreground voxels with a face neighbour that is background or outside the volume.

    Across a volume of one slice there is no neighbour.
    """
    found = []
    across = mask.shape.index(1) if mask.ndim == 3 and 1 in mask.shape else None
    axes = [axis for axis in range(mask.ndim) if axis != across]
    for voxel in np.argwhere(mask):
        for axis, step in itertools.product(axes, (-1, 1)):
            near = voxel.copy()
            near[axis] += step
            if not 0 <= near[axis] < mask.shape[axis] or not mask[tuple(near)]:
                found.append(voxel)
                break
    return np.array(found)


def brute_metrics(pred, ref, spacing):
    borders = [brute_border(m) * np.asarray(spacing) for m in (pred, ref)]
    table = np.linalg.norm(borders[0][:, None] - borders[1][None], axis=-1)
    there, back = table.min(axis=1), table.min(axis=0)
    pooled = sorted([*there, *back])
    rank = 0.95 * (len(pooled) - 1)
    low, high = pooled[math.floor(rank)], pooled[math.ceil(rank)]
    hd95 = low + (high - low) * (rank - math.floor(rank))
    both, either = (pred & ref).sum(), (pred | ref).sum()
    dice = 2 * both / (pred.sum() + ref.sum())
    return dice, both / either, hd95, there.mean(), np.mean(pooled)


def blob(shape, seed, radius, flips=0.0):
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), 3)
    grid = np.indices(shape)
    centre = [n / 2 for n in shape]
    distance = sum(((g - c) / radius) ** 2 for g, c in zip(grid, centre, strict=True))
    return (distance + 0.3 * noise / noise.std() < 1) ^ (rng.random(shape) < flips)


def figures(pred, ref, spacing):
    found = evaluate_mask(pred, ref, spacing)
    return found.dice, found.jaccard, found.hd95_mm, found.asd_mm, found.assd_mm


@st.composite
def mask_pairs(draw):
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=2, max_size=3)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pair = []
    for density in (draw(st.floats(0, 1)), draw(st.floats(0, 1))):
        mask = rng.random(shape) < density
        if draw(st.booleans()):  # solid, so that borders and insides differ
            mask = ndimage.binary_dilation(mask)
        mask[tuple(rng.integers(n) for n in shape)] = True
        pair.append(mask)
    steps = st.sampled_from([0.5, 0.61, 0.625, 1.0, 1.5, 3.0])
    return pair[0], pair[1], tuple(draw(steps) for _ in shape)


@settings(max_examples=150, deadline=None)
@given(mask_pairs())
def test_equals_the_definitions(case):
    pred, ref, spacing = case
    expected = brute_metrics(pred, ref, spacing)
    assert figures(pred, ref, spacing) == pytest.approx(expected, abs=1e-9)
    ours = evaluate_mask(pred, ref, spacing)
    voxel = brute_metrics(pred, ref, (1,) * pred.ndim)
    assert (ours.hd95_voxel, ours.asd_voxel, ours.assd_voxel) == pytest.approx(voxel[2:], abs=1e-9)


@pytest.mark.parametrize("across", [0, 1, 2])
def test_a_volume_of_one_slice_is_measured_as_a_picture(across):
    pred, ref = blob((40, 36), 1, 9), blob((40, 36), 2, 12)
    volume = [np.expand_dims(mask, across) for mask in (pred, ref)]
    mm, thick = (0.7, 1.3), list((0.7, 1.3))
    thick.insert(across, 5.0)
    assert evaluate_mask(*volume, thick) == evaluate_mask(pred, ref, mm)
    assert surface_dice(*volume, thick, (1.0, 2.0)) == surface_dice(pred, ref, mm, (1.0, 2.0))
    nothing = np.zeros_like(volume[0])
    assert evaluate_mask(nothing, volume[1], thick) == evaluate_mask(nothing.squeeze(), ref, mm)


def test_equals_the_published_numbers(shared: Path):
    golden = np.load(shared / "goldens" / "medpy_metrics.npz")
    shape = tuple(golden["shape"])
    for row in golden["rows"]:
        pred, ref = (
            np.unpackbits(golden[f"{name}_{int(row[0])}"], count=math.prod(shape))
            .reshape(shape)
            .astype(bool)
            for name in ("pred", "ref")
        )
        np.testing.assert_allclose(figures(pred, ref, row[1:4]), row[4:9], atol=1e-6, rtol=0)


# Blobs that nearly agree, blobs far apart, islands, and speckle over the whole volume: together
# with the spacings they reach every way in which distances are found.
PAIRS = {
    "near": (blob((50, 44, 40), 1, 14), blob((50, 44, 40), 2, 14)),
    "inside": (blob((60, 60, 60), 1, 5), blob((60, 60, 60), 2, 25)),
    "speckled": (blob((50, 44, 40), 1, 14, 0.02), blob((50, 44, 40), 2, 14)),
    "noise": (blob((50, 44, 40), 1, 14, 0.4), blob((50, 44, 40), 2, 14)),
    "apart": (np.roll(blob((99, 40, 40), 1, 9), 35, 0), np.roll(blob((99, 40, 40), 2, 9), -35, 0)),
    "cut": (blob((20, 20, 20), 1, 14), blob((20, 20, 20), 2, 15)),
}


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", PAIRS)
def test_equals_medpy(name, spacing):
    binary = pytest.importorskip("medpy.metric.binary")
    pred, ref = PAIRS[name]
    expected = [binary.dc(pred, ref), binary.jc(pred, ref)]
    for metric in (binary.hd95, binary.asd, binary.assd):
        expected.append(metric(pred, ref, voxelspacing=spacing))
    np.testing.assert_allclose(figures(pred, ref, spacing), expected, atol=1e-9, rtol=0)


def test_asd_is_directed_and_hd95_is_not():
    pred, ref = np.zeros((2, 30, 30), dtype=bool)
    pred[5:10, 5:10] = True
    ref[5:10, 5:25] = True
    there, back = evaluate_mask(pred, ref, (1, 1)), evaluate_mask(ref, pred, (1, 1))
    assert there.asd_mm < back.asd_mm
    assert there.hd95_mm == back.hd95_mm
    assert there.assd_mm == back.assd_mm


def test_memory_order_and_place_in_the_volume_do_not_matter():
    pred, ref = PAIRS["near"]
    expected = evaluate_mask(pred, ref, SPACINGS[3])
    assert evaluate_mask(np.asfortranarray(pred), ref, SPACINGS[3]) == expected
    moved = [np.pad(m, ((7, 1), (0, 3), (2, 0))) for m in (pred, ref)]
    assert evaluate_mask(*moved, SPACINGS[3]) == expected


@pytest.mark.parametrize("shape", [(6, 8), (6, 8, 4)])
def test_an_empty_mask_is_never_perfect(shape):
    spacing = (2.0, 0.5, 3.0)[: len(shape)]
    empty, full = np.zeros(shape, dtype=bool), np.ones(shape, dtype=bool)
    voxel = math.sqrt(sum(n**2 for n in shape))
    millimetre = math.sqrt(sum((n * s) ** 2 for n, s in zip(shape, spacing, strict=True)))
    for pred, ref in ((empty, full), (full, empty)):
        got = evaluate_mask(pred, ref, spacing)
        assert (got.dice, got.jaccard) == (0, 0)
        assert (got.hd95_voxel, got.asd_voxel, got.assd_voxel) == pytest.approx((voxel,) * 3)
        assert (got.hd95_mm, got.asd_mm, got.assd_mm) == pytest.approx((millimetre,) * 3)
        assert (got.empty_prediction, got.empty_reference) == (pred is empty, ref is empty)
    both = evaluate_mask(empty, empty, spacing)
    assert (both.dice, both.jaccard, both.hd95_mm, both.asd_voxel) == (1, 1, 0, 0)
    assert both.empty_prediction and both.empty_reference


def test_equal_masks_are_perfect():
    got = evaluate_mask(PAIRS["near"][0], PAIRS["near"][0], SPACINGS[2])
    assert (got.dice, got.jaccard, got.hd95_mm, got.asd_mm, got.assd_mm) == (1, 1, 0, 0, 0)


def test_refuses_what_does_not_fit():
    mask = np.ones((4, 5, 6), dtype=bool)
    with pytest.raises(ValueError, match=r"one shape, got \(4, 5, 6\) and \(4, 5, 5\)"):
        evaluate_mask(mask, mask[..., 1:], (1, 1, 1))
    with pytest.raises(ValueError, match="3 positive numbers"):
        evaluate_mask(mask, mask, (1, 1))
    with pytest.raises(ValueError, match="positive"):
        evaluate_mask(mask, mask, (1, 0, 1))
    with pytest.raises(ValueError, match="two or three"):
        evaluate_mask(mask[0, 0], mask[0, 0], (1,))


def test_labelmap_scores_each_foreground_class():
    ref = np.zeros((12, 12, 12), dtype=np.int64)
    ref[2:6] = 1
    ref[7:10] = 2
    pred = np.where(ref == 1, 1, 0)
    first, second, third = evaluate_labelmap(pred, ref, 4, (1, 1, 1))
    assert first.dice == 1 and not first.empty_prediction
    assert second.dice == 0 and second.empty_prediction and not second.empty_reference
    assert third.empty_prediction and third.empty_reference


def test_largest_component_joins_corners_and_drops_islands():
    mask = np.zeros((10, 10, 10), dtype=bool)
    mask[1:3, 1:3, 1:3] = True
    mask[3, 3, 3] = True  # touches by a corner
    joined = mask.copy()
    mask[7:9, 7:9, 7:8] = True
    np.testing.assert_array_equal(largest_component(mask), joined)
    np.testing.assert_array_equal(largest_component(joined), joined)
    assert not largest_component(np.zeros_like(mask)).any()
    np.testing.assert_array_equal(largest_component(mask[2]), joined[2])


def test_of_equal_components_the_first_stays():
    mask = np.array([[True, False, True]])
    np.testing.assert_array_equal(largest_component(mask), [[True, False, False]])


def test_largest_components_treats_each_class_alone():
    labelmap = np.array([[1, 1, 0, 2, 0, 1, 2, 2, 2]], dtype=np.uint8)
    kept = largest_components(labelmap, [1, 2])
    np.testing.assert_array_equal(kept, [[1, 1, 0, 0, 0, 0, 2, 2, 2]])
    assert kept.dtype == np.uint8
    np.testing.assert_array_equal(largest_components(labelmap, [2]), [[1, 1, 0, 0, 0, 1, 2, 2, 2]])


def test_a_class_is_one_component_if_it_is_in_every_label_map_that_holds_it():
    whole, apart = np.zeros((2, 40, 40), np.uint8)
    whole[:20, :10], whole[:20, 20:] = 1, 2
    apart[:20, :10], apart[30:, 20:30] = 1, 1
    assert classes_by_components([whole], 4) == ((1, 2), ())  # no map holds class 3
    assert classes_by_components([whole, apart], 4) == ((2,), (1,))
    whole[30, :2] = 1
    assert classes_by_components([whole], 4) == ((1, 2), ()), "1 % of stray voxels"
    arch = np.zeros((8, 8, 2), np.uint8)
    arch[:3, :, 1] = arch[6:, :, 1] = arch[:, :3, 0] = 1  # joined in the other slice
    assert classes_by_components([arch], 2) == ((1,), ())
    assert classes_by_components([arch], 2, axes=2) == ((), (1,))
    whole[30, :3] = 1
    assert classes_by_components([whole], 4) == ((2,), (1,))


def test_ignored_voxels_are_in_neither_mask():
    rng = np.random.default_rng(0)
    pred, ref = (rng.integers(0, 3, (9, 8, 7)).astype(np.uint8) for _ in range(2))
    partly = ref.copy()
    partly[:, 4:] = IGNORE
    scores = evaluate_labelmap(pred, partly, 3, (1.5, 1.0, 3.0))
    for k, score in enumerate(scores, start=1):
        masks = [np.where(partly == IGNORE, False, volume == k) for volume in (pred, ref)]
        assert score == evaluate_mask(*masks, (1.5, 1.0, 3.0))
    changed = pred.copy()
    changed[:, 4:] = 1
    assert evaluate_labelmap(changed, partly, 3, (1.5, 1.0, 3.0)) == scores


@pytest.mark.parametrize("spacing", SPACINGS)
def test_surface_dice_counts_border_voxels_near_the_other_border(spacing):
    pred, ref = blob((14, 12, 10), 1, 4), blob((14, 12, 10), 2, 3)
    borders = [brute_border(m) * np.asarray(spacing) for m in (pred, ref)]
    table = np.linalg.norm(borders[0][:, None] - borders[1][None], axis=-1)
    pooled = np.concatenate([table.min(axis=1), table.min(axis=0)])
    tolerances = (0.0, spacing[0], 2.0)
    wanted = [np.mean(pooled <= most + 1e-6) for most in tolerances]
    assert surface_dice(pred, ref, spacing, tolerances) == pytest.approx(wanted)


def test_surface_dice_of_empty_masks():
    full, empty = np.ones((4, 4), bool), np.zeros((4, 4), bool)
    assert surface_dice(full, empty, (1, 1), (1.0, 2.0)) == (0.0, 0.0)
    assert surface_dice(empty, empty, (1, 1), (1.0,)) == (1.0,)
    assert surface_dice(full, full, (1, 1), (0.0,)) == (1.0,)
