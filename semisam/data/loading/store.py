"""Volumes in memory, and the guarantee that no label of an unlabeled case is ever read."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from semisam.core.errors import InputError, SemisamError
from semisam.data.datasets.dataset import Dataset, Image

T = TypeVar("T")


class LabelLeak(SemisamError):
    """Something asked for the label of a case that the run treats as unlabeled."""


class VolumeStore:
    """Images and permitted labels of one run, cached up to a number of bytes; thread-safe.

    The arrays handed out are read-only: they are shared by every reader. Memory-mapped ones are
    not cached: the system does that, and a patch costs no more than its own pages.

    Args:
        dataset: where the volumes come from.
        labeled: training cases whose label may be read.
        unlabeled: training cases whose label may not be read.
        test: cases to evaluate on; their label may be read.
        oracle: let the labels of unlabeled cases be read after all, for a control that says so.
        max_bytes: bound of the cache; the least recently used volume goes first.

    Raises:
        InputError: a case is in two of the three groups, or twice in one.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        labeled: Sequence[str],
        unlabeled: Sequence[str],
        test: Sequence[str],
        oracle: bool = False,
        max_bytes: int = 4 * 2**30,
    ) -> None:
        self.dataset = dataset
        self.labeled, self.unlabeled, self.test = tuple(labeled), tuple(unlabeled), tuple(test)
        self._cases = (*self.labeled, *self.unlabeled, *self.test)
        seen: set[str] = set()
        for case in self._cases:
            if case in seen:
                raise InputError(
                    "labeled, unlabeled and test cases must all be different, got "
                    f"{case} twice; take one out"
                )
            seen.add(case)
        extra = self.unlabeled if oracle else ()
        self._may_read_label = frozenset((*self.labeled, *self.test, *extra))
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._cache: OrderedDict[tuple[str, str], tuple[Any, int]] = OrderedDict()
        self._bytes = 0

    def image(self, case: str) -> Image:
        """Return one image; its array is read-only.

        Raises:
            InputError: the file is missing or unreadable.
        """
        return self._cached(
            ("image", case), lambda: self.dataset.image(case), lambda image: image.array
        )

    def label(self, case: str) -> NDArray[np.uint8]:
        """Return the label ``(*S)`` of a labeled or a test case; read-only.

        Raises:
            LabelLeak: the case is neither.
            InputError: the file is missing or unreadable.
        """
        if case not in self._may_read_label:
            raise LabelLeak(
                f"only labels of labeled and test cases may be read, got a request for that of "
                f"{case}; labels of unlabeled cases never enter a run"
            )
        return self._cached(("label", case), lambda: self.dataset.label(case), lambda label: label)

    @property
    def cached_bytes(self) -> int:
        """Bytes that the cache holds now."""
        return self._bytes

    def check(self, on_case: Callable[[int, int], None] | None = None) -> dict[str, str]:
        """Read and check everything that the run may read, before it starts.

        Args:
            on_case: called with (cases done, cases in all) after each case, in this thread.

        Returns:
            SHA-256 per array under ``image:<case>`` and ``label:<case>``, labels of labeled and
            test cases only.

        Raises:
            InputError: the first fault in the order labeled, unlabeled, test.
        """
        hashes: dict[str, str] = {}
        workers = min(4, os.cpu_count() or 1)
        with ThreadPoolExecutor(workers, thread_name_prefix="check") as pool:
            futures = [pool.submit(self._check_case, case) for case in self._cases]
            try:
                for done, future in enumerate(futures, start=1):
                    hashes.update(future.result())
                    if on_case is not None:
                        on_case(done, len(futures))
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
        return hashes

    def _check_case(self, case: str) -> dict[str, str]:
        source = self.dataset.source(case)
        image = told(source, lambda: self.image(case).array)
        check_image(image, self.dataset.channels, source)
        hashes = {f"image:{case}": array_hash(image)}
        if case in self._may_read_label:
            if not told(source, lambda: self.dataset.has_label(case)):
                kind = "labeled training" if case in self.labeled else "test"
                raise InputError(
                    f"{source}: a {kind} case must have a label, got none; add it (in an h5 file "
                    "the key 'label') or take the case out of the list"
                )
            label = told(source, lambda: self.label(case))
            check_label(label, image.shape[1:], self.dataset.num_classes, source)
            if case in self.labeled and not label.any():
                raise InputError(
                    f"{source}: the label of a labeled training case must contain a foreground "
                    "class, got background alone; correct it or use the case as unlabeled"
                )
            hashes[f"label:{case}"] = array_hash(label)
        return hashes

    def _cached(
        self, key: tuple[str, str], read: Callable[[], T], array_of: Callable[[T], NDArray[Any]]
    ) -> T:
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                value: T = self._cache[key][0]
                return value
        value = read()  # outside the lock: two threads may read one volume twice, never wrongly
        array = array_of(value)
        array.setflags(write=False)
        if isinstance(array, np.memmap):
            return value  # costs no memory, is opened in no time, and holds a file open
        with self._lock:
            if key not in self._cache and array.nbytes <= self._max_bytes:
                self._cache[key] = (value, array.nbytes)
                self._bytes += array.nbytes
                while self._bytes > self._max_bytes:
                    self._bytes -= self._cache.popitem(last=False)[1][1]
        return value


def check_image(image: NDArray[np.float32], channels: int, source: str) -> None:
    """Raise an `InputError` where an image ``(C, *S)`` cannot be trained on."""
    if image.shape[0] != channels:
        raise InputError(
            f"{source}: every image must have {channels} channel(s), got {image.shape[0]}; "
            "write all images with the same channels"
        )
    if image.size == 0:
        raise InputError(f"{source}: the image must have voxels, got shape {image.shape[1:]}")
    if not np.isfinite(image).all():
        count = int(image.size - np.isfinite(image).sum())
        raise InputError(
            f"{source}: every voxel must be finite, got {count} that are NaN or infinite; replace "
            "them, for example by 0"
        )


def check_label(
    label: NDArray[np.uint8], shape: tuple[int, ...], num_classes: int, source: str
) -> None:
    """Raise an `InputError` where a label does not fit its image or its number of classes."""
    if label.shape != shape:
        raise InputError(
            f"{source}: image and label must have one shape, got {shape} and {label.shape}; "
            "resample the label onto the image's grid"
        )
    highest = int(label.max())
    if highest >= num_classes:
        raise InputError(
            f"{source}: a label of {num_classes} classes must hold values from 0 to "
            f"{num_classes - 1}, got {highest}; renumber the label or raise the number of classes"
        )


def array_hash(array: NDArray[Any]) -> str:
    """Return the SHA-256 of dtype, shape and little-endian bytes, in hex."""
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    digest = hashlib.sha256(f"{array.dtype.name}|{array.shape}|".encode())
    digest.update(little.data if little.size else b"")
    return digest.hexdigest()


def data_hash(hashes: Mapping[str, str]) -> str:
    """Return one SHA-256 of many, whatever their order, in hex."""
    lines = sorted(f"{key}={value}\n" for key, value in hashes.items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def told(source: str, read: Callable[[], T]) -> T:
    """Turn what a dataset's reader raises into one sentence with the file's name.

    Args:
        source: the file's name.
        read: the reader.

    Raises:
        InputError: for whatever a missing or damaged file raises.
    """
    try:
        return read()
    except SemisamError:
        raise
    except FileNotFoundError as error:
        raise InputError(
            f"{source}: the file is missing; copy it there or take its case out of the list"
        ) from error
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{source}: the file must be readable, got '{error}'; it seems cut off or damaged, "
            "copy it again"
        ) from error
