"""Random fields that are bit-identical on every machine.

The random numbers are raw words of a counter-based generator, which NumPy guarantees to keep. The
arithmetic is element-wise addition, multiplication, division and square root, which IEEE 754
defines to the bit. Mean and deviation come from integers. ``exp``, ``sin``, BLAS and FFT are not
used, because they differ in the last bit between processors.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]

_WORDS_DEVIATION = 65536 / math.sqrt(3)  # of the sum of four 16-bit words


class ExactRandom:
    """A stream of random numbers, identified by a seed and an index.

    Args:
        seed: a non-negative integer.
        index: a non-negative integer; each index has its own stream.
    """

    def __init__(self, seed: int, index: int) -> None:
        self._bits = np.random.Philox(np.random.SeedSequence(seed, spawn_key=(index,)))

    def uniform(self, low: float, high: float) -> float:
        """Draw a number from ``low`` to ``high``."""
        return low + (high - low) * float((int(self._bits.random_raw()) >> 11) * 2.0**-53)

    def whole(self, low: int, high: int) -> int:
        """Draw an integer from ``low`` to ``high``, both included."""
        return low + int(self.uniform(0, high - low + 1))

    def uniforms(self, shape: tuple[int, ...]) -> Field:
        """Draw a field in [-1, 1)."""
        words = self._bits.random_raw(math.prod(shape)) >> np.uint64(40)
        return (words.astype(np.float32) * 2.0**-23 - 1.0).reshape(shape)

    def normals(self, shape: tuple[int, ...]) -> Field:
        """Draw approximately normal numbers of deviation 1: sums of four 16-bit words."""
        words = self._bits.random_raw(math.prod(shape)).view(np.uint16).reshape(-1, 4)
        total = words[:, 0].astype(np.int32)
        for column in range(1, 4):
            total = total + words[:, column]
        return ((total - 131070).astype(np.float32) / _WORDS_DEVIATION).reshape(shape)

    def smooth(self, shape: tuple[int, ...], cells: int) -> Field:
        """Draw a field in [-1, 1] that varies over 1/cells of the volume's longest axis."""
        longest = max(shape)
        counts = [max(1, round(cells * n / longest)) for n in shape]
        field = self.uniforms(tuple(count + 2 for count in counts))
        for axis, (n, count) in enumerate(zip(shape, counts, strict=True)):
            field = _spline(field, axis, n, count)
        return field


def _spline(field: Field, axis: int, n: int, count: int) -> Field:
    """Stretch one axis from ``count + 2`` nodes to ``n`` voxels by quadratic B-splines."""
    place = (np.arange(n, dtype=np.float32) + 0.5) * (count / n)
    first = np.minimum(place.astype(np.int64), count - 1)
    t = (place - first).astype(np.float32)
    column = tuple(-1 if a == axis else 1 for a in range(field.ndim))
    weights = (0.5 * (1 - t) * (1 - t), 0.5 + t * (1 - t), 0.5 * t * t)
    parts = [
        field.take(first + shift, axis) * weight.reshape(column)
        for shift, weight in enumerate(weights)
    ]
    result: Field = parts[0] + parts[1] + parts[2]
    return result


def blurred(image: Field) -> Field:
    """Average with the neighbours along each axis by (1, 2, 1) / 4, repeating the border."""
    for axis in range(image.ndim):
        padded = np.pad(image, [(int(a == axis),) * 2 for a in range(image.ndim)], mode="edge")
        n = image.shape[axis]
        low, high = padded.take(range(n), axis), padded.take(range(2, n + 2), axis)
        image = 0.5 * image + 0.25 * (low + high)
    return image


def z_scored(image: Field) -> Field:
    """Round to grey values as a scanner stores them, then scale to mean 0 and deviation 1."""
    grey = np.rint(image * 1000.0).astype(np.int64)
    count, total, squares = grey.size, int(grey.sum()), int((grey * grey).sum())
    mean = total / count
    deviation = math.sqrt((count * squares - total * total) / (count * count))
    scaled: Field = ((grey - mean) / deviation).astype(np.float32)
    return scaled
