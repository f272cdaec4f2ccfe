"""The scans to label first, before any has a mask."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from semisam.automatic.coverage import cover
from semisam.data.datasets.dataset import Dataset
from semisam.data.datasets.grids import small_patch
from semisam.data.loading.sampling import slice_axes
from semisam.inference.sliding_window import pad_to_patch, window_starts
from semisam.networks.unet import UNet

_WINDOWS, _SLICES = 3, 16  # the most along an axis of a scan


def training_cases_to_label(
    dataset: Dataset,
    count: int,
    device: str = "cpu",
    on_case: Callable[[int, int], None] | None = None,
) -> tuple[str, ...]:
    """Return the training cases to label first, as `first_to_label` does.

    If some have a label, only those without one are named. If all have one, all may be named.

    Args:
        dataset: of the cases.
        count: of them, if there are so many.
        device: on which the network computes.
        on_case: called with (cases seen, their number).
    """
    train = dataset.split().train
    labeled = [case for case in train if dataset.has_label(case)]
    known = set(labeled)
    others = [case for case in train if case not in known]
    if not others:
        return first_to_label(dataset, train, count, device, on_case)
    return first_to_label(dataset, others, count, device, on_case, labeled)


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
