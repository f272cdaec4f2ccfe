"""MedSAM: SAM's ViT-B trained further on medical pictures, prompted with boxes.

References:
    Ma et al. "Segment anything in medical images." Nature Communications 15 (2024) 654.
    https://arxiv.org/abs/2304.12306
"""

from __future__ import annotations

import torch
from torch import Tensor

from semisam.backends._transformers import AdaptableSlices, load
from semisam.backends.sam import SamPictures


class MedSamPictures(SamPictures):
    """MedSAM on pictures: each is stretched to the square (bicubic) and scaled to [0, 1]."""

    accepts = frozenset({"box"})
    keep_aspect = False
    resampling = "bicubic"

    def _normalise(self, picture: Tensor) -> Tensor:
        low, high = torch.aminmax(picture.flatten(1), dim=1)
        width = (high - low).clamp(min=1e-8)
        return (picture - low.view(-1, 1, 1, 1)) / width.view(-1, 1, 1, 1)


class MedSAM(AdaptableSlices):
    """MedSAM on the slices of a box; needs ``pip install 'semisam[sam2d]'``.

    It accepts only boxes, as in its training, and predicts every slice that a box spans. Each
    picture is stretched to 1024 x 1024 pixels and scaled to [0, 1], without ImageNet's mean and
    deviation, as by its authors. The processor of the hub checkpoints does neither.

    Differs from the published code:

    - The intensity window is taken over all voxels of the volume (published: over those above 0).
    - A box ends at its last voxel's far edge (published: at that voxel).
    - The slice is resized as numbers, not as bytes.

    Args:
        checkpoint: a directory that ``save_pretrained`` of transformers wrote, or a hub name.
        axis: the axis of a volume through the slices; -1 is the last, which is z in a scan.
        batch: slices per forward pass of the model.
        clip: percent of the voxels that the intensity window clips at either end.
        bf16: compute in bfloat16: faster if the hardware supports it, not equal to float32.
        decoder: a file of the decoder's weights that ``semisam adapt`` wrote.

    Raises:
        PluginError: transformers is not installed.
        InputError: an option is out of range, or the checkpoint is not of SAM's architecture.
    """

    accepts = MedSamPictures.accepts

    def __init__(
        self,
        *,
        checkpoint: str = "flaviagiammarino/medsam-vit-base",
        axis: int = -1,
        batch: int = 4,
        clip: float = 0.5,
        bf16: bool = False,
        decoder: str | None = None,
    ) -> None:
        model = MedSamPictures(load("SamModel", ["sam"], checkpoint), bf16=bf16)
        super().__init__(model, axis=axis, propagate=False, batch=batch, clip=clip, decoder=decoder)
