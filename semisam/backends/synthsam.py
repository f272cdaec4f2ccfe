"""The embedded promptable segmenter, trained only on synthetic images."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from semisam.backends._seeds import check_prompt, clicks
from semisam.backends._synthsam.adapt import adapt, organs_of
from semisam.backends._synthsam.prompts import Guide, Marks, make_guide
from semisam.core.axes import CONV, MEAN_POOL
from semisam.core.errors import InputError
from semisam.core.types import Prompt
from semisam.networks._synthsam import STRIDE, Features, SynthSAMNet, from_subvoxels
from semisam.networks._synthsam_weights import EMBEDDED, axes_of, load_weights, save_weights
from semisam.networks.convolution import guard_convolutions
from semisam.networks.precision import computes_bf16, in_bf16

_NOTHING = -4.0  # log odds of all voxels without a prompt for foreground
_SURE = 6.0  # limit of the log odds
_OBEYED = 1.0  # log odds of its side that a clicked voxel has at least
_REACH = 4.0  # voxels around a click that follow it, if the network does not
_SMALLEST = 8  # smallest extent of the network's input


@dataclass(frozen=True)
class Embedding:
    """One image, independent of any prompt.

    Attributes:
        shape: ``(*S)`` of the image.
        device: device of the image and of the logits.
        guide: distances and intensities on the coarse grid.
        features: of the network, one row per view.
    """

    shape: tuple[int, ...]
    device: torch.device
    guide: Guide
    features: Features


class SynthSAM:
    """A network that segments the object at clicks, in a box or in a mask, in any scan or picture.

    There is one for volumes and one for images of two axes. Both were trained on images of
    `semisam.pretraining.generator` and on no scan of a person, so they can be evaluated on every
    data set. `encode` runs once per image. Each prompt then needs a light decoder, which also gets
    the geodesic distance from the clicks. The order of clicks has no effect. ``semisam pretrain
    synthsam`` trains such weights, and ``synthsam.md`` next to the embedded ones describes their
    training.

    Each channel of an image is scaled to zero mean and unit deviation, and channels are averaged. A
    backend does not receive the spacing. Voxels of about 1 to 2 mm suit, and slices may be thicker.

    Args:
        weights: a safetensors file; None uses the embedded one for the axes of the image.
        flips: average the predictions on the image and its mirror image along each axis.

    Raises:
        InputError: the file of the weights is missing or not SynthSAM's.
    """

    ndim: int = 3
    axes: tuple[int, ...] = (2, 3)
    accepts: frozenset[str] = frozenset({"points", "box", "mask"})
    memory = "both"  # earlier clicks and the last mask; see benchmarks/zero_shot_dialogue.py

    def __init__(self, *, weights: str | None = None, flips: bool = False) -> None:
        self._given, self.flips = weights, flips
        if weights is not None:
            axes = axes_of(Path(weights))
            self.axes = (axes,)
            self._load(axes, torch.device("cpu"))

    @classmethod
    def sources(
        cls, *, weights: str | None = None, axes: int = 3, **options: Any
    ) -> dict[str, Path]:
        """Return the file of the weights, the user's or the embedded one."""
        return {"weights": EMBEDDED[axes] if weights is None else Path(weights)}

    def adapt(
        self,
        cases: Sequence[tuple[Tensor, Tensor]],
        file: Path,
        *,
        steps: int,
        seed: int,
        device: torch.device,
        on_step: Callable[[int], None] = lambda done: None,
    ) -> None:
        """Write weights adapted to images ``(C, *S)`` with their labels ``(*S)``.

        Raises:
            InputError: no case has a voxel of a class.
        """
        scans = [(_standard(image.float()).mean(0), label) for image, label in cases]
        organs = organs_of(scans)
        axes = scans[0][0].ndim
        with torch.random.fork_rng(devices=[]):
            net = SynthSAMNet(axes)
        net.load_state_dict(load_weights(self._path(axes), axes))
        weights = adapt(net.to(device), organs, steps, seed, on_step)
        save_weights(file, weights, {"adapted": f"{steps} steps, seed {seed}"})

    def adapted(self, file: Path) -> SynthSAM:
        """Return this model with the weights of a file that `adapt` wrote."""
        return SynthSAM(weights=str(file), flips=self.flips)

    @torch.no_grad()
    def encode(self, image: Tensor) -> Embedding:
        """Encode one image ``(C, *S)``.

        Raises:
            InputError: the image has other axes than the weights.
        """
        axes = image.ndim - 1
        if axes not in self.axes:
            raise InputError(
                f"an image for synthsam must be (C, *S) with {' or '.join(map(str, self.axes))} "
                f"spatial axes, got {tuple(image.shape)}. Leave its weights out, or give others."
            )
        shape = tuple(image.shape[1:])
        volume = _even(_standard(image.detach().float()).mean(0))
        views = torch.stack([volume.flip(view) for view in self._views(axes)])[:, None]
        net = self._load(axes, image.device)
        with in_bf16(image.device):
            features = net.encode(views)
        guide = make_guide(volume)
        return Embedding(shape, image.device, guide, features)

    @torch.no_grad()
    def segment(self, embedding: Embedding, prompt: Prompt) -> Tensor:
        """Return logits ``(*S)`` float32, all negative if the prompt shows no foreground.

        Raises:
            InputError: a point, the box or the mask does not fit the image.
        """
        check_prompt(prompt, embedding.shape)
        axes = len(embedding.shape)
        positive, negative = clicks(prompt, axes)
        if not len(positive) and prompt.box is None and prompt.mask is None:
            return torch.full(embedding.shape, _NOTHING, device=embedding.device)
        marks = Marks(embedding.guide)
        marks.add(positive, 1)
        marks.add(negative, 0)
        mask = None if prompt.mask is None else _coarse(prompt.mask)
        channels = marks.channels(prompt.box, mask)
        views, grid = self._views(axes), embedding.guide.grid
        rows = torch.stack([channels.flip([axis + 1 for axis in view]) for view in views])
        cells = [[_flipped(c, grid, view) for c in marks.cells] for view in views]
        with in_bf16(embedding.device):
            found = self._load(axes, embedding.device).decode(embedding.features, rows, cells)
        fine = from_subvoxels(found)[:, 0]
        logits = torch.stack(
            [logits.flip(view) for logits, view in zip(fine, views, strict=True)]
        ).mean(0)
        logits = _obeying(logits.clamp(-_SURE, _SURE), positive, 1)
        logits = _obeying(logits, negative, -1)
        return logits[tuple(slice(s) for s in embedding.shape)].contiguous()

    def _views(self, axes: int) -> list[tuple[int, ...]]:
        """Return the axes that each view flips; the first view is the image."""
        return [(), *((axis,) for axis in range(axes) if self.flips)]

    def _path(self, axes: int) -> Path:
        return self.sources(weights=self._given, axes=axes)["weights"]

    def _load(self, axes: int, device: torch.device) -> SynthSAMNet:
        path = self._path(axes).absolute()
        return _network(path, path.stat().st_mtime_ns, axes, device)


@functools.lru_cache(maxsize=4)
def _network(path: Path, written: int, axes: int, device: torch.device) -> SynthSAMNet:
    """Return the frozen network of a file, read once per device and time of the file."""
    weights = load_weights(path, axes)
    with torch.device("meta"):
        net = SynthSAMNet(axes)
    net.load_state_dict(weights, assign=True)
    net = net.eval().requires_grad_(False).to(device)
    guard_convolutions(net)
    if computes_bf16(device):
        # Round them once, as autocast does at each use.
        for module in net.modules():
            if isinstance(module, CONV[axes]):
                module.to(torch.bfloat16)
    return net.to(memory_format=net.layout)  # type: ignore[call-overload, no-any-return]


def _standard(image: Tensor) -> Tensor:
    """Scale each channel of ``(C, *S)`` to zero mean and unit deviation."""
    image = torch.nan_to_num(image)
    std, mean = torch.std_mean(image, tuple(range(1, image.ndim)), correction=0, keepdim=True)
    return (image - mean) / torch.where(std > 1e-6, std, 1)


def _even(volume: Tensor) -> Tensor:
    """Repeat the last layers of ``(*S)`` up to even extents of at least `_SMALLEST`."""
    more = [max(_SMALLEST, n + n % STRIDE) - n for n in reversed(volume.shape)]
    sides = [side for n in more for side in (0, n)]
    return functional.pad(volume[None, None], sides, mode="replicate")[0, 0]


def _obeying(logits: Tensor, points: NDArray[np.int64], side: int) -> Tensor:
    """Pull log odds ``(*S)`` around clicked voxels ``(N, d)`` to their side, where they lack it."""
    if not len(points):
        return logits
    at = torch.from_numpy(points).to(logits.device)
    lack = (_OBEYED - side * logits[tuple(at.T)]).clamp_min(0)
    near = [
        (-((torch.arange(n, device=at.device) - place[:, None]) / _REACH).square()).exp()
        for n, place in zip(logits.shape, at.T, strict=True)
    ]
    axes = "abc"[: logits.ndim]
    with torch.autocast(logits.device.type, enabled=False):
        pulls = torch.einsum(f"n,{','.join('n' + axis for axis in axes)}->{axes}", lack, *near)
    return logits + side * pulls


def _coarse(mask: Tensor) -> Tensor:
    """Average a probability map ``(*S)`` over coarse voxels."""
    mean: Tensor = MEAN_POOL[mask.ndim](_even(mask.detach().float())[None, None], STRIDE)
    return mean[0, 0]


def _flipped(cells: list[int], grid: tuple[int, ...], axes: tuple[int, ...]) -> list[int]:
    """Return the flat indices of voxels of ``(*s)`` in the flipped grid."""
    if not axes or not cells:
        return cells
    index: NDArray[np.int64] = np.arange(int(np.prod(grid))).reshape(grid)
    flat: list[int] = np.flip(index, axes).ravel()[cells].tolist()
    return flat
