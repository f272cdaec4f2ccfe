"""SAM 2, slice by slice, each on its own: its memory of video is not used.

References:
    Ravi et al. "SAM 2: Segment Anything in Images and Videos." ICLR 2025 (2024).
    https://arxiv.org/abs/2408.00714
"""

from __future__ import annotations

from torch import Tensor

from semisam.backends._transformers import Features, PictureModel, load
from semisam.backends.slicewise import SliceWise


class Sam2Pictures(PictureModel):
    """SAM 2 on pictures: stretched to 1024 x 1024 pixels; three levels of features."""

    def _features(self, pixels: Tensor) -> Features:
        # Sam2Model has the method; a Module's attributes are untyped.
        return tuple(self._module.get_image_embeddings(pixels))  # type: ignore[operator]

    def _embeddings(self, levels: Features) -> list[Tensor]:
        return list(levels)


class Sam2(SliceWise):
    """Asks SAM 2 about the slices that a prompt touches; needs ``pip install 'semisam[sam2d]'``.

    Takes points of both signs, boxes and masks. Between the clicks the answer is carried on from
    slice to slice (`SliceWise`), not by the memory that the model has for video.

    Differs from the published code: a click is the centre of its voxel and not its corner, as a
    slice of 64 voxels is enlarged 16 times; a mask without anything else comes with its box; the
    slice is resized as numbers, not as bytes.

    Args:
        checkpoint: a directory that ``save_pretrained`` of transformers wrote, or a hub name.
        axis: which axis of a volume runs through the slices; -1: the last, which is z in a scan.
        propagate: carry the answer to clicks to the slices without any; switch it off where every
            slice is clicked.
        batch: slices that the model sees at once.
        clip: percent of the voxels that the intensity window clips at either end.
        bf16: compute in bfloat16: faster where the hardware has it, not equal to float32.

    Raises:
        PluginError: transformers is not installed.
        InputError: an option is out of range or the checkpoint is not one of SAM 2.
    """

    def __init__(
        self,
        *,
        checkpoint: str = "facebook/sam2.1-hiera-base-plus",
        axis: int = -1,
        propagate: bool = True,
        batch: int = 4,
        clip: float = 0.5,
        bf16: bool = False,
    ) -> None:
        model = Sam2Pictures(load("Sam2Model", ["sam2", "sam2_video"], checkpoint), bf16=bf16)
        super().__init__(model, axis=axis, propagate=propagate, batch=batch, clip=clip)
