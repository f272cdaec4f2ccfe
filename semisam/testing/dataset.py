"""The contract of a dataset, as tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from semisam.core.types import IGNORE

if TYPE_CHECKING:
    from semisam.data.datasets.dataset import Dataset


class DatasetContract:
    """Tests of a dataset. Subclass it and define ``make``.

    Attributes:
        cases: number of cases to read of each part of the split.
    """

    cases: ClassVar[int] = 3

    def make(self) -> Dataset:
        """Return the dataset under test, with data small enough for a unit test."""
        raise NotImplementedError("define make(self)")

    def test_declares_classes_and_channels(self) -> None:
        """Check that background counts as a class and has a name."""
        dataset = self.make()
        assert dataset.num_classes >= 2, f"num_classes counts background, got {dataset.num_classes}"
        assert dataset.channels >= 1, f"channels must be 1 or more, got {dataset.channels}"
        names = dataset.class_names
        good = len(names) == len(set(names)) == dataset.num_classes
        assert good, f"class_names must name {dataset.num_classes} classes once each, got {names}"

    def test_split(self) -> None:
        """Check that training and test cases are disjoint, unique and equal for all instances."""
        split = self.make().split()
        train, test = list(split.train), list(split.test)
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
            assert array.dtype == np.float32, f"{case}: required float32, got {array.dtype}"
            assert bool(np.isfinite(array).all()), f"{case}: an image must be finite"
            spacing = dataset.image(case).geometry.spacing
            good = len(spacing) == ndim and all(s > 0 for s in spacing)
            assert good, f"{case}: spacing must be {ndim} positive mm, got {spacing}"

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
            partial = getattr(dataset, "partial_labels", False)
            top = int(label.max(where=(label != IGNORE) | (not partial), initial=0))
            assert top < dataset.num_classes, f"{case}: class {top} of {dataset.num_classes}"

    def test_reading_is_deterministic(self) -> None:
        """Check that repeated reading, also by another instance, gives the same voxels."""
        dataset, other = self.make(), self.make()
        for case in self._some(dataset):
            first = dataset.image(case).array.copy()
            for again in (dataset, other):
                assert np.array_equal(first, again.image(case).array), f"{case}: image changed"
            if dataset.has_label(case):
                same = np.array_equal(dataset.label(case), other.label(case))
                assert same, f"{case}: label changed"

    def test_what_is_read_is_a_copy(self) -> None:
        """Check that writing into a returned image does not change the dataset."""
        dataset = self.make()
        case = self._some(dataset)[0]
        array = dataset.image(case).array
        before = array.copy()
        if array.flags.writeable:
            array += 1.0
        assert np.array_equal(before, dataset.image(case).array), f"{case}: image() shares memory"

    def test_names_a_file(self) -> None:
        """Check that ``source`` names the origin of a case, for messages."""
        dataset = self.make()
        for case in self._some(dataset):
            assert dataset.source(case), f"{case}: source must not be empty"

    def _some(self, dataset: Dataset) -> list[str]:
        split = dataset.split()
        return [*split.train[: self.cases], *split.test[: self.cases]]
