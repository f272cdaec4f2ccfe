"""SAM-Med3D, the promptable segmenter of the SemiSAM paper, from its published checkpoints."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semisam.backends._cube import Cube, cube_around, resample, scaled_shape
from semisam.backends._decoder import (
    Bools,
    Case,
    adapt_decoder,
    load_decoder,
    organs_in,
)
from semisam.backends._hub import hub_file
from semisam.backends._sam_med3d.network import SamMed3DNet, load_published
from semisam.backends._seeds import check_prompt
from semisam.core.errors import InputError
from semisam.core.types import Prompt
from semisam.networks.precision import computes_bf16

REPOSITORY = "blueyo0/SAM-Med3D"
NAMES = ("sam_med3d", "sam_med3d_turbo")
_SPACING = 1.5  # mm, of its training scans
_SURE = 1e-4  # a mask prompt's probabilities are clamped to this distance from 0 and 1
_OUTSIDE = math.log(_SURE / (1 - _SURE))  # the logit outside the cube


@dataclass(frozen=True)
class Embedding:
    """One image and the features of its cubes.

    Attributes:
        shape: ``(*S)`` of the image.
        device: device of the image and of the logits.
        volume: ``(*s)`` the image on the network's spacing.
        features: ``(1, C, n, n, n)`` of each encoded cube, by its start. An image that fits into a
            cube has one. In a larger image, a prompt adds the cube around it, which does not change
            the predictions for other prompts.
        predictions: the last prediction in each cube, by its start: its logits ``(*S)`` and the
            network's own ``(c, c, c)``.
    """

    shape: tuple[int, ...]
    device: torch.device
    volume: Tensor
    features: dict[tuple[int, ...], Tensor] = field(default_factory=dict)
    predictions: dict[tuple[int, ...], tuple[Tensor, Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Query:
    """A prompt in its cube: positions ``(N, 3)``, labels ``(N,)``, mask logits ``(c, c, c)``."""

    cube: Cube
    features: Tensor
    points: Tensor
    labels: Tensor
    mask: Tensor


class SamMed3D:
    """SAM-Med3D, which segments the object at the clicks or the mask; it needs a checkpoint.

    Paper: Wang et al. "SAM-Med3D: Towards general-purpose segmentation models for volumetric
    medical images." 2023. https://arxiv.org/abs/2310.15161

    **Its training data hold left atria** (LAScarQS 2022, STACOM SLAWT, Heart_Seg_MRI, MM-WHS, by
    its authors' list). LAScarQS 2022 and the 2018 Left Atrium challenge both use LGE-MRI from Utah
    and may share patients. So on the Left Atrium benchmark it is not zero-shot, and its gain may
    come from test scans in its training data.

    The network reads a cube of 128 voxels per axis. For its training, scans were resampled to
    1.5 mm, cropped or padded with zeros to the cube, and the voxels above 0 scaled to zero mean and
    unit deviation. This backend does the same if it has the spacing. An image with negative
    intensities has been normalised already: its minimum counts as 0. The paper of SemiSAM uses the
    unchanged patch, padded with zeros (``resample`` and ``normalise`` off, as the protocols set
    them). The channels of an image are averaged. Axes keep their order; in the training they were
    left to right, back to front, foot to head.

    In an image larger than the cube, the cube is around the first positive click, or else the
    mask's centre. Outside it the prediction is background. Without a mask prompt the network gets
    an empty previous prediction, as in its training. If the mask is its last prediction, it gets
    the coarse logits of that prediction, as published. Any other mask is clamped, brought to the
    cube and averaged. There is no box prompt, because the published model has no embedding for it.

    Differs from the published code:

    - The encoder computes no padding of windows (equal to 1e-4 in fp32).
    - Clicks are voxel centres mapped to the cube, not rounded.
    - The logits are interpolated linearly back to the image (published: the mask, to the nearest
      voxel).

    Args:
        checkpoint: path of a checkpoint, or ``sam_med3d`` (the paper's) or ``sam_med3d_turbo``,
            which are downloaded once from the authors' repository (extra ``hub``).
        voxel_spacing: mm of the images along their axes; without it, nothing is resampled.
        resample: resample images to 1.5 mm if ``voxel_spacing`` is given.
        normalise: scale the foreground of the cube to zero mean and unit deviation.
        precision: precision of the image encoder; ``auto`` is bf16 if the hardware supports it.
        decoder: a file of the decoder's weights that ``semisam adapt`` wrote.

    Raises:
        InputError: an option is out of range, or the checkpoint is missing, broken or another
            model's.
    """

    ndim: int = 3
    axes = (3,)
    accepts: frozenset[str] = frozenset({"points", "mask"})
    memory = "mask"  # as in its training and evaluation: the newest click and the last prediction

    def __init__(
        self,
        *,
        checkpoint: str = "sam_med3d",
        voxel_spacing: tuple[float, float, float] | None = None,
        resample: bool = True,
        normalise: bool = True,
        precision: Literal["auto", "fp32", "bf16"] = "auto",
        decoder: str | None = None,
    ) -> None:
        if voxel_spacing is not None and not all(0 < mm < math.inf for mm in voxel_spacing):
            raise InputError(
                f"voxel_spacing must be three positive lengths in mm, got {voxel_spacing}. Give "
                "those of the images, in the order of their axes."
            )
        self.voxel_spacing = voxel_spacing if resample else None
        self.normalise = normalise
        self.precision = precision
        self._net = load_published(_find(checkpoint))
        if decoder is not None:
            load_decoder(Path(decoder), self._parts())
        self._device: torch.device | None = None  # the first image moves and rounds the network

    @classmethod
    def sources(
        cls, *, checkpoint: str = "sam_med3d", decoder: str | None = None, **options: Any
    ) -> dict[str, Path]:
        """Return the checkpoint's file, downloaded where it is only a name, and the decoder's."""
        adapted = {} if decoder is None else {"decoder": Path(decoder)}
        return {"checkpoint": _find(checkpoint), **adapted}

    @torch.no_grad()
    def adapt(
        self,
        cases: Sequence[Case],
        file: Path,
        *,
        steps: int,
        seed: int,
        device: torch.device,
        on_step: Callable[[int], None] = lambda done: None,
    ) -> None:
        """Write weights of the decoder, adapted to images ``(C, *S)`` with labels ``(*S)``.

        Raises:
            InputError: no case has a voxel of a class.
        """
        model = copy.deepcopy(self)
        parts = model._parts(device)
        size = [
            math.floor(model._net.size * _SPACING / mm)
            for mm in self.voxel_spacing or 3 * (_SPACING,)
        ]
        organs = [_around(image, mask, size) for image, mask in organs_in(cases)]
        seen = [(model.encode(image.to(device)), mask) for image, mask in organs]

        def predict(embedding: Embedding, prompt: Prompt) -> Tensor:
            query = model._query_of(embedding, prompt)
            coarse = model._decode([query], len(query.points), device)[0]
            return query.cube.place(resample(coarse, 3 * (model._net.size,)), _OUTSIDE)

        adapt_decoder(
            parts, seen, model.accepts, predict, file, steps=steps, seed=seed, on_step=on_step
        )

    @torch.no_grad()
    def adapted(self, file: Path) -> SamMed3D:
        """Return this model with the decoder of a file that `adapt` wrote."""
        model = copy.deepcopy(self)
        load_decoder(file, model._parts())
        return model

    def _parts(self, device: torch.device | None = None) -> list[nn.Module]:
        """Return what an adaptation trains."""
        net = self._net if device is None else self._on(device)
        return [net.prompt_encoder, net.mask_decoder]

    @torch.no_grad()
    def encode(self, image: Tensor) -> Embedding:
        """Prepare one image ``(C, *S)``, and encode it if it fits into a cube.

        Raises:
            InputError: the image is not three-dimensional.
        """
        if image.ndim != 4:
            raise InputError(
                f"an image for sam-med3d must be (C, *S) with three spatial axes, got "
                f"{tuple(image.shape)}. Use --sam synthsam for two."
            )
        shape = tuple(image.shape[1:])
        volume = torch.nan_to_num(image.detach().float()).mean(0)
        if self.normalise:
            volume = volume - volume.min().clamp(max=0)
        if self.voxel_spacing is not None:
            volume = resample(volume, scaled_shape(shape, self.voxel_spacing, _SPACING))
        embedding = Embedding(shape, image.device, volume)
        if max(volume.shape) <= self._net.size:
            self._look(embedding, self._cube(embedding, Prompt()))
        return embedding

    def segment(self, embedding: Embedding, prompt: Prompt) -> Tensor:
        """Return logits ``(*S)`` float32, all negative if the prompt shows no foreground.

        Raises:
            InputError: a point or the mask does not fit the image, or a box is given.
        """
        return self.segment_all([embedding], [prompt])[0]

    @torch.no_grad()
    def segment_all(
        self, embeddings: Sequence[Embedding], prompts: Sequence[Prompt]
    ) -> list[Tensor]:
        """Predict many prompts, each on its image; equal numbers of points are decoded together.

        Args:
            embeddings: one embedding for each prompt; the same may occur repeatedly.
            prompts: prompts as for `segment`.

        Returns:
            logits ``(*S)`` float32 of each, on its image's own grid.
        """
        pairs = list(zip(embeddings, prompts, strict=True))
        predictions = [torch.full(e.shape, _OUTSIDE, device=e.device) for e, _ in pairs]
        groups: dict[tuple[int, torch.device], list[tuple[int, _Query]]] = {}
        for i, (embedding, prompt) in enumerate(pairs):
            check_prompt(prompt, embedding.shape)
            if prompt.box is not None:
                raise InputError(
                    "a prompt of sam-med3d must be of points or mask, got a box. Choose another "
                    "prompter or backend."
                )
            if (prompt.points is not None and len(prompt.points)) or prompt.mask is not None:
                query = self._query_of(embedding, prompt)
                key = (len(query.points), embedding.device)
                groups.setdefault(key, []).append((i, query))
        for (count, device), queries in groups.items():
            alike = [query for _, query in queries]
            coarse = self._decode(alike, count, device)
            # One at a time, because full cubes of a whole batch need much memory.
            for (i, query), logits in zip(queries, coarse, strict=True):
                cube = resample(logits, 3 * (self._net.size,))
                predictions[i] = query.cube.place(cube, _OUTSIDE)
                pairs[i][0].predictions[query.cube.start] = (predictions[i], logits)
        return predictions

    def _query_of(self, embedding: Embedding, prompt: Prompt) -> _Query:
        """Return a prompt in the coordinates of its cube."""
        cube = self._cube(embedding, prompt)
        points, labels = torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)
        if prompt.points is not None and prompt.labels is not None:
            found, inside = cube.locate(prompt.points)
            points, labels = found[inside], prompt.labels.cpu()[inside]
        mask = self._coarse_mask(embedding, cube, prompt.mask)
        return _Query(cube, self._look(embedding, cube), points, labels, mask)

    def _coarse_mask(self, embedding: Embedding, cube: Cube, mask: Tensor | None) -> Tensor:
        """Return a mask prompt ``(*S)`` as the network's mask logits ``(c, c, c)``."""
        coarse = 3 * (self._net.coarse,)
        if mask is None:
            return embedding.volume.new_zeros(coarse)
        mask = mask.to(embedding.volume)
        logits, own = embedding.predictions.get(cube.start, (None, mask))
        if logits is not None and torch.equal(logits.sigmoid(), mask):
            return own
        cut = cube.cut(resample(torch.logit(mask, _SURE), cube.scaled), _OUTSIDE)
        return F.interpolate(cut[None, None], coarse, mode="area")[0, 0]

    def _cube(self, embedding: Embedding, prompt: Prompt) -> Cube:
        """Return the cube around the first positive click, the mask, any click, or the middle."""
        shape = embedding.shape
        centre = torch.tensor([(n - 1) / 2 for n in shape])
        points, labels, mask = prompt.points, prompt.labels, prompt.mask
        if points is not None and labels is not None and bool((labels == 1).any()):
            centre = points[labels == 1][0]
        elif mask is not None and bool((mask > 0.5).any()):
            centre = (mask > 0.5).nonzero().float().mean(0)
        elif points is not None and len(points):
            centre = points[0]
        scaled = tuple(embedding.volume.shape)
        return cube_around(shape, scaled, self._net.size, tuple(centre.tolist()))

    def _look(self, embedding: Embedding, cube: Cube) -> Tensor:
        """Return the features of a cube, which is encoded at its first use."""
        if cube.start not in embedding.features:
            voxels = cube.cut(embedding.volume, 0.0)
            if self.normalise:
                voxels = _normalise(voxels)
            net = self._on(embedding.device)
            with torch.autocast(embedding.device.type, enabled=False):
                embedding.features[cube.start] = net.encode(voxels[None, None])
        return embedding.features[cube.start]

    def _decode(self, alike: Sequence[_Query], count: int, device: torch.device) -> Tensor:
        """Return the coarse logits ``(N, c, c, c)`` of prompts that all have ``count`` points."""
        net = self._on(device)
        points = torch.stack([q.points for q in alike]).to(device) if count else None
        labels = torch.stack([q.labels for q in alike]).to(device) if count else None
        features = torch.cat([q.features for q in alike])
        mask = torch.stack([q.mask for q in alike])[:, None]
        # The prediction is computed in float32, whatever the autocast of the training.
        with torch.autocast(device.type, enabled=False):
            return net.decode(features, points, labels, mask)[:, 0]

    def _on(self, device: torch.device) -> SamMed3DNet:
        """Return the network on a device, with its encoder in the chosen precision."""
        if device != self._device:
            self._net.to(device)
            if self.precision == "bf16" or (self.precision == "auto" and computes_bf16(device)):
                for module in self._net.image_encoder.modules():
                    if isinstance(module, nn.Linear | nn.Conv3d):
                        module.to(torch.bfloat16)
            self._device = device
        return self._net


def _around(image: Tensor, mask: Bools, size: Sequence[int]) -> tuple[Tensor, Bools]:
    """Cut an image ``(C, *S)`` and a mask ``(*S)`` to at most some voxels around the mask."""
    inside = np.argwhere(mask)
    middle = (inside.min(0) + inside.max(0) + 1) // 2
    window = []
    for at, n, most in zip(middle, mask.shape, size, strict=True):
        first = min(max(int(at) - most // 2, 0), max(n - most, 0))
        window.append(slice(first, first + most))
    return image[(slice(None), *window)], np.ascontiguousarray(mask[tuple(window)])


def _find(checkpoint: str) -> Path:
    """Return the file of a path or of a published name."""
    path = Path(checkpoint).expanduser()
    if path.is_file():
        return path
    name = checkpoint.removesuffix(".pth").replace("-", "_")
    if name in NAMES:
        return hub_file(REPOSITORY, f"{name}.pth")
    raise InputError(
        f"checkpoint must be a file or one of {', '.join(NAMES)}, got {checkpoint}. Check the path."
    )


def _normalise(voxels: Tensor) -> Tensor:
    """Shift and scale all voxels so that those above 0 have zero mean and unit deviation."""
    inside = voxels[voxels > 0]
    if len(inside) < 2:
        return voxels
    std = inside.std()
    return (voxels - inside.mean()) / torch.where(std > 1e-6, std, 1)
