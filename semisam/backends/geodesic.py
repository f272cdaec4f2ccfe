"""A promptable segmenter without weights: geodesic distance, intensity, edge-aware smoothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.csgraph import dijkstra
from torch import Tensor
from torch.nn import functional

from semisam.backends._graph import neighbour_graph
from semisam.backends._seeds import (
    Bools,
    box_core,
    box_mask,
    check_prompt,
    clicks,
    coarse_mask,
    mark,
)
from semisam.backends._smooth import smooth
from semisam.core.errors import InputError
from semisam.core.types import Prompt

Floats = NDArray[np.float32]

_SURE = 6.0  # log odds of a click, and the limit for all other voxels
_SPATIAL = 4.0  # largest log odds of the spatial term
_SHARE = 0.3  # weight of negative clicks in the background density; the image has the rest
_BINS = 64
_BANDWIDTH = 0.4  # of the intensity kernel, in standard deviations of the image
_EDGE = 8.0  # decay of the smoothing with the intensity step


@dataclass(frozen=True)
class Embedding:
    """One image on the coarse grid ``(*s)``, independent of any prompt.

    Attributes:
        shape: ``(*S)`` of the image.
        grid: ``(*s)`` of the coarse grid.
        device: device of the image and of the logits.
        graph: geodesic edge lengths between face neighbours, in voxels of the image, as CSR.
        weights: per axis, the coupling of neighbours in the smoothing, one shorter there.
        bins: ``(C, *s)`` intensity bin of each voxel.
        kernels: ``(C, bins, bins)`` similarity of two bins' intensities.
    """

    shape: tuple[int, ...]
    grid: tuple[int, ...]
    device: torch.device
    graph: Any
    weights: tuple[Tensor, ...]
    bins: NDArray[np.int64]
    kernels: Floats


class Geodesic:
    """A segmenter without training, for clicks, a box or a mask in any image.

    Foreground and background seeds compete for each voxel by geodesic distance, whose steps are
    long across intensity edges (Criminisi et al., "GeoS: Geodesic Image Segmentation", ECCV 2008;
    Bai and Sapiro, "Geodesic Matting: A Framework for Fast Interactive Image and Video Segmentation
    and Matting", IJCV 2009). The log ratio of the intensity densities at the foreground and
    background seeds is added. The sum is the prior of a random walker (Grady, "Multilabel Random
    Walker Image Segmentation Using Prior Models", CVPR 2005), here on the log odds, on a coarser
    grid. With few clicks, background is assumed to begin at ``radius``.

    It works in two and three dimensions and on any number of channels. Distances ignore the
    spacing, which a backend does not receive.

    Args:
        radius: geodesic distance from a single click, in voxels of the image, at which foreground
            and background are equally likely: the scale of the object. It shrinks with the number
            of positive clicks, each of which then represents a part of the object.
        contrast: extra length of a step per standard deviation of intensity that it crosses.
        intensity: weight of the intensity ratio.
        smoothness: weight of the smoothing.
        stride: image voxels per voxel of the coarse grid, along each axis.

    Raises:
        InputError: an option is out of range.
    """

    ndim: int = 3
    accepts: frozenset[str] = frozenset({"points", "box", "mask"})

    def __init__(
        self,
        *,
        radius: float = 20.0,
        contrast: float = 4.0,
        intensity: float = 1.0,
        smoothness: float = 10.0,
        stride: int = 2,
    ) -> None:
        if not (math.isfinite(radius) and radius > 0):
            raise InputError(f"radius must be positive voxels, got {radius}. Use about 20.")
        for name, value in (
            ("contrast", contrast),
            ("intensity", intensity),
            ("smoothness", smoothness),
        ):
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"{name} must be at least 0, got {value}. 0 switches it off.")
        if stride < 1:
            raise InputError(f"stride must be at least 1, got {stride}. 1 is the full grid.")
        self.radius = radius
        self.contrast = contrast
        self.intensity = intensity
        self.smoothness = smoothness
        self.stride = stride

    def encode(self, image: Tensor) -> Embedding:
        """Build graph, smoothing weights and intensity bins of one image ``(C, *S)``."""
        if image.ndim not in (3, 4):
            raise InputError(
                f"an image must be (C, *S) with two or three spatial axes, got "
                f"{tuple(image.shape)}. Drop the batch axis or add the channel axis."
            )
        coarse = _shrink(image.detach().float().cpu(), self.stride)
        bins, kernels = _bin(coarse)
        # Per axis the intensity step between neighbours, in standard deviations.
        steps = [
            np.sqrt(np.mean(np.square(np.diff(coarse, axis=axis)), axis=0))
            for axis in range(1, coarse.ndim)
        ]
        lengths = [self.stride * (0.5 + self.contrast * d) for d in steps]
        weights = tuple(torch.from_numpy(np.exp(-_EDGE * d * d) + np.float32(1e-3)) for d in steps)
        return Embedding(
            shape=tuple(image.shape[1:]),
            grid=coarse.shape[1:],
            device=image.device,
            graph=neighbour_graph(lengths, coarse.shape[1:]),
            weights=weights,
            bins=bins,
            kernels=kernels,
        )

    def segment(self, embedding: Embedding, prompt: Prompt) -> Tensor:
        """Return logits ``(*S)`` float32, all negative if the prompt shows no foreground.

        Raises:
            InputError: a point, the box or the mask does not fit the image.
        """
        check_prompt(prompt, embedding.shape)
        grid, stride = embedding.grid, self.stride
        positive, negative = clicks(prompt, len(grid))
        on, off = mark(positive // stride, grid), mark(negative // stride, grid)
        box = box_mask(prompt.box, grid, stride)
        if prompt.mask is not None:
            mask = coarse_mask(prompt.mask, stride) & box
            fore, back = mask | on, ~mask | off
            spatial = _around(embedding, mask, on, off, self.radius / 4)
        else:
            fore = on if len(positive) else box_core(prompt.box, grid, stride)
            back = off | ~box
            # A box smaller than the image already shows where background begins.
            reach = self.radius * max(len(positive), 1) ** -0.25 if box.all() else math.inf
            spatial = _compete(_distance(embedding, fore), _distance(embedding, back), reach)
        if not fore.any():
            return torch.full(embedding.shape, -_SPATIAL, device=embedding.device)
        share = _SHARE if prompt.mask is None and box.all() else 1.0
        odds = spatial + self.intensity * _ratio(embedding, fore, back, share)
        pins = np.float32(_SURE) * (on.astype(np.float32) - off)
        smoothed = smooth(
            torch.from_numpy(np.clip(odds, -_SURE, _SURE)),
            torch.from_numpy(pins),
            torch.from_numpy(on | off),
            embedding.weights,
            self.smoothness,
        )
        logits = _enlarge(smoothed, embedding.shape, stride)
        logits[tuple(positive.T)] = _SURE
        logits[tuple(negative.T)] = -_SURE
        return logits.to(embedding.device)


def _shrink(image: Tensor, stride: int) -> Floats:
    """Average ``(C, *S)`` over blocks and scale each channel to zero mean and unit deviation."""
    pool = functional.avg_pool3d if image.ndim == 4 else functional.avg_pool2d
    if stride > 1:
        image = pool(image[None], stride, ceil_mode=True, count_include_pad=False)[0]
    coarse = np.nan_to_num(image.numpy())
    axes = tuple(range(1, coarse.ndim))
    std = coarse.std(axis=axes, keepdims=True)
    centred = coarse - coarse.mean(axis=axes, keepdims=True)
    scaled: Floats = (centred / np.where(std > 1e-6, std, 1)).astype(np.float32)
    return scaled


def _enlarge(odds: Tensor, shape: tuple[int, ...], stride: int) -> Tensor:
    """Interpolate ``(*s)`` linearly to the image's grid ``(*S)``."""
    if stride > 1:
        mode = "trilinear" if odds.ndim == 3 else "bilinear"
        odds = functional.interpolate(
            odds[None, None], scale_factor=stride, mode=mode, align_corners=False
        )[0, 0]
    return odds[tuple(slice(s) for s in shape)].contiguous()


def _bin(coarse: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Return each voxel's intensity bin and, per channel, the similarity of two bins."""
    flat = coarse.reshape(len(coarse), -1)
    low, high = flat.min(axis=1), flat.max(axis=1)
    width = np.maximum(high - low, 1e-6) / _BINS
    column = (slice(None), *[None] * (coarse.ndim - 1))
    bins = ((coarse - low[column]) / width[column]).astype(np.int64).clip(0, _BINS - 1)
    centre = width[:, None] * np.arange(_BINS)
    apart = (centre[:, :, None] - centre[:, None, :]) / _BANDWIDTH
    return bins, np.exp(-0.5 * apart * apart).astype(np.float32)


def _distance(embedding: Embedding, seeds: Bools) -> Floats:
    """Return the geodesic distance ``(*s)`` to the nearest seed, infinite without one."""
    sources = np.flatnonzero(seeds)
    if not len(sources):
        return np.full(embedding.grid, np.inf, np.float32)
    found = dijkstra(embedding.graph, indices=sources, min_only=True)
    return np.asarray(found, np.float32).reshape(embedding.grid)


def _compete(to_fore: Floats, to_back: Floats, reach: float) -> Floats:
    """Return log odds from two distances; background is never farther than ``reach``."""
    to_back = np.minimum(to_back, np.float32(min(reach, 1e6)))
    to_fore = np.minimum(to_fore, np.float32(1e6))
    odds: Floats = np.float32(_SPATIAL) * (to_back - to_fore) / (to_back + to_fore + 0.5)
    return odds


def _around(embedding: Embedding, mask: Bools, on: Bools, off: Bools, near: float) -> Floats:
    """Return log odds: the signed distance from the mask's surface, changed near clicks."""
    outer, inner = _distance(embedding, ~mask), _distance(embedding, mask)
    signed = np.clip((np.minimum(outer, 1e6) - np.minimum(inner, 1e6)) / near, -1, 1)
    bent = np.exp(-_distance(embedding, on) / near) - np.exp(-_distance(embedding, off) / near)
    odds: Floats = (_SPATIAL * (signed + 2 * bent)).astype(np.float32)
    return odds


def _ratio(embedding: Embedding, fore: Bools, back: Bools, share: float) -> Floats:
    """Return the log ratio of intensity densities at the seeds, averaged over channels.

    The background density mixes the whole image and, with weight ``share``, the seeds, because a
    few clicks do not show all background.
    """
    share = share if back.any() else 0.0
    total = np.zeros(embedding.grid, np.float32)
    for bins, kernel in zip(embedding.bins, embedding.kernels, strict=True):
        at_fore, at_back, anywhere = (
            kernel @ (np.bincount(b, minlength=_BINS) / max(len(b), 1))
            for b in (bins[fore], bins[back], bins.ravel())
        )
        at_back = share * at_back + (1 - share) * anywhere
        total += np.log((at_fore + 0.03) / (at_back + 0.03)).astype(np.float32)[bins]
    return total / np.float32(len(embedding.bins))
