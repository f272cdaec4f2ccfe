"""Batches as a pure function of (seed, step)."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch

from semisam.core.errors import InputError
from semisam.core.types import IGNORE
from semisam.data.datasets.dataset import Dataset, Image, Split
from semisam.data.images.files import Geometry
from semisam.data.loading.augmentation import orient
from semisam.data.loading.sampling import BatchPlan, BatchSource, plan_batch
from semisam.data.loading.store import VolumeStore
from semisam.training.accumulation import micro_batches


class Coded(Dataset):
    """Every voxel's value is its own place: case number and flat index, in image and label."""

    name = "coded"

    def __init__(self, shapes, channels=1):
        super().__init__()
        self.shapes = shapes
        self.num_classes, self.channels, self.channel_names = 256, channels, ("mr",)

    def split(self):
        return Split(tuple(self.shapes), ())

    def image(self, case):
        shape = self.shapes[case]
        flat = np.arange(1, 1 + np.prod(shape), dtype=np.float32).reshape(shape)
        return Image(
            np.stack([flat + channel * 1e5 for channel in range(self.channels)]),
            Geometry(spacing=(0.5, 1.0, 2.0)[: len(shape)]),
            has_geometry=False,
        )

    def label(self, case):
        shape = self.shapes[case]
        return (np.arange(1, 1 + np.prod(shape)) % 251).astype(np.uint8).reshape(shape)

    def has_label(self, case):
        return True

    def source(self, case):
        return f"{case}.nii"


def make_source(shapes, labeled, plan, patch, *, seed=0, augment="orientation", channels=1):
    cases = tuple(shapes)
    store = VolumeStore(
        Coded(shapes, channels), labeled=cases[:labeled], unlabeled=cases[labeled:], test=()
    )
    return BatchSource(
        store, store.labeled, store.unlabeled, plan, patch, seed=seed, augment=augment
    )


SHAPES = {f"c{n}": (10 + n, 9, 8) for n in range(7)}


def equal(one, two):
    return one.image.equal(two.image) and one.label.equal(two.label)


# The plan


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((4, 4, 76, True), (2, 2)),
        ((4, 1, 79, True), (1, 3)),
        ((4, 4, 76, False), (2, 0)),
        ((4, 1, 79, False), (1, 0)),
        ((4, 80, 0, True), (4, 0)),
        ((4, 80, 0, False), (4, 0)),
        ((2, 8, 8, True), (1, 1)),
        ((5, 8, 8, True), (2, 3)),
        ((4, 4, 76, True, 1), (1, 3)),
        ((4, 1, 79, True, 3), (1, 3)),
        ((4, 4, 76, False, 1), (1, 0)),
        ((4, 80, 0, True, 1), (4, 0)),
    ],
)
def test_plan(arguments, expected):
    plan = plan_batch(*arguments)
    assert (plan.labeled, plan.unlabeled) == expected


def test_plan_refuses_what_cannot_be():
    with pytest.raises(InputError, match="labeled cases must be at least 1, got 0"):
        plan_batch(4, 0, 8, True)
    with pytest.raises(InputError, match="at least 2, got 1"):
        plan_batch(1, 4, 8, True)
    with pytest.raises(InputError, match="leave an unlabeled row in a batch of 4, got 4"):
        plan_batch(4, 4, 8, True, 4)


# The batch


def test_shapes_types_and_labeled_first():
    source = make_source(SHAPES, 2, BatchPlan(2, 3), (8, 6, 4), channels=2)
    for step in range(10):
        batch = source.batch(step)
        assert batch.image.shape == (5, 2, 8, 6, 4)
        assert batch.image.dtype == torch.float32
        assert batch.label.shape == (2, 8, 6, 4)
        assert batch.label.dtype == torch.int64
        cases = source.cases(step)
        assert set(cases[:2]) <= {"c0", "c1"}
        assert not set(cases[2:]) & {"c0", "c1"}


@pytest.mark.parametrize("augment", ["orientation", "mirrored", "none"])
def test_image_and_label_are_cut_and_turned_alike(augment):
    source = make_source(SHAPES, 2, BatchPlan(2, 1), (8, 6, 4), augment=augment)
    for step in range(20):
        batch = source.batch(step)
        assert torch.equal(batch.image[:2, 0].long() % 251, batch.label)


PLACES = [
    ("none", (8, 6, 4)),
    ("orientation", (12, 6, 4)),
    ("orientation", (8, 6)),
    ("strong", (12, 6, 4)),
    ("strong", (8, 6)),
]


@pytest.mark.parametrize(("augment", "patch"), PLACES)
def test_places_are_those_of_the_rows_and_change_no_row(augment, patch):
    plan = BatchPlan(2, 2)
    bare = make_source(SHAPES, 2, plan, patch, augment=augment)
    source = make_source(SHAPES, 2, plan, patch, augment=augment)
    source.places = True
    spacings = set()
    for step in range(12):
        batch, want = source.batch(step), bare.batch(step)
        assert equal(batch, want) and want.places is None and want.inside is None
        assert [place.case for place in batch.places] == list(source.cases(step))
        assert batch.inside.shape == (4, *patch) and batch.inside.dtype == torch.bool
        for row, place in enumerate(batch.places):
            shape, inside, image = SHAPES[place.case], batch.inside[row], batch.image[row, 0]
            assert len(place.centre) == 3 and len(place.spacing) == len(patch)
            assert place.channels == ("mr",)
            assert all(0 <= c <= n - 1 for c, n in zip(place.centre, shape, strict=True))
            spacings.add(place.spacing)
            if augment != "strong":
                assert torch.equal(inside, image > 0)
                found = np.unravel_index(image[inside].long().numpy() - 1, shape)
                middle = [(axis.min() + axis.max()) / 2 for axis in found]
                assert place.centre == pytest.approx(middle)
            elif row >= 2:  # the looks of labeled rows change
                assert not inside[image == 0].any()
                assert inside.any()
    turns = {(0.5, 1.0, 2.0)[: len(patch)], (1.0, 0.5, 2.0)[: len(patch)]}
    assert spacings == turns if augment == "orientation" else len(spacings) == 1


def test_places_go_with_their_rows_into_micro_batches():
    source = make_source(SHAPES, 2, BatchPlan(2, 2), (12, 6, 4))
    source.places = True
    batch = source.batch(3)
    for part in micro_batches(batch, 2):
        assert part.places == tuple(batch.places[row] for row in part.rows)
        assert torch.equal(part.inside, batch.inside[list(part.rows)])


def orientation_of(patch, shape):
    """The one orientation under which the coded patch is a plain crop of the volume."""
    flat = np.arange(1, 1 + np.prod(shape)).reshape(shape)
    found = []
    for orientation in range(8):
        place = np.argwhere(flat == patch.min())[0]
        sides = patch.shape[:2][::-1] if orientation % 2 else patch.shape[:2]
        window = [slice(p, p + n) for p, n in zip(place, (*sides, *patch.shape[2:]), strict=True)]
        cut = orient(flat[tuple(window)], orientation)
        if np.array_equal(cut, patch):
            found.append(orientation)
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(("shape", "patch"), [((9, 8, 5), (5, 3, 2)), ((9, 8), (5, 3))])
def test_all_eight_orientations_equally_often_identity_too(shape, patch):
    source = make_source({"a": shape, "b": shape}, 1, BatchPlan(1, 1), patch)
    counts = Counter()
    for step in range(400):
        for row in source.batch(step).image.numpy():
            counts[orientation_of(row[0], shape)] += 1
    assert set(counts) == set(range(8))
    assert max(abs(n - 100) for n in counts.values()) < 42  # over four standard deviations


def test_mirrored_are_the_published_orientations_equally_often():
    """Published: a quarter turn, then always a flip along the first or the second axis."""
    shape = (9, 8, 5)
    plane = np.arange(6).reshape(2, 3)
    flipped = [np.flip(np.rot90(plane, turn), axis) for turn in range(4) for axis in (0, 1)]
    published = {
        next(o for o in range(8) if np.array_equal(orient(plane, o), each)) for each in flipped
    }
    source = make_source({"a": shape}, 1, BatchPlan(1, 0), (5, 3, 2), augment="mirrored")
    counts = Counter(
        orientation_of(source.batch(step).image[0, 0].numpy(), shape) for step in range(400)
    )
    assert set(counts) == published and len(published) == 4
    assert max(abs(n - 100) for n in counts.values()) < 42


def test_without_augmentation_all_are_the_identity():
    source = make_source({"a": (9, 8, 5)}, 1, BatchPlan(1, 0), (5, 3, 2), augment="none")
    assert {
        orientation_of(source.batch(step).image[0, 0].numpy(), (9, 8, 5)) for step in range(30)
    } == {0}


def test_crops_reach_every_place_uniformly():
    source = make_source({"a": (5, 4, 4)}, 1, BatchPlan(1, 0), (3, 4, 4), augment="none")
    first = Counter(int(source.batch(step).image[0, 0, 0, 0, 0]) // 16 for step in range(600))
    assert set(first) == {0, 1, 2}
    assert max(abs(n - 200) for n in first.values()) < 50


def test_a_small_volume_is_padded_on_both_sides_up_to_the_patch():
    source = make_source({"a": (4, 6, 9)}, 1, BatchPlan(1, 0), (8, 8, 8), augment="none")
    batch = source.batch(0)
    image, label = batch.image[0, 0], batch.label[0]
    inner = image[2:6, 1:7]
    assert (inner > 0).all()
    assert (image > 0).sum() == inner.numel() == 4 * 6 * 8
    assert torch.equal(label, image.long() % 251)


def test_padding_and_turning_agree():
    source = make_source({"a": (4, 6, 9)}, 1, BatchPlan(1, 0), (8, 4, 8))
    for step in range(40):
        batch = source.batch(step)
        assert torch.equal(batch.image[0, 0].long() % 251, batch.label[0])
        # 4 x 6 cut to at most 8 x 4, or to at most 4 x 8 and then turned
        assert int((batch.image > 0).sum()) in (4 * 4 * 8, 4 * 6 * 8)


def test_two_dimensions():
    source = make_source({"a": (20, 17), "b": (15, 16)}, 1, BatchPlan(1, 1), (16, 16), channels=3)
    batch = source.batch(3)
    assert batch.image.shape == (2, 3, 16, 16)
    assert batch.label.shape == (1, 16, 16)


def test_a_patch_of_two_axes_is_cut_from_a_slice_of_a_volume():
    source = make_source({"a": (20, 17, 6), "b": (15, 16, 5)}, 1, BatchPlan(1, 1), (16, 12))
    seen = set()
    for step in range(30):
        batch = source.batch(step)
        assert batch.image.shape == (2, 1, 16, 12) and batch.label.shape == (1, 16, 12)
        # The code of a voxel is its place in the volume, whose last axis runs fastest.
        code = batch.image[0, 0]
        (depth,) = set((code.long() % 6).flatten().tolist())
        assert torch.equal(code.long() % 251, batch.label[0])
        seen.add(depth)
    assert seen == set(range(6))


def test_slices_of_volumes_in_the_strong_augmentation():
    source = make_source({"a": (20, 17, 6)}, 1, BatchPlan(2, 0), (16, 12), augment="strong")
    batch = source.batch(0)
    assert batch.image.shape == (2, 1, 16, 12) and torch.isfinite(batch.image).all()
    assert not torch.equal(batch.image[0], batch.image[1])


def test_a_patch_with_the_wrong_number_of_axes():
    source = make_source({"a": (20, 17)}, 1, BatchPlan(1, 0), (16, 16, 16))
    with pytest.raises(InputError, match=r"a\.nii: a patch \(16, 16, 16\) must have the axes"):
        source.batch(0)


def test_rows_of_a_stream_without_cases_are_refused():
    with pytest.raises(InputError, match=r"2 unlabeled row\(s\) must have unlabeled cases"):
        make_source(SHAPES, 7, BatchPlan(2, 2), (8, 8, 8))


# A pure function of seed and step


def test_any_order_of_calls_and_two_instances_agree():
    one = make_source(SHAPES, 2, BatchPlan(2, 2), (8, 6, 4), seed=5)
    two = make_source(SHAPES, 2, BatchPlan(2, 2), (8, 6, 4), seed=5)
    forward = [one.batch(step) for step in range(12)]
    for step in reversed(range(12)):
        assert equal(two.batch(step), forward[step])
        assert equal(one.batch(step), forward[step])


def test_two_rows_of_one_case_are_two_patches():
    source = make_source({"a": (24, 24, 24)}, 1, BatchPlan(2, 0), (8, 8, 8))
    for step in range(5):
        assert not source.batch(step).image[0].equal(source.batch(step).image[1])


def test_seeds_and_steps_differ():
    one = make_source(SHAPES, 2, BatchPlan(2, 2), (8, 6, 4), seed=5)
    two = make_source(SHAPES, 2, BatchPlan(2, 2), (8, 6, 4), seed=6)
    batches = [
        source.batch(step).image.numpy().tobytes() for source in (one, two) for step in (0, 1)
    ]
    assert len(set(batches)) == 4


def test_the_labeled_rows_do_not_depend_on_the_unlabeled_ones():
    both = make_source(SHAPES, 2, BatchPlan(2, 2), (8, 6, 4))
    alone = make_source(SHAPES, 2, BatchPlan(2, 0), (8, 6, 4))
    for step in range(5):
        assert both.batch(step).image[:2].equal(alone.batch(step).image)
        assert both.batch(step).label.equal(alone.batch(step).label)


def test_global_random_state_is_neither_read_nor_moved():
    source = make_source(SHAPES, 2, BatchPlan(2, 2), (8, 6, 4))
    np.random.seed(0)
    torch.manual_seed(0)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    one = source.batch(0)
    assert np.array_equal(before[0], np.random.get_state()[1])
    assert torch.equal(before[1], torch.get_rng_state())
    torch.manual_seed(1)
    assert equal(one, source.batch(0))


@pytest.mark.parametrize("labeled", [1, 2, 3])
def test_every_case_occurs_equally_often(labeled):
    rows = min(2, labeled)
    source = make_source(SHAPES, labeled, BatchPlan(rows, 3), (8, 8, 8))
    steps = 7 * 6 * 5 * 4
    counts = Counter(case for step in range(steps) for case in source.cases(step))
    assert {counts[f"c{n}"] for n in range(labeled)} == {steps * rows // labeled}
    assert {counts[f"c{n}"] for n in range(labeled, 7)} == {steps * 3 // (7 - labeled)}


def test_each_pass_is_a_permutation_and_passes_differ():
    source = make_source(SHAPES, 1, BatchPlan(1, 2), (8, 8, 8))
    passes = [
        tuple(case for step in range(3 * n, 3 * n + 3) for case in source.cases(step)[1:])
        for n in range(8)
    ]
    assert all(len(set(order)) == 6 for order in passes)
    assert len(set(passes)) > 4


class Partial(Coded):
    """One annotated voxel in the first case, one annotated slice in the second, all in a third."""

    partial_labels = True

    def label(self, case):
        full = super().label(case)
        if case == "c2":
            return full
        label = np.full_like(full, IGNORE)
        where = (9, 0, 3) if case == "c0" else (4,)
        label[where] = full[where]
        return label


def test_crops_of_a_partly_annotated_label_hold_an_annotated_voxel():
    store = VolumeStore(Partial(SHAPES), labeled=["c0", "c1", "c2"], unlabeled=[], test=())
    source = BatchSource(store, store.labeled, (), BatchPlan(3, 0), (4, 3, 2), seed=0)
    whole = make_source(SHAPES, 3, BatchPlan(3, 0), (4, 3, 2))
    places = set()
    for step in range(40):
        batch, plain = source.batch(step), whole.batch(step)
        assert (batch.label != IGNORE).flatten(1).any(1).all()
        assert equal(batch, source.batch(step))
        for row, case in enumerate(source.cases(step)):
            if case == "c2":  # no ignored voxel: the same crop as ever
                assert torch.equal(batch.image[row], plain.image[row])
            else:
                places.add((case, float(batch.image[row].min())))
    assert len(places) > 20


def test_a_label_without_an_annotated_voxel_is_cropped_anywhere():
    class Nothing(Partial):
        def label(self, case):
            return np.full_like(super().label(case), IGNORE)

    store = VolumeStore(Nothing(SHAPES), labeled=["c0"], unlabeled=[], test=())
    source = BatchSource(store, store.labeled, (), BatchPlan(1, 0), (4, 4, 4), seed=0)
    assert (source.batch(0).label == IGNORE).all()


def test_padding_of_a_partly_annotated_label_is_not_annotated():
    store = VolumeStore(Partial(SHAPES), labeled=["c1", "c2"], unlabeled=[], test=())
    source = BatchSource(store, store.labeled, (), BatchPlan(2, 0), (20, 20, 20), seed=0)
    batch = source.batch(0)
    counts = {
        case: int((batch.label[row] != IGNORE).sum()) for row, case in enumerate(source.cases(0))
    }
    assert counts == {"c1": 9 * 8, "c2": 20**3}


class Blob(Coded):
    """A label with a small foreground in one corner; elsewhere nothing. Voxels are cubes."""

    def image(self, case):
        return dataclasses.replace(super().image(case), geometry=Geometry((1.0, 1.0, 1.0)))

    def label(self, case):
        label = np.zeros(self.shapes[case], np.uint8)
        label[:4, :4, :4] = 1
        return label


def make_strong(foreground=0.0, patch=(8, 8, 6), shape=(24, 20, 16), seed=0):
    store = VolumeStore(Blob({"a": shape, "b": shape}), labeled=["a"], unlabeled=["b"], test=())
    return BatchSource(
        store,
        store.labeled,
        store.unlabeled,
        BatchPlan(1, 1),
        patch,
        seed=seed,
        augment="strong",
        foreground=foreground,
    )


def test_strong_patches_are_a_function_of_seed_and_step():
    for step in range(5):
        assert equal(make_strong().batch(step), make_strong().batch(step))
        assert not equal(make_strong().batch(step), make_strong(seed=1).batch(step))
    batch = make_strong(patch=(32, 30, 20)).batch(0)  # larger than the volume
    assert batch.image.shape == (2, 1, 32, 30, 20) and torch.isfinite(batch.image).all()
    assert batch.label.shape == (1, 32, 30, 20) and batch.label.any()


def test_labeled_patches_hold_foreground():
    share = [float((make_strong(0.003).batch(n).label > 0).float().mean()) for n in range(30)]
    free = [float((make_strong().batch(n).label > 0).float().mean()) for n in range(30)]
    assert min(share) >= 0.003 and sum(x > 0 for x in free) < 10


def test_strong_patches_show_the_organ_where_its_label_is():
    class Organ(Blob):
        def label(self, case):
            label = np.zeros(self.shapes[case], np.uint8)
            label[6:16, 5:13, 4:11] = 1
            return label

        def image(self, case):
            array = 3 * self.label(case)[None].astype(np.float32)
            return Image(array, Geometry((1.0, 1.0, 1.0)), has_geometry=False)

    store = VolumeStore(Organ({"a": (24, 20, 16)}), labeled=["a"], unlabeled=[], test=())
    source = BatchSource(
        store, store.labeled, (), BatchPlan(1, 0), (16, 14, 12), seed=0, augment="strong"
    )
    overlaps = []
    for step in range(20):
        batch = source.batch(step)
        bright, organ = batch.image[0, 0] > 1.5, batch.label[0] == 1
        overlaps.append(2 * int((bright & organ).sum()) / int(bright.sum() + organ.sum()))
    assert sum(overlaps) / len(overlaps) > 0.9


def test_strong_images_are_stretched_linearly_and_labels_are_not(monkeypatch):
    monkeypatch.setattr("semisam.data.loading.sampling.change_looks", lambda image, rng: image)
    source = make_source(SHAPES, 1, BatchPlan(1, 0), (8, 6, 4), augment="strong")
    between = [float((b.image % 1 != 0).float().mean()) for b in map(source.batch, range(10))]
    assert max(between) > 0.5, "a voxel between two others has a value between theirs"
