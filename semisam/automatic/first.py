"""The scans to label first, before any has a mask."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from semisam.automatic.coverage import cover
from semisam.core.errors import InputError
from semisam.data.datasets.dataset import Dataset
from semisam.data.loading.sampling import slice_axes
from semisam.inference.sliding_window import pad_to_patch, window_starts
from semisam.networks.unet import UNet

SMALL = {2: (128, 128), 3: (64, 64, 48)}
"""Patches that any machine can train, by axes."""
_WINDOWS, _SLICES = 3, 16  # the most along an axis of a scan


def small_patch(dataset: Dataset) -> tuple[int, ...]:
    """Return a patch within the one that suits the scans, which any machine can train.

    Raises:
        InputError: the scans have another number of axes than two or three.
    """
    suggested = dataset.suggested.get("patch", SMALL[3])
    small = SMALL.get(len(suggested))
    if small is None:
        raise InputError(f"scans must have two or three axes, got {len(suggested)}. Split them.")
    return tuple(min(pair) for pair in zip(suggested, small, strict=True))


@torch.inference_mode()
def first_to_label(
    dataset: Dataset,
    cases: Sequence[str],
    count: int,
    device: str = "cpu",
    on_case: Callable[[int, int], None] | None = None,
    labeled: Sequence[str] = (),
) -> tuple[str, ...]:
    """Return the cases to label first, the best first: together, many others resemble them.

    Cases that resemble a labeled one come late.

    Cases are compared by the means of the deepest features of the network from which a training
    starts, in windows of `small_patch`. No label is read.

    Args:
        dataset: of the cases.
        cases: to choose from.
        count: of them, if there are so many.
        device: on which the network computes.
        on_case: called with (cases seen, their number).
        labeled: further cases, which have a label.
    """
    every = [*labeled, *cases]
    patch = small_patch(dataset)
    network = UNet(dataset.channels, {}, axes=2 if len(patch) == 2 else 3).to(device).eval()
    vectors = []
    for done, case in enumerate(every):
        if on_case is not None:
            on_case(done, len(every))
        image = torch.tensor(dataset.image(case).array, device=device)
        seen = [network.deepest_features(w).flatten(2).mean(2) for w in _windows(image, patch)]
        vectors.append(torch.cat(seen).mean(0).cpu())
    if on_case is not None:
        on_case(len(every), len(every))
    known = range(len(labeled))
    chosen = cover(torch.stack(vectors).numpy(), known, min(count, len(cases)))
    return tuple(every[at] for at in chosen)


def _windows(image: Tensor, patch: Sequence[int]) -> Iterator[Tensor]:
    """Yield windows ``(1, C, *patch)`` that are spread evenly over an image ``(C, *S)``.

    They cover a scan of up to three patches along each axis. A larger one has gaps between them, so
    that its size does not matter. A patch of two axes is taken from up to 16 slices of a volume.
    """
    sliced = (1,) * slice_axes(image.ndim - 1, patch)
    sides = (*patch, *sliced)
    image, _ = pad_to_patch(image, sides)
    starts = []
    for axis, (size, side) in enumerate(zip(image.shape[1:], sides, strict=True)):
        most = _WINDOWS if axis < len(patch) else _SLICES
        starts.append(window_starts(size, side, max(side, math.ceil((size - side) / (most - 1)))))
    for corner in itertools.product(*starts):
        at = [slice(c, c + side) for c, side in zip(corner, sides, strict=True)]
        window = image[(slice(None), *at)][None]
        yield window.squeeze(-1) if sliced else window
