"""The contract of a dataset, as tests."""

from __future__ import annotations

import contextlib
import functools
import itertools
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from semisam.core.types import IGNORE

if TYPE_CHECKING:
    from semisam.data.datasets.dataset import Dataset


class DatasetContract:
    """Tests of a dataset. Subclass it and define ``make``, and ``make_with_other_labels`` if easy.

    Attributes:
        cases: number of cases to read of each part of the split.
        normalised: False for images that keep other units than a mean near 0 and a deviation
            near 1 on purpose.
    """

    cases: ClassVar[int] = 3
    normalised: ClassVar[bool] = True

    def make(self) -> Dataset:
        """Return the dataset under test, with data small enough for a unit test."""
        raise NotImplementedError("define make(self)")

    def make_with_other_labels(self) -> Dataset | None:
        """Return the dataset with other labels for the same images; ``None``: not tested.

        The labels are in files of their own, for example in another folder.
        """
        return None

    def test_declares_classes_and_channels(self) -> None:
        """Check that background counts as a class and has a name."""
        dataset = self.make()
        name = getattr(dataset, "name", None)
        assert name and isinstance(name, str), f"name must be that of the entry point, got {name!r}"
        assert dataset.num_classes >= 2, f"num_classes counts background, got {dataset.num_classes}"
        assert dataset.channels >= 1, f"channels must be 1 or more, got {dataset.channels}"
        names = dataset.class_names
        good = len(names) == len(set(names)) == dataset.num_classes
        assert good, f"class_names must name {dataset.num_classes} classes once each, got {names}"
        channels = getattr(dataset, "channel_names", ())
        good = len(channels) in (0, dataset.channels)
        assert good, f"channel_names must name {dataset.channels} channels or none, got {channels}"

    def test_split(self) -> None:
        """Check that training and test cases are disjoint, unique and equal for all instances."""
        split = self.make().split()
        train, test = list(split.train), list(split.test)
        odd = [case for case in train + test if not isinstance(case, str)]
        assert not odd, f"a case must be a text, got {odd[:1]}"
        assert train and test, f"both parts must hold a case, got {len(train)} and {len(test)}"
        both = sorted(set(train) & set(test))
        assert not both, f"no case may be in both parts, got {both}"
        once = len(train + test) == len(set(train + test))
        assert once, "no case may be listed twice"
        again = self.make().split()
        assert (train, test) == (list(again.train), list(again.test)), "the split must be fixed"

    def test_predictions_return_to_the_file(self) -> None:
        """Check that a prediction returns to the grid of the file, where labels are drawn."""
        dataset = self.make()
        for case in self._some(dataset):
            image = dataset.image(case)
            placement = getattr(image, "placement", None)
            if placement is None:
                continue
            size = image.array.shape[1:]
            assert placement.size == size, f"{case}: placement of {placement.size}, image {size}"
            found = placement.classes(np.ones((2, *size), np.float32))
            assert found.shape == placement.shape, f"{case}: returned to {found.shape}"
            if dataset.has_label(case):
                drawn = dataset.drawn_label(case).shape
                assert drawn == placement.shape, f"{case}: drawn_label must be {placement.shape}"

    def test_images(self) -> None:
        """Check that images are ``(C, *S)`` float32 and finite, with a spacing per axis."""
        dataset = self.make()
        for case in self._some(dataset):
            array = dataset.image(case).array
            ndim = array.ndim - 1
            assert ndim in (2, 3), f"{case}: an image is (C, *S), got {array.shape}"
            got = array.shape[0]
            assert got == dataset.channels, f"{case}: {dataset.channels} channels, got {got}"
            assert array.dtype == np.float32, f"{case}: an image must be float32, got {array.dtype}"
            assert bool(np.isfinite(array).all()), f"{case}: an image must be finite"
            spacing = dataset.image(case).geometry.spacing
            good = len(spacing) == ndim and all(s > 0 for s in spacing)
            assert good, f"{case}: spacing must be {ndim} positive mm, got {spacing}"

    def test_images_are_normalised(self) -> None:
        """Check that intensities are in the range that a network trains on."""
        dataset = self.make()
        if not self.normalised:
            return
        for case in self._some(dataset):
            array = dataset.image(case).array
            mean, deviation = float(array.mean()), float(array.std())
            assert abs(mean) <= 10 and deviation <= 10, (
                f"{case}: an image must be normalised, for example to mean 0 and deviation 1, got "
                f"{mean:.4g} and {deviation:.4g}, as in raw units"
            )

    def test_images_are_free_of_labels(self) -> None:
        """Check that ``image`` reads no label: with other labels the images are the same."""
        dataset, other = self.make(), self.make()
        for case in self._some(dataset):
            with _without_labels(type(other), "image must not read a label"):
                other.image(case)
        changed = self.make_with_other_labels()
        if changed is None:
            return
        for case in self._some(dataset):
            same = np.array_equal(dataset.image(case).array, changed.image(case).array)
            assert same, f"{case}: an image must not depend on labels, got another with others"

    def test_the_split_is_free_of_labels(self) -> None:
        """Check that ``split`` reads no label: with other labels the split is the same.

        The first training cases are the labeled ones, so their order must not depend on a label.
        """
        dataset = self.make()
        with _without_labels(type(dataset), "the split must not read a label"):
            split = self.make().split()
        changed = self.make_with_other_labels()
        if changed is None:
            return
        other = changed.split()
        ours, theirs = ([*each.train, "test:", *each.test] for each in (split, other))
        first = next((pair for pair in zip(ours, theirs, strict=False) if pair[0] != pair[1]), ())
        assert ours == theirs, (
            f"the split must not depend on labels, got another one with others, from {first} on. "
            "Sort the cases by name"
        )

    def test_files_hold_the_label(self) -> None:
        """Check that ``files`` names the file of the label, so that prepared copies are renewed."""
        dataset, changed = self.make(), self.make_with_other_labels()
        if changed is None:
            return
        for case in filter(dataset.has_label, self._some(dataset)):
            ours, theirs = (_files(each, case) for each in (dataset, changed))
            same = np.array_equal(dataset.label(case), changed.label(case))
            if same or not ours or ours == theirs:  # of no file, or of the same ones by an option
                continue
            contents = [[path.read_bytes() for path in files] for files in (ours, theirs)]
            assert contents[0] != contents[1], (
                f"{case}: files must name the file of the label, too, got "
                f"{', '.join(path.name for path in ours)}, equal with another label. Define "
                "files(self, case), or `semisam data prepare` keeps old labels"
            )

    def test_labels_fit_their_images(self) -> None:
        """Check that the edges of labels are on edges of the image, not mirrored or turned ones."""
        dataset = self.make()
        scores: dict[tuple[tuple[int, ...], tuple[int, ...]], float] = {}
        as_is = 0.0
        for case in filter(dataset.has_label, self._some(dataset)):
            label = dataset.label(case)
            changes = _changes(dataset.image(case).array)
            for flip, order in itertools.product(_subsets(label.ndim), _orders(label.shape)):
                turned = np.flip(label, flip).transpose(order)
                scores[flip, order] = scores.get((flip, order), 0.0) + _edges(changes, turned)
            as_is += scores.pop(((), tuple(range(label.ndim))))
        (flip, order), best = max(scores.items(), key=lambda item: item[1], default=(((), ()), 0.0))
        assert best <= 1.2 * as_is, (
            f"labels must fit their images, got edges that fit better mirrored along axes {flip} "
            f"with axes in the order {order}: {best:.3g} against {as_is:.3g}. Do both have the "
            "same orientation and order of axes?"
        )

    def test_constructor_reads_no_volume(self) -> None:
        """Check that the constructor does not read the volumes of every case."""
        dataset = self.make()
        kind, cases = type(dataset), set(dataset.split().cases)
        read: list[str] = []
        with contextlib.ExitStack() as stack:
            for owner, name in [(kind, "image"), (kind, "label"), *_readers()]:
                stack.enter_context(_counted(owner, name, read))
            self.make()
        assert len(read) < len(cases), (
            f"a constructor may read lists and headers, but not every volume, got {len(read)} "
            f"reads ({', '.join(sorted(set(read)))}) for {len(cases)} cases"
        )

    def test_labels(self) -> None:
        """Check that labels are uint8 classes on the image's grid; training cases may lack one."""
        dataset = self.make()
        unlabeled = [case for case in dataset.split().test if not dataset.has_label(case)]
        assert not unlabeled, f"every test case must have a label, got none for {unlabeled}"
        train = dataset.split().train
        assert any(map(dataset.has_label, train)), "a training case must have a label, got none"
        for case in self._some(dataset):
            if not dataset.has_label(case):
                continue
            label = dataset.label(case)
            shape = dataset.image(case).array.shape[1:]
            assert label.shape == shape, f"{case}: label must be {shape}, got {label.shape}"
            assert label.dtype == np.uint8, f"{case}: label must be uint8, got {label.dtype}"
            annotated = (label != IGNORE) | (not getattr(dataset, "partial_labels", False))
            top = int(label.max(where=annotated, initial=0))
            partial = ", or set partial_labels = True for voxels that nobody annotated"
            assert top < dataset.num_classes, (
                f"{case}: a label must hold classes below {dataset.num_classes}, got {top}. Map "
                f"the values of the file to class numbers{partial if top == IGNORE else ''}"
            )

    def test_reading_is_deterministic(self) -> None:
        """Check that repeated reading, also by another instance, gives the same voxels."""
        dataset, other = self.make(), self.make()
        for case in self._some(dataset):
            first = dataset.image(case).array.copy()
            for again in (dataset, other):
                same = np.array_equal(first, again.image(case).array)
                assert same, f"{case}: an image must be the same each time, got another one"
            if dataset.has_label(case):
                same = np.array_equal(dataset.label(case), other.label(case))
                assert same, f"{case}: a label must be the same each time, got another one"

    def test_what_is_read_is_a_copy(self) -> None:
        """Check that writing into a returned image does not change the dataset."""
        dataset = self.make()
        case = self._some(dataset)[0]
        array = dataset.image(case).array
        before = array.copy()
        if array.flags.writeable:
            array += 1.0
        assert np.array_equal(before, dataset.image(case).array), (
            f"{case}: image must return a copy, got an array that the dataset keeps and returns "
            "again"
        )

    def test_names_a_file(self) -> None:
        """Check that ``source`` names the origin of a case, for messages."""
        dataset = self.make()
        for case in self._some(dataset):
            assert dataset.source(case), f"{case}: source must not be empty"

    def _some(self, dataset: Dataset) -> list[str]:
        split = dataset.split()
        return [*split.train[: self.cases], *split.test[: self.cases]]


@contextlib.contextmanager
def _without_labels(kind: type, rule: str) -> Iterator[None]:
    """Let the reading of a label fail with a rule."""

    def read(*args: object) -> None:
        raise AssertionError(f"{rule}, since an unlabeled case lacks one")

    with (
        mock.patch.object(kind, "label", read),
        mock.patch.object(kind, "drawn_label", read, create=True),
    ):
        yield


def _files(dataset: Dataset, case: str) -> list[Path]:
    """Return the files of a case, with those in its folders; none of a dataset in memory."""
    named = dataset.files(case) if hasattr(dataset, "files") else ()
    inside = [sorted(path.rglob("*")) if path.is_dir() else [path] for path in named]
    return [path for paths in inside for path in paths if path.is_file()]


def _subsets(ndim: int) -> list[tuple[int, ...]]:
    """Return every set of axes, the empty one first."""
    return [axes for n in range(ndim + 1) for axes in itertools.combinations(range(ndim), n)]


def _orders(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return every order of axes that keeps a shape, the usual one first."""
    axes = range(len(shape))
    return [o for o in itertools.permutations(axes) if tuple(shape[a] for a in o) == shape]


def _changes(image: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Return the changes between neighbours along each axis, relative to their mean."""
    mean = image.mean(0)
    changes = [np.abs(np.diff(mean, axis=axis)) for axis in range(mean.ndim)]
    average = float(np.mean([change.mean() for change in changes])) or 1.0
    return [change / average for change in changes]


def _edges(changes: list[NDArray[np.float32]], label: NDArray[np.uint8]) -> float:
    """Return the mean relative change across the borders of a label; 1 without borders."""
    found = [
        change[np.diff(label, axis=axis) != 0]  # of uint8: only 0 is no border
        for axis, change in enumerate(changes)
    ]
    across = np.concatenate(found)
    return float(across.mean()) if len(across) else 1.0


def _readers() -> list[tuple[Any, str]]:
    """Return functions of installed libraries that read the voxels of a file."""
    names = (
        ("SimpleITK", "ReadImage"),
        ("SimpleITK.ImageFileReader", "Execute"),
        ("h5py.Dataset", "__getitem__"),
        ("nibabel.Nifti1Image", "get_fdata"),
        ("numpy", "load"),
        ("numpy.lib.npyio.NpzFile", "__getitem__"),
    )
    found = []
    for path, name in names:
        module, *inside = path.split(".")
        if module in sys.modules:
            found.append((functools.reduce(getattr, inside, sys.modules[module]), name))
    return found


def _counted(owner: Any, name: str, read: list[str]) -> AbstractContextManager[Any]:
    """Replace a function by one that notes each volume that it returns."""
    original = getattr(owner, name)

    def counting(*args: Any, **kwargs: Any) -> Any:
        found = original(*args, **kwargs)
        lazy = isinstance(found, np.memmap | np.lib.npyio.NpzFile)
        if not lazy and getattr(found, "ndim", 3) >= 2:
            read.append(name)
        return found

    return mock.patch.object(owner, name, counting)
