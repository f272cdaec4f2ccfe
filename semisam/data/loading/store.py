"""A cache of volumes that never reads the label of an unlabeled case."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from semisam.core.errors import InputError, SemisamError, first_few
from semisam.core.threads import in_order
from semisam.core.types import IGNORE
from semisam.data.datasets.dataset import Dataset, Image
from semisam.data.datasets.labels import class_notes, classes_in, is_inverted, is_partial
from semisam.metrics.scores import classes_by_components

T = TypeVar("T")


class LabelLeak(SemisamError):
    """The label of a case that the run treats as unlabeled was requested."""


class VolumeStore:
    """A thread-safe cache, bounded in bytes, of the images and permitted labels of one run.

    The returned arrays are read-only, because all readers share them. Memory-mapped arrays are not
    cached: the system caches their pages.

    Args:
        dataset: source of the volumes.
        labeled: training cases whose label may be read.
        unlabeled: training cases whose label may not be read.
        test: cases to evaluate on; their label may be read.
        validation: labeled cases that are held out from training; their label may be read.
        oracle: also allow the labels of unlabeled cases, for a control.
        max_bytes: bound of the cache; the least recently used volume is removed first.

    Raises:
        InputError: a case is in two of the groups, or twice in one.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        labeled: Sequence[str],
        unlabeled: Sequence[str],
        test: Sequence[str],
        validation: Sequence[str] = (),
        oracle: bool = False,
        max_bytes: int = 4 * 2**30,
    ) -> None:
        self.dataset = dataset
        self.labeled, self.unlabeled, self.test = tuple(labeled), tuple(unlabeled), tuple(test)
        self.validation = tuple(validation)
        self._scored = (*self.validation, *self.test)
        self._cases = (*self.labeled, *self.unlabeled, *self._scored)
        seen: set[str] = set()
        for case in self._cases:
            if case in seen:
                raise InputError(
                    "labeled, unlabeled, validation and test cases must all be different, got "
                    f"{case} twice. Remove one."
                )
            seen.add(case)
        extra = self.unlabeled if oracle else ()
        self._may_read_label = frozenset((*self.labeled, *self._scored, *extra))
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._cache: OrderedDict[tuple[str, str], tuple[Any, int]] = OrderedDict()
        self._bytes = 0
        self._held: dict[str, frozenset[int]] = {}
        self._lost: dict[str, frozenset[int]] = {}
        self._inverted: dict[str, bool] = {}

    def image(self, case: str) -> Image:
        """Return one image; its array is read-only.

        Raises:
            InputError: the file is missing or unreadable.
        """
        return self._cached(
            ("image", case), lambda: self.dataset.image(case), lambda image: image.array
        )

    def label(self, case: str) -> NDArray[np.uint8]:
        """Return the label ``(*S)`` of a labeled, validation or test case; read-only.

        Raises:
            LabelLeak: the case is unlabeled, and the run is no control that reads the truth.
            InputError: the file is missing or unreadable.
        """
        self._refuse_leak(case)
        return self._cached(("label", case), lambda: self.dataset.label(case), lambda label: label)

    def drawn_label(self, case: str) -> NDArray[np.uint8]:
        """Return the label of a labeled, validation or test case on its file's grid; read-only.

        Raises:
            LabelLeak: the case is unlabeled, and the run is no control that reads the truth.
            InputError: the file is missing or unreadable.
        """
        if self.image(case).placement is None:
            return self.label(case)
        self._refuse_leak(case)
        return self.dataset.drawn_label(case)  # read once per evaluation, so not cached

    def _refuse_leak(self, case: str) -> None:
        if case not in self._may_read_label:
            raise LabelLeak(
                f"only labels of labeled and scored cases may be read, got a request for {case}. "
                "Labels of unlabeled cases never enter a run."
            )

    @property
    def cached_bytes(self) -> int:
        """Size of the cache in bytes."""
        return self._bytes

    def check(self, on_case: Callable[[int, int], None] | None = None) -> dict[str, str]:
        """Read and check all volumes that the run may read, before it starts.

        Args:
            on_case: called with (cases done, number of cases) after each case, in this thread.

        Returns:
            SHA-256 per array under ``image:<case>``, ``label:<case>`` of cases whose label may be
            read, and ``drawn:<case>`` of cases that are scored on another grid than the image's.

        Raises:
            InputError: a volume is faulty; the first of labeled, unlabeled, validation, test cases.
        """
        hashes: dict[str, str] = {}
        for found in in_order(self._cases, self._check_case, on_case):
            hashes |= found
        if self.labeled and not any(self._held.values()):
            raise InputError(
                f"a labeled training case must contain a foreground class, got none in "
                f"{first_few(self.labeled)}. Label "
                "more cases, or choose others with --subset."
            )
        return hashes

    def _check_case(self, case: str) -> dict[str, str]:
        source = self.dataset.source(case)
        whole = read_named(source, lambda: self.image(case))
        image, placement = whole.array, whole.placement
        check_image(image, self.dataset.channels, source)
        check_contrast(image, source)
        hashes = {f"image:{case}": _image_hash(whole)}
        if case in self._may_read_label:
            if not read_named(source, lambda: self.dataset.has_label(case)):
                kind = self._kind(case)
                raise InputError(
                    f"{source}: a {kind} case must have a label, got none. Add it (in an h5 file "
                    "the key 'label') or remove the case from the list."
                )
            label = read_named(source, lambda: self.label(case))
            check_label(label, image.shape[1:], self.dataset, source)
            hashes[f"label:{case}"] = array_hash(label)
            drawn = label
            if placement is not None and case in (*self._scored, *self.labeled):
                drawn = read_named(source, lambda: self.drawn_label(case))
                check_label(drawn, placement.shape, self.dataset, source)
                if case in self._scored:
                    hashes[f"drawn:{case}"] = array_hash(drawn)
            if case in self.labeled:
                self._note_classes(case, label, drawn)
        return hashes

    def _kind(self, case: str) -> str:
        """Return the part of a run that reads the label of a case, for a message."""
        if case in self._scored:
            return "validation" if case in self.validation else "test"
        return "labeled training" if case in self.labeled else "control's"

    def _note_classes(self, case: str, label: NDArray[np.uint8], drawn: NDArray[np.uint8]) -> None:
        """Record the classes of a labeled case, and refuse a label without any."""
        self._held[case] = held = classes_in(label)
        self._lost[case] = classes_in(drawn) - held
        self._inverted[case] = is_inverted(drawn)
        if held or getattr(self.dataset, "empty_labels", False):
            return
        got, remedy = "only background", "Correct it or use the case as unlabeled"
        if self._lost[case]:
            got, remedy = "none at the training spacing", "Choose a finer spacing"
        elif bool((drawn == IGNORE).all()):
            got = "only voxels that nobody annotated"
        raise InputError(
            f"{self.dataset.source(case)}: the label of a labeled training case must contain a "
            f"foreground class, got {got}. {remedy}."
        )

    def notes(self) -> list[str]:
        """Return sentences on the classes of labeled cases, of which `check` read the labels."""
        lost = {case: self._lost[case] for case in self.labeled if case in self._lost}
        inverted = self._inverted.values()
        return class_notes(self.dataset.class_names, self._held.values(), lost, inverted)

    def components(self, axes: int | None = None) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the classes that are one component in the labeled cases, and those of several.

        A label that is annotated in part does not count: a part of an organ has other components.

        Args:
            axes: of components; ``None``: of the labels. See `classes_by_components`.
        """
        complete = [label for case in self.labeled if not is_partial(label := self.label(case))]
        return classes_by_components(complete, self.dataset.num_classes, axes)

    def _cached(
        self, key: tuple[str, str], read: Callable[[], T], array_of: Callable[[T], NDArray[Any]]
    ) -> T:
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                value: T = self._cache[key][0]
                return value
        value = read()  # outside the lock: at worst two threads read a volume twice
        array = array_of(value)
        array.setflags(write=False)
        if isinstance(array, np.memmap):
            return value  # it needs no memory, opens fast, and would keep a file open
        with self._lock:
            if key not in self._cache and array.nbytes <= self._max_bytes:
                self._cache[key] = (value, array.nbytes)
                self._bytes += array.nbytes
                while self._bytes > self._max_bytes:
                    self._bytes -= self._cache.popitem(last=False)[1][1]
        return value


def check_image(image: NDArray[np.float32], channels: int, source: str) -> None:
    """Raise an `InputError` if an image ``(C, *S)`` is unfit for training."""
    if image.shape[0] != channels:
        raise InputError(
            f"{source}: every image must have {channels} channel(s), got {image.shape[0]}. "
            "Write all images with the same channels."
        )
    if image.size == 0:
        raise InputError(f"{source}: the image must have voxels, got shape {image.shape[1:]}.")
    if not np.isfinite(image).all():
        count = int(image.size - np.isfinite(image).sum())
        raise InputError(
            f"{source}: every voxel must be finite, got {count} that are NaN or infinite. Replace "
            "them, for example by 0."
        )


def check_contrast(image: NDArray[np.float32], source: str) -> None:
    """Raise an `InputError` if all voxels of an image are equal."""
    if image.min() == image.max():
        raise InputError(
            f"{source}: an image must have contrast, got {image.flat[0]:g} everywhere. Export it "
            "again, or leave it out."
        )


def check_label(
    label: NDArray[np.uint8], shape: tuple[int, ...], dataset: Dataset, source: str
) -> None:
    """Raise an `InputError` if a label does not fit its image or its dataset's classes.

    Args:
        label: ``(*S)``, with ignored voxels if the dataset has `Dataset.partial_labels`.
        shape: of the image.
        dataset: of the label.
        source: the file's name for the message.
    """
    if label.shape != shape:
        raise InputError(
            f"{source}: image and label must have one shape, got {shape} and {label.shape}. "
            "Resample the label onto the image's grid."
        )
    num_classes = dataset.num_classes
    highest = int(label.max())
    if highest == IGNORE and getattr(dataset, "partial_labels", False):
        highest = int(label.max(where=label != IGNORE, initial=0))
    if highest >= num_classes:
        partial = ", or set partial_labels = True for voxels that nobody annotated"
        raise InputError(
            f"{source}: a label of {num_classes} classes must hold values from 0 to "
            f"{num_classes - 1}, got {highest}. Renumber the label or raise the number of classes"
            f"{partial if highest == IGNORE else ''}."
        )


def array_hash(array: NDArray[Any]) -> str:
    """Return the SHA-256 of dtype, shape and little-endian bytes, in hex."""
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    digest = hashlib.sha256(f"{array.dtype.name}|{array.shape}|".encode())
    digest.update(little.data if little.size else b"")
    return digest.hexdigest()


def _image_hash(image: Image) -> str:
    """Return the hash of voxels, spacing and direction, on which mm and later masks depend."""
    both = (image.geometry, image.placement.geometry if image.placement else image.geometry)
    # Formats round differently.
    numbers = [np.round([*g.spacing, *(g.direction or ())], 4).tolist() for g in both]
    return hashlib.sha256(f"{array_hash(image.array)}|{numbers}".encode()).hexdigest()


def data_hash(hashes: Mapping[str, str]) -> str:
    """Return the SHA-256, in hex, of a set of hashes, independent of their order."""
    lines = sorted(f"{key}={value}\n" for key, value in hashes.items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_named(source: str, read: Callable[[], T]) -> T:
    """Call a reader and turn its errors into an `InputError` with the file's name.

    Args:
        source: the file's name.
        read: the reader.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        return read()
    except SemisamError:
        raise
    except FileNotFoundError as error:
        raise InputError(
            f"{source}: the file must exist, got none. Copy it there or remove its case from the "
            "list."
        ) from error
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{source}: the file must be readable, got '{error}'. It may be truncated or damaged: "
            "copy it again."
        ) from error
