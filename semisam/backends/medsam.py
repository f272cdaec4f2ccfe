"""MedSAM: SAM's ViT-B trained further on medical pictures, asked with boxes.

References:
    Ma et al. "Segment anything in medical images." Nature Communications 15 (2024) 654.
    https://arxiv.org/abs/2304.12306
"""

from __future__ import annotations

import torch
from torch import Tensor

from semisam.backends._transformers import load
from semisam.backends.sam import SamPictures
from semisam.backends.slicewise import SliceWise


class MedSamPictures(SamPictures):
    """MedSAM on pictures: stretched to the square, cubically; each picture from 0 to 1."""

    accepts = frozenset({"box"})
    keep_aspect = False
    resampling = "bicubic"

    def _normalise(self, picture: Tensor) -> Tensor:
        low, high = torch.aminmax(picture.flatten(1), dim=1)
        width = (high - low).clamp(min=1e-8)
        return (picture - low.view(-1, 1, 1, 1)) / width.view(-1, 1, 1, 1)


class MedSAM(SliceWise):
    """Asks MedSAM about the slices of a box; needs ``pip install 'semisam[sam2d]'``.

    Takes boxes alone, with which it was trained: a box of the volume is asked on every slice that
    it spans. Its pictures are stretched to 1024 x 1024 pixels and each brought to [0, 1], without
    the mean and deviation of ImageNet, as its authors do; the processor that hub checkpoints come
    with does neither.

    Differs from the published code: the intensity window is taken over all voxels of the volume
    (published: over those above 0); a box ends at its last voxel's far edge (published: at that
    voxel); the slice is resized as numbers, not as bytes.

    Args:
        checkpoint: a directory that ``save_pretrained`` of transformers wrote, or a hub name.
        axis: which axis of a volume runs through the slices; -1: the last, which is z in a scan.
        batch: slices that the model sees at once.
        clip: percent of the voxels that the intensity window clips at either end.
        bf16: compute in bfloat16: faster where the hardware has it, not equal to float32.

    Raises:
        PluginError: transformers is not installed.
        InputError: an option is out of range or the checkpoint is not one of SAM's architecture.
    """

    def __init__(
        self,
        *,
        checkpoint: str = "flaviagiammarino/medsam-vit-base",
        axis: int = -1,
        batch: int = 4,
        clip: float = 0.5,
        bf16: bool = False,
    ) -> None:
        model = MedSamPictures(load("SamModel", ["sam"], checkpoint), bf16=bf16)
        super().__init__(model, axis=axis, propagate=False, batch=batch, clip=clip)
