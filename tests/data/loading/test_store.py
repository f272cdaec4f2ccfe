"""The cache, the checks before a run, and labels of unlabeled cases that are never read."""

import threading
from dataclasses import dataclass

import h5py
import numpy as np
import pytest

from semisam.core.errors import InputError
from semisam.core.types import IGNORE
from semisam.data.datasets.dataset import Dataset, Image, Split
from semisam.data.datasets.la import LeftAtrium
from semisam.data.images.files import Geometry
from semisam.data.images.preprocessing import Recipe
from semisam.data.loading.sampling import BatchPlan, BatchSource
from semisam.data.loading.store import LabelLeak, VolumeStore, array_hash, data_hash

SHAPE = (12, 10, 8)
CASES = ("lab0", "lab1", "un0", "un1", "test0")


def mask():
    label = np.zeros(SHAPE, np.uint8)
    label[3:6, 3:6, 2:5] = 1
    return label


def write(folder, case, image=None, label="default"):
    (folder / case).mkdir(exist_ok=True)
    path = folder / case / "mri_norm2.h5"
    with h5py.File(path, "w") as file:
        rng = np.random.default_rng(CASES.index(case))
        file["image"] = rng.normal(size=SHAPE).astype(np.float32) if image is None else image
        if label is not None:
            file["label"] = mask() if isinstance(label, str) else label
    return path


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "train.list").write_text("\n".join(CASES[:4]))
    (tmp_path / "test.list").write_text("test0\n")
    for case in CASES:
        write(tmp_path, case)
    return tmp_path


def make_store(folder, **options):
    return VolumeStore(
        LeftAtrium(folder), labeled=CASES[:2], unlabeled=CASES[2:4], test=CASES[4:], **options
    )


def batches(store):
    source = BatchSource(store, store.labeled, store.unlabeled, BatchPlan(2, 2), (8, 8, 8), seed=0)
    return [source.batch(step) for step in range(4)]


# The guarantee against leaks


def test_the_label_of_an_unlabeled_or_unknown_case_is_refused(folder):
    store = make_store(folder)
    for case in ("un0", "un1", "stranger"):
        with pytest.raises(LabelLeak, match=f"a request for {case}"):
            store.label(case)
    assert store.label("lab0").sum() == store.label("test0").sum() == 27


POISON = {
    "wrong shape": np.ones((2, 2), np.uint8),
    "garbage": np.full(SHAPE, -77.5, np.float32),
    "NaN": np.full(SHAPE, np.nan, np.float32),
    "too many classes": np.full(SHAPE, 9, np.uint8),
    "text": "no label at all",
    "absent": None,
    "broken link": h5py.ExternalLink("nowhere.h5", "/x"),
}


@pytest.mark.parametrize("poison", POISON)
def test_a_poisoned_label_of_an_unlabeled_case_changes_nothing(folder, poison):
    clean = make_store(folder)
    hashes, expected = clean.check(), batches(clean)
    label = POISON[poison]
    path = write(folder, "un0", label=None)
    if label is not None:
        with h5py.File(path, "a") as file:
            file["label"] = label
    poisoned = make_store(folder)
    assert poisoned.check() == hashes
    for got, want in zip(batches(poisoned), expected, strict=True):
        assert got.image.equal(want.image)
        assert got.label.equal(want.label)


def test_the_dataset_is_never_asked_for_an_unlabeled_label(folder):
    asked = []

    class Spy(LeftAtrium):
        def label(self, case):
            asked.append(case)
            return super().label(case)

        def has_label(self, case):
            asked.append(case)
            return super().has_label(case)

    store = VolumeStore(Spy(folder), labeled=CASES[:2], unlabeled=CASES[2:4], test=CASES[4:])
    store.check()
    batches(store)
    assert set(asked) == {"lab0", "lab1", "test0"}


@pytest.mark.parametrize("unlabeled", [("un0", "lab0"), ("un0", "test0"), ("un0", "un0")])
def test_groups_that_overlap_are_refused(folder, unlabeled):
    with pytest.raises(InputError, match="must all be different"):
        VolumeStore(LeftAtrium(folder), labeled=("lab0",), unlabeled=unlabeled, test=("test0",))


# The checks


def test_check_hashes_what_the_run_reads(folder):
    store, calls = make_store(folder), []
    hashes = store.check(lambda done, total: calls.append((done, total)))
    assert calls == [(n, 5) for n in range(1, 6)]
    assert set(hashes) == {f"image:{c}" for c in CASES} | {
        f"label:{c}" for c in ("lab0", "lab1", "test0")
    }
    assert hashes["label:lab0"] == array_hash(mask())
    assert hashes["image:lab0"] != hashes["image:lab1"]


def test_a_corrected_spacing_is_other_data(folder):
    """Distances in mm and the masks of later scans depend on it."""
    found = []
    for mm in (1.0, 1.0, 2.0):
        dataset = LeftAtrium(folder, spacing=mm)
        parts = {"labeled": CASES[:2], "unlabeled": CASES[2:4], "test": CASES[4:]}
        found.append(VolumeStore(dataset, **parts).check())
    assert found[0] == found[1]
    assert all(found[2][key] != found[0][key] for key in found[0] if key.startswith("image:"))
    assert found[2]["label:lab0"] == found[0]["label:lab0"]


def test_labels_on_a_finer_grid_are_hashed_as_they_are_drawn_and_scored():
    """Two labels may be one on the image's grid; the scores are those of the drawn one."""

    class Finer(Dataset):
        name, num_classes, channels, class_names = "finer", 2, 1, ("background", "organ")

        def __init__(self, thin):
            super().__init__()
            self.drawn = np.zeros((16, 12, 8), np.uint8)
            self.drawn[4:8, 4:8, 2:6] = 1
            self.drawn[15, 11, 7] = thin

        def split(self):
            return Split((), ("a",))

        def image(self, case):
            array = np.arange(self.drawn.size, dtype=np.float32).reshape(1, *self.drawn.shape)
            recipe = Recipe((4.0, 4.0, 4.0), ("mr",), crop="none")
            image, geometry, placement = recipe.apply(array, Geometry((1.0, 1.0, 1.0)))
            return Image(image, geometry, has_geometry=True, placement=placement)

        def label(self, case):
            return self.image(case).placement.label(self.drawn)

        def drawn_label(self, case):
            return self.drawn

        def has_label(self, case):
            return True

        def source(self, case):
            return case

    one, other = (
        VolumeStore(Finer(thin), labeled=(), unlabeled=(), test=("a",)).check() for thin in (0, 1)
    )
    assert one["label:a"] == other["label:a"] and one["image:a"] == other["image:a"]
    assert data_hash(one) != data_hash(other)


@pytest.mark.parametrize(
    ("case", "group", "kind"),
    [
        ("lab0", {}, "labeled training"),
        ("un0", {"test": ["un0"]}, "test"),
        ("un0", {"validation": ["un0"]}, "validation"),
        ("un0", {"unlabeled": ["un0"], "oracle": True}, "control's"),
    ],
)
def test_a_lost_label_names_what_its_case_is_for(folder, case, group, kind):
    rewrite(folder / case / "mri_norm2.h5", lambda file: file.__delitem__("label"))
    groups = {"labeled": ["lab1"] if group else ["lab0"], "unlabeled": [], "test": []} | group
    with pytest.raises(InputError, match=f"a {kind} case must have a label, got none"):
        VolumeStore(LeftAtrium(folder), **groups).check()


def test_data_hash_ignores_order_and_sees_every_change():
    one = data_hash({"image:a": "1", "image:b": "2"})
    assert one == data_hash({"image:b": "2", "image:a": "1"})
    assert one != data_hash({"image:a": "2", "image:b": "1"})
    assert one != data_hash({"image:a": "1"})
    assert len(one) == 64


def test_array_hash_sees_dtype_shape_and_values():
    zeros = np.zeros((2, 3), np.float32)
    others = [zeros.T, zeros.astype(np.int32), zeros + 1]
    assert len({array_hash(a) for a in [zeros, *others]}) == 4
    assert array_hash(zeros) == array_hash(np.zeros((3, 2), np.float32).T)
    assert array_hash(zeros + 1) == array_hash((zeros + 1).astype(">f4").astype("<f4"))


def nan_image(value):
    image = np.zeros(SHAPE, np.float32)
    image[0, 0, 0] = value
    return image


FAULTS = {
    "not h5": ("un1", lambda p: p.write_bytes(b"hello"), "un1.*complete HDF5 file.*copy it again"),
    "cut off": (
        "un1",
        lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]),
        "un1.*complete HDF5 file",
    ),
    "missing": ("un0", lambda p: p.unlink(), r"un0.*file must exist, got none\. Copy it there"),
    "no image": (
        "lab1",
        lambda p: rewrite(p, lambda f: f.__delitem__("image")),
        "lab1.*must have the key 'image', got the keys: label",
    ),
    "no label": (
        "lab1",
        lambda p: rewrite(p, lambda f: f.__delitem__("label")),
        "lab1.*labeled training case must have a label, got none",
    ),
    "no test label": (
        "test0",
        lambda p: rewrite(p, lambda f: f.__delitem__("label")),
        "test0.*a test case must have a label",
    ),
    "label shape": (
        "test0",
        lambda p: relabel(p, np.ones((3, 3, 3), np.uint8)),
        r"test0.*one shape, got \(12, 10, 8\) and \(3, 3, 3\)\. Resample",
    ),
    "label value": (
        "lab0",
        lambda p: relabel(p, mask() * 3),
        r"lab0.*values from 0 to 1, got 3\. Renumber",
    ),
    "negative label": (
        "lab0",
        lambda p: relabel(p, -mask().astype(np.int8)),
        "lab0.*integers from 0 to 255, got -1",
    ),
    "half label": ("lab0", lambda p: relabel(p, mask() * 0.5), "lab0.*integers.*got 0.5"),
    "empty label": (
        "lab0",
        lambda p: relabel(p, mask() * 0),
        "lab0.*foreground class, got only background",
    ),
    "NaN": ("un0", lambda p: reimage(p, nan_image(np.nan)), "un0.*finite, got 1"),
    "infinite": ("test0", lambda p: reimage(p, nan_image(-np.inf)), "test0.*finite, got 1"),
    "image of two axes": (
        "un0",
        lambda p: reimage(p, np.zeros((4, 4), np.float32)),
        r"un0.*volume \(W, H, D\), got shape \(4, 4\)",
    ),
    "no voxels": ("un0", lambda p: reimage(p, np.zeros((0, 4, 4), np.float32)), "un0.*voxels"),
}


def rewrite(path, change):
    with h5py.File(path, "a") as file:
        change(file)


def relabel(path, label):
    rewrite(path, lambda f: (f.__delitem__("label"), f.__setitem__("label", label)))


def reimage(path, image):
    rewrite(path, lambda f: (f.__delitem__("image"), f.__setitem__("image", image)))


@pytest.mark.parametrize("fault", FAULTS)
def test_check_names_file_and_way_out(folder, fault):
    case, spoil, message = FAULTS[fault]
    spoil(folder / case / "mri_norm2.h5")
    with pytest.raises(InputError, match=message) as caught:
        make_store(folder).check()
    assert "mri_norm2.h5" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damage_inside_the_voxels_is_found(folder):
    path = folder / "un1" / "mri_norm2.h5"
    with h5py.File(path, "w") as file:
        image = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
        file.create_dataset("image", data=image, compression="gzip", chunks=SHAPE)
    content = bytearray(path.read_bytes())
    content[-1500:-500] = bytes(1000)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"un1.*complete HDF5 file"):
        make_store(folder).check()


def test_a_test_case_without_foreground_is_no_fault(folder):
    relabel(folder / "test0" / "mri_norm2.h5", mask() * 0)
    assert "label:test0" in make_store(folder).check()


def test_the_first_fault_in_order_is_told(folder):
    for case in ("un1", "lab1", "test0"):
        (folder / case / "mri_norm2.h5").unlink()
    for _ in range(5):
        with pytest.raises(InputError, match="lab1"):
            make_store(folder).check()


@dataclass
class Memory(Dataset):
    """A dataset in memory that counts its reads."""

    name = "memory"
    arrays: dict

    def __post_init__(self):
        self.num_classes, self.channels, self.reads = 2, 2, []

    def split(self):
        return Split(tuple(self.arrays), ())

    def image(self, case):
        self.reads.append(case)
        if isinstance(self.arrays[case], Exception):
            raise self.arrays[case]
        return Image(self.arrays[case].copy(), Geometry(spacing=(1.0,) * 3), has_geometry=False)

    def label(self, case):
        return np.ones(SHAPE, np.uint8)

    def has_label(self, case):
        return True

    def source(self, case):
        return f"{case}.nii"


def memory_store(arrays, **options):
    return VolumeStore(Memory(arrays), labeled=(), unlabeled=tuple(arrays), test=(), **options)


def test_an_unequal_number_of_channels(folder):
    ramp = np.arange(2 * np.prod(SHAPE), dtype=np.float32).reshape(2, *SHAPE)
    with pytest.raises(InputError, match=r"b\.nii.*2 channel\(s\), got 1"):
        memory_store({"a": ramp, "b": ramp[:1]}).check()


def test_an_image_without_contrast():
    with pytest.raises(InputError, match=r"a\.nii: an image must have contrast, got 4 everywhere"):
        memory_store({"a": np.full((2, *SHAPE), 4, np.float32)}).check()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (FileNotFoundError("x"), r"a\.nii: the file must exist"),
        (OSError("bad header"), r"a\.nii: the file must be readable, got 'bad header'"),
        (ValueError("odd"), r"a\.nii: the file must be readable, got 'odd'"),
    ],
)
def test_what_another_reader_raises_is_told_in_one_sentence(error, message):
    with pytest.raises(InputError, match=message):
        memory_store({"a": error}).check()


# The cache


def test_the_cache_holds_no_more_than_its_bound_and_drops_the_oldest():
    array = np.zeros((2, *SHAPE), np.float32)
    store = memory_store({c: array for c in "abc"}, max_bytes=2 * array.nbytes)
    for case in "abaca":  # b is the least recently used when c comes
        store.image(case)
    assert store.cached_bytes == 2 * array.nbytes
    assert store.dataset.reads == ["a", "b", "c"]
    store.image("b")
    assert store.dataset.reads[-1] == "b"


def test_a_volume_larger_than_the_cache_is_read_and_not_kept():
    array = np.zeros((2, *SHAPE), np.float32)
    store = memory_store({"a": array}, max_bytes=array.nbytes - 1)
    assert store.image("a").array.shape == array.shape
    assert store.cached_bytes == 0


def test_the_shared_arrays_are_read_only(folder):
    store = make_store(folder)
    for array in (store.image("lab0").array, store.label("lab0")):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_many_threads_at_once():
    rng = np.random.default_rng(0)
    arrays = {str(n): rng.normal(size=(2, *SHAPE)).astype(np.float32) for n in range(6)}
    store = memory_store(arrays, max_bytes=2 * arrays["0"].nbytes)
    wrong = []

    def read(seed):
        for n in np.random.default_rng(seed).integers(6, size=300):
            if not np.array_equal(store.image(str(n)).array, arrays[str(n)]):
                wrong.append(n)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert store.cached_bytes <= 2 * arrays["0"].nbytes


def test_ignored_voxels_are_no_class_of_a_label():
    class Partial(Dataset):
        num_classes, channels, partial_labels = 2, 1, True
        values = (0, 1, IGNORE)

        def split(self):
            return Split(("a",), ())

        def image(self, case):
            array = np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2)
            return Image(array, Geometry((1.0, 1.0, 1.0)), has_geometry=False)

        def label(self, case):
            return np.resize(np.array(self.values, np.uint8), (2, 2, 2))

        def has_label(self, case):
            return True

        def source(self, case):
            return case

    class Undeclared(Partial):
        partial_labels = False

    class TooHigh(Partial):
        values = (0, 1, 2, IGNORE)

    class NoForeground(Partial):
        values = (0, IGNORE)

    def check(dataset):
        VolumeStore(dataset, labeled=["a"], unlabeled=[], test=()).check()

    check(Partial())
    for wrong, pattern in (
        (Undeclared, "from 0 to 1, got 255.* or set partial_labels = True"),
        (TooHigh, "from 0 to 1, got 2"),
        (NoForeground, "must contain a foreground class"),
    ):
        with pytest.raises(InputError, match=pattern):
            check(wrong())
