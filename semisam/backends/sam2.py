"""SAM 2, slice by slice, without its memory for video.

References:
    Ravi et al. "SAM 2: Segment Anything in Images and Videos." ICLR 2025 (2024).
    https://arxiv.org/abs/2408.00714
"""

from __future__ import annotations

from torch import Tensor

from semisam.backends._transformers import AdaptableSlices, Features, PictureModel, load


class Sam2Pictures(PictureModel):
    """SAM 2 on pictures: each is stretched to 1024 x 1024 pixels and has three feature levels."""

    def _features(self, pixels: Tensor) -> Features:
        # Sam2Model has the method; a Module's attributes are untyped.
        return tuple(self._module.get_image_embeddings(pixels))  # type: ignore[operator]

    def _embeddings(self, levels: Features) -> list[Tensor]:
        return list(levels)


class Sam2(AdaptableSlices):
    """SAM 2 on the slices that a prompt touches; needs ``pip install 'semisam[sam2d]'``.

    It accepts points of both signs, boxes and masks. Between clicked slices the prediction is
    propagated by `SliceWise`, not by the model's memory for video.

    Differs from the published code:

    - A click is the centre of its voxel and not its corner, because slices are enlarged up to 16
      times.
    - A mask without another prompt comes with its box.
    - The slice is resized as numbers, not as bytes.

    Args:
        checkpoint: a directory that ``save_pretrained`` of transformers wrote, or a hub name.
        axis: the axis of a volume through the slices; -1 is the last, which is z in a scan.
        propagate: propagate predictions to slices without clicks; switch it off if every slice is
            clicked.
        batch: slices per forward pass of the model.
        clip: percent of the voxels that the intensity window clips at either end.
        bf16: compute in bfloat16: faster if the hardware supports it, not equal to float32.
        decoder: a file of the decoder's weights that ``semisam adapt`` wrote.

    Raises:
        PluginError: transformers is not installed.
        InputError: an option is out of range, or the checkpoint is not SAM 2's.
    """

    accepts = Sam2Pictures.accepts

    def __init__(
        self,
        *,
        checkpoint: str = "facebook/sam2.1-hiera-base-plus",
        axis: int = -1,
        propagate: bool = True,
        batch: int = 4,
        clip: float = 0.5,
        bf16: bool = False,
        decoder: str | None = None,
    ) -> None:
        model = Sam2Pictures(load("Sam2Model", ["sam2", "sam2_video"], checkpoint), bf16=bf16)
        super().__init__(
            model, axis=axis, propagate=propagate, batch=batch, clip=clip, decoder=decoder
        )
