"""Windows of patches: uniform, or where a label has something to learn."""

import numpy as np
import pytest

from semisam.core.types import IGNORE
from semisam.data.datasets.dataset import Dataset, Image, Split
from semisam.data.images.files import PIXELS, Geometry
from semisam.data.loading.store import VolumeStore
from semisam.data.loading.windows import Windows

SHAPE, SIZE = (48, 40, 32), (12, 10, 8)


class Labeled(Dataset):
    """One case with a given label."""

    name = "labeled"
    partial_labels = True

    def __init__(self, label):
        super().__init__()
        self.num_classes, self.channels, self.channel_names = 4, 1, ("mr",)
        self._label = label

    def split(self):
        return Split(("a",), ())

    def image(self, case):
        geometry = PIXELS if self._label.ndim == 2 else Geometry((1.0, 1.0, 1.0))
        return Image(np.zeros((1, *self._label.shape), np.float32), geometry, has_geometry=False)

    def label(self, case):
        return self._label

    def has_label(self, case):
        return True

    def source(self, case):
        return case


def drawn(label, foreground=0.0, *, count=200, size=SIZE):
    """Return the parts of a label in the windows of many rows."""
    store = VolumeStore(Labeled(label), labeled=["a"], unlabeled=[], test=())
    windows = Windows(store, foreground)
    rng = np.random.default_rng(0)
    return [label[windows.draw("a", True, label.shape, size, rng)] for _ in range(count)]


def share(parts, k):
    return np.mean([bool((part == k).any()) for part in parts])


def uneven():
    """One class that fills three quarters, and one of 27 voxels in a corner of it."""
    label = np.ones(SHAPE, np.uint8)
    label[:, :10] = 0
    label[-3:, -3:, -3:] = 2
    return label


def test_a_small_class_next_to_a_large_one_is_in_half_of_the_windows():
    assert share(drawn(uneven()), 2) < 0.1
    parts = drawn(uneven(), 0.003)
    assert 0.4 < share(parts, 2) < 0.6
    assert all((part > 0).mean() >= 0.003 for part in parts)


def test_a_class_that_a_label_lacks_takes_no_window():
    label = np.where(uneven() == 2, 3, 0).astype(np.uint8)  # of three classes it has one
    assert share(drawn(label, 0.003), 3) == 1
    assert share(drawn(np.zeros(SHAPE, np.uint8), 0.003, count=5), 3) == 0


def test_the_class_of_a_window_decides_in_which_slice_it_is():
    label = np.zeros(SHAPE, np.uint8)
    label[..., :20], label[20:24, 20:24, 30] = 1, 2
    assert 0.4 < share(drawn(label, 0.003, size=(12, 10, 1)), 2) < 0.6


@pytest.mark.parametrize("foreground", [0.0, 0.003])
def test_voxels_that_nobody_annotated_draw_no_window(foreground):
    label = np.full(SHAPE, IGNORE, np.uint8)
    label[20:30, 20:30, 5], label[22:25, 22:25, 5] = 0, 1
    parts = drawn(label, foreground)
    assert all((part != IGNORE).any() for part in parts)
    assert share(parts, 1) < 1 if not foreground else share(parts, 1) == 1


def test_windows_reach_every_place_uniformly():
    starts = np.zeros(SHAPE[0] - SIZE[0] + 1)
    label = np.zeros(SHAPE, np.uint8)
    store = VolumeStore(Labeled(label), labeled=[], unlabeled=["a"], test=())
    windows, rng = Windows(store, 0.003), np.random.default_rng(0)
    for _ in range(3700):
        starts[windows.draw("a", False, SHAPE, SIZE, rng)[0].start] += 1
    assert starts.min() > 60 and starts.max() < 145


def test_a_short_axis_is_taken_whole():
    label = uneven()
    store = VolumeStore(Labeled(label), labeled=["a"], unlabeled=[], test=())
    window = Windows(store).draw("a", True, SHAPE, (64, 10, 8), np.random.default_rng(0))
    assert window[0] == slice(0, 64) and label[window].shape == (48, 10, 8)
