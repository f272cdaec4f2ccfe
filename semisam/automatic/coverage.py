"""The choice of scans and slices to label next."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from torch import Tensor, nn

from semisam.core.axes import GRID_MEANS
from semisam.core.losses import entropy


class Description:
    """The deepest features of a method's network in one scan, by which scans are compared.

    Half of the numbers are the means of the deepest features over the scan, and half those over the
    predicted foreground.
    """

    def __init__(self) -> None:
        self._deepest: Tensor | None = None
        self._sums: list[Tensor] = []
        self._weights: list[float] = []

    def keep(self, module: nn.Module, inputs: object, features: Tensor) -> None:
        """Keep the deepest features ``(B, F, *s)`` of a window."""
        self._deepest = features

    def add(self, module: nn.Module, inputs: object, probs: Tensor) -> None:
        """Add a window whose probabilities are ``(B, K, *S)``."""
        if self._deepest is None:
            return
        features, self._deepest = self._deepest.float(), None
        pool = GRID_MEANS[features.ndim - 2]
        inside = pool(1 - probs[:, :1].float(), features.shape[2:])
        for weight in (torch.ones_like(inside), inside):
            self._sums.append((features * weight).transpose(0, 1).flatten(1).sum(1).cpu())
            self._weights.append(float(weight.sum()))

    def vector(self) -> NDArray[np.float16] | None:
        """Return the ``2 F`` numbers, or ``None`` if the network does not name its features."""
        if not self._sums:
            return None
        means = [
            torch.stack(self._sums[part::2]).sum(0) / max(sum(self._weights[part::2]), 1e-6)
            for part in (0, 1)
        ]
        return np.asarray(torch.cat(means).numpy(), np.float16)


@contextlib.contextmanager
def described(method: nn.Module) -> Iterator[Description]:
    """Describe the scan that a method segments in the ``with`` block.

    A network names the part with its deepest features in the attribute ``deepest``, as those of
    semisam do.

    Args:
        method: maps images or windows to probabilities.
    """
    found = Description()
    hooks = [method.register_forward_hook(found.add)]
    for network in method.modules():
        name = getattr(network, "deepest", None)
        if isinstance(name, str):
            hooks.append(network.get_submodule(name).register_forward_hook(found.keep))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def cover(vectors: NDArray[np.floating], known: Sequence[int], count: int) -> list[int]:
    """Return the scans whose labels would leave every scan closest to a labeled one.

    One after another, the scan is taken that reduces the sum of all distances to the nearest
    labeled scan most. So a scan is chosen that many others resemble and no labeled one does.

    Args:
        vectors: ``(N, F)``, one per scan; each of the ``F`` numbers is scaled to unit variance.
        known: rows of the labeled scans.
        count: number of scans to choose, at most the number of others.

    Returns:
        Rows of scans that are not labeled, the best first.

    Example:
        >>> cover(np.array([[0.0], [5.0], [5.1], [5.2], [8.0]]), known=[0], count=2)
        [2, 4]
    """
    scaled = (vectors - vectors.mean(0)) / np.maximum(vectors.std(0), 1e-6)
    apart = cdist(scaled, scaled)
    nearest = apart[list(known)].min(0) if known else np.full(len(apart), apart.max())
    chosen: list[int] = []
    for _ in range(count):
        gains = (nearest - np.minimum(nearest, apart)).sum(1)
        gains[[*known, *chosen]] = -1
        chosen.append(int(gains.argmax()))
        nearest = np.minimum(nearest, apart[chosen[-1]])
    return chosen


def doubt_by_slice(probs: Tensor) -> NDArray[np.floating]:
    """Return the entropy in each slice of a volume, ``(S,)`` along its last axis.

    It is 0 in slices where no class was found.

    Args:
        probs: ``(K, *S)`` with three spatial axes.
    """
    unsure = entropy(probs[None])[0, 0].sum((0, 1))
    found = (probs.argmax(0) > 0).any(0).any(0)
    return np.asarray((unsure * found).cpu().numpy())


def doubtful_slices(doubt: NDArray[np.floating], count: int) -> list[int]:
    """Return the slices with most doubt, apart from each other.

    Args:
        doubt: ``(S,)``, the doubt in each slice.
        count: number of slices to choose; fewer are returned where doubt is 0 elsewhere.

    Returns:
        Indices, the most doubtful first. Two of them are at least half as far apart as ``count``
        evenly spaced slices would be.

    Example:
        >>> doubtful_slices(np.array([0.0, 1.0, 3.0, 4.0, 3.5, 1.0, 2.0, 0.0]), count=2)
        [3, 6]
    """
    left = np.array(doubt, dtype=float)
    gap = int((left > 0).sum()) // (2 * count)
    chosen: list[int] = []
    while len(chosen) < count and left.max() > 0:
        chosen.append(int(left.argmax()))
        left[max(chosen[-1] - gap, 0) : chosen[-1] + gap + 1] = 0
    return sorted(chosen, key=lambda at: -doubt[at])
