"""SAM-Med3D as a module with the keys of the published checkpoints.

References:
    Wang et al. "SAM-Med3D: Towards general-purpose segmentation models for volumetric medical
    images." 2023. https://arxiv.org/abs/2310.15161
"""

from __future__ import annotations

import argparse
import collections
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from semisam.backends._sam_med3d.decoder import MaskDecoder
from semisam.backends._sam_med3d.encoder import ImageEncoder
from semisam.backends._sam_med3d.prompts import PromptEncoder
from semisam.core.errors import InputError, first_line

# Published checkpoints hold not only tensors but the trainer's settings and its schedule.
_HARMLESS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    argparse.Namespace,
    collections.Counter,
]


class SamMed3DNet(nn.Module):
    """Image encoder, prompt encoder and mask decoder.

    Args:
        image_encoder: encoder of cubes of ``size`` voxels.
        prompt_encoder: encoder of prompts on the same grid.
        mask_decoder: decoder of the same width.
    """

    def __init__(
        self, image_encoder: ImageEncoder, prompt_encoder: PromptEncoder, mask_decoder: MaskDecoder
    ) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder

    @property
    def size(self) -> int:
        """Voxels per axis of an image: 128 as published."""
        return self.prompt_encoder.size

    @property
    def coarse(self) -> int:
        """Voxels per axis of a mask prompt or a predicted mask: a quarter of ``size``."""
        return 4 * self.prompt_encoder.grid

    def encode(self, images: Tensor) -> Tensor:
        """Map cubes ``(B, 1, size, size, size)`` to embeddings ``(B, C, n, n, n)``."""
        embedding: Tensor = self.image_encoder(images)
        return embedding

    def decode(
        self, embeddings: Tensor, points: Tensor | None, labels: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        """Predict the masks of a batch of prompts that have the same number of points.

        Args:
            embeddings: ``(B or 1, C, n, n, n)``.
            points: ``(B, N, 3)`` voxels of the cube, or ``None``.
            labels: ``(B, N)``.
            mask: logits ``(B, 1, coarse, coarse, coarse)``.

        Returns:
            logits ``(B, 1, coarse, coarse, coarse)``.
        """
        tokens, dense = self.prompt_encoder(points, labels, mask)
        where = self.prompt_encoder.grid_encoding()
        masks: Tensor = self.mask_decoder(embeddings, where, tokens, dense)[0]
        return masks


def from_published(state: Mapping[str, Tensor]) -> SamMed3DNet:
    """Build the network of a published state dict, frozen and in evaluation mode.

    The shapes give the sizes, so any size of the architecture loads.

    Raises:
        InputError: keys or shapes are not those of the architecture, or a weight is not finite.
    """
    state = {key.removeprefix("module."): value for key, value in state.items()}
    try:
        with torch.device("meta"):
            net = _skeleton(state)
    except (KeyError, IndexError, ValueError, ZeroDivisionError, RuntimeError) as error:
        raise InputError(
            "the checkpoint must be a state dict of SAM-Med3D with image_encoder, prompt_encoder "
            f"and mask_decoder, got {len(state)} keys such as {sorted(state)[:2]} "
            f"({type(error).__name__}: {error}). Check that it is not another network's."
        ) from error
    wanted = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    unlike = sorted(k for k in wanted.keys() | shapes.keys() if wanted.get(k) != shapes.get(k))
    if unlike:
        first = unlike[0]
        raise InputError(
            f"the checkpoint must be a state dict of SAM-Med3D, got one where {first} is "
            f"{shapes.get(first, 'missing')} instead of {wanted.get(first, 'absent')} "
            f"({len(unlike)} keys differ). Check that it is not another network's."
        )
    floats = {key: value.detach().float() for key, value in state.items()}
    if not all(bool(value.isfinite().all()) for value in floats.values()):
        raise InputError(
            "the checkpoint's weights must be finite, got some that are not. Download it again."
        )
    net.load_state_dict(floats, assign=True)
    return net.eval().requires_grad_(False)


def _skeleton(state: Mapping[str, Tensor]) -> SamMed3DNet:
    """Return the network in the sizes of a state dict, without weights."""
    shape = {key: tuple(value.shape) for key, value in state.items()}
    width, _, patch, *_ = shape["image_encoder.patch_embed.proj.weight"]
    grid = shape["image_encoder.pos_embed"][1]
    blocks = {key.split(".")[2] for key in shape if key.startswith("image_encoder.blocks.")}
    tables = [shape[f"image_encoder.blocks.{i}.attn.rel_pos_d"] for i in range(len(blocks))]
    windows = tuple((rows + 1) // 2 for rows, _ in tables)
    if min(windows) < grid:
        raise ValueError(f"windows of {min(windows)} tokens on a grid of {grid}")
    out = shape["image_encoder.neck.0.weight"][0]
    return SamMed3DNet(
        ImageEncoder(
            width=width,
            heads=width // tables[0][1],
            hidden=shape["image_encoder.blocks.0.mlp.lin1.weight"][0],
            out=out,
            patch=patch,
            grid=grid,
            windows=windows,
        ),
        PromptEncoder(
            width=out,
            hidden=shape["prompt_encoder.mask_downscaling.3.weight"][0],
            grid=grid,
            size=grid * patch,
        ),
        MaskDecoder(
            width=out,
            inner=shape["mask_decoder.transformer.final_attn_token_to_image.q_proj.weight"][0],
            hidden=shape["mask_decoder.transformer.layers.0.mlp.lin1.weight"][0],
            quality_hidden=shape["mask_decoder.iou_prediction_head.layers.0.weight"][0],
        ),
    )


def load_published(path: Path) -> SamMed3DNet:
    """Load a published checkpoint ``{"model_state_dict": ...}`` without executing anything in it.

    Raises:
        InputError: the file is unreadable, truncated, unsafe or another network's.
    """
    if not path.is_file():
        raise InputError(
            f"checkpoint must be a file of SAM-Med3D, got {path}, which is no file. Check the path."
        )
    try:
        # Only tensors and these classes are read: a file that names another class is refused.
        with torch.serialization.safe_globals(_HARMLESS):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile or broken file fails in many ways
        raise InputError(
            f"{path}: the checkpoint must hold only tensors, got a file that torch.load refuses "
            f"with weights_only ({first_line(error)}). It may be truncated or unsafe: download it "
            "again."
        ) from error
    if isinstance(found, dict) and isinstance(found.get("model_state_dict"), dict):
        found = found["model_state_dict"]
    if not isinstance(found, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in found.items()
    ):
        raise InputError(
            f"{path}: the checkpoint must hold tensors under model_state_dict, got a "
            f"{type(found).__name__} of something else. Check that it is SAM-Med3D's."
        )
    try:
        return from_published(found)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
