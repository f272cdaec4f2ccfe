"""Strong views of images, and the cut of CutMix, that methods share.

They draw from torch's default generator, which the trainer seeds for every step.

References:
    Yun et al. "CutMix: Regularization strategy to train strong classifiers with localizable
    features." ICCV 2019. https://arxiv.org/abs/1905.04899
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from semisam.core.axes import LINEAR, MEAN_POOL

_GAMMA = (math.log(0.6), math.log(1.6))
_BIAS = 0.3  # standard deviation of the logarithm of the bias field
_KNOTS = 4  # of the bias field along each axis
_SCALE, _SHIFT = 0.25, 0.25  # contrast and brightness, in the image's standard deviations
_NOISE = 0.3
_SHARE = (0.02, 0.4)  # of the image that is cut


def strong_view(image: Tensor) -> Tensor:
    """Return images of the same content with another contrast, sharpness, noise and bias field.

    Each channel of each row gets its own gamma, bias field, blur, contrast, brightness and noise.
    No voxel moves, so a label or a map of the image holds for the view.

    Args:
        image: ``(B, C, *S)`` with two or three spatial axes.

    Example:
        >>> strong_view(torch.rand(2, 1, 8, 8, 8)).shape
        torch.Size([2, 1, 8, 8, 8])
    """
    axes = tuple(range(2, image.ndim))
    each = (*image.shape[:2], *[1] * len(axes))
    x = image.float()

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(each, device=x.device).uniform_(low, high)

    std = x.std(axes, keepdim=True)
    low, high = x.amin(axes, keepdim=True), x.amax(axes, keepdim=True)
    wide = (high - low).clamp(min=1e-6)
    bright = ((x - low) / wide).pow(uniform(*_GAMMA).exp())
    bright = bright * _bias_field(x).exp()
    x = torch.lerp(bright, _mean_of_neighbours(bright), uniform(0, 1)) * wide + low
    mean = x.mean(axes, keepdim=True)
    x = (x - mean) * uniform(1 - _SCALE, 1 + _SCALE) + mean + std * uniform(-_SHIFT, _SHIFT)
    return (x + std * uniform(0, _NOISE) * torch.randn_like(x)).to(image.dtype)


def draw_cut(image: Tensor) -> Tensor:
    """Return ``(*S)`` boolean, True in a box of 2 to 40 % of the voxels at a random place.

    Args:
        image: ``(B, C, *S)`` whose rows are to be mixed.
    """
    shape = image.shape[2:]
    share = float(torch.empty(()).uniform_(*_SHARE))
    # Sides of unlike proportions whose product is the share.
    powers = torch.rand(len(shape)) + 0.5
    sides = (share ** (powers / powers.sum())).tolist()
    lengths = [min(max(round(n * side), 1), n) for n, side in zip(shape, sides, strict=True)]
    return box_of(shape, lengths).to(image.device)


def box_of(shape: Sequence[int], lengths: Sequence[int]) -> Tensor:
    """Return ``(*S)`` boolean, True in a box of these lengths at a random place.

    Args:
        shape: ``(*S)``.
        lengths: of the box, from 1 to the size of each axis.
    """
    box = torch.ones(tuple(shape), dtype=torch.bool)
    for axis, (size, length) in enumerate(zip(shape, lengths, strict=True)):
        first = int(torch.randint(0, size - length + 1, ()))
        along = torch.zeros(size, dtype=torch.bool)
        along[first : first + length] = True
        box &= along.view(-1, *[1] * (len(shape) - axis - 1))
    return box


def mix(rows: Tensor, cut: Tensor) -> Tensor:
    """Paste the cut of each row onto the row before it: ``(B, ..., *S)`` to the same shape.

    Images, labels and maps are mixed alike.
    """
    return torch.where(cut, rows.roll(-1, 0), rows)


def unmix(rows: Tensor, cut: Tensor) -> Tensor:
    """Put mixed rows together again, each voxel from the mix that holds it; inverse of `mix`."""
    return torch.where(cut, rows.roll(1, 0), rows)


def _bias_field(image: Tensor) -> Tensor:
    """Return the logarithm of a smooth field of each channel, ``(B, C, *S)``."""
    shape = image.shape[2:]
    knots = _BIAS * torch.randn((*image.shape[:2], *[_KNOTS] * len(shape)), device=image.device)
    mode = LINEAR[len(shape)]
    return functional.interpolate(knots, tuple(shape), mode=mode, align_corners=True)


def _mean_of_neighbours(image: Tensor) -> Tensor:
    mean: Tensor = MEAN_POOL[image.ndim - 2](image, 3, 1, 1, count_include_pad=False)
    return mean
