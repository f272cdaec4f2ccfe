"""SAM, the Segment Anything Model, slice by slice.

References:
    Kirillov et al. "Segment Anything." ICCV 2023. https://arxiv.org/abs/2304.02643
"""

from __future__ import annotations

from torch import Tensor

from semisam.backends._transformers import AdaptableSlices, Features, PictureModel, load


class SamPictures(PictureModel):
    """SAM on pictures: the longer side fills 1024 pixels, and the rest is zero."""

    keep_aspect = True

    def _features(self, pixels: Tensor) -> Features:
        # SamModel has the method; a Module's attributes are untyped.
        return (self._module.get_image_embeddings(pixels),)  # type: ignore[operator]


class Sam(AdaptableSlices):
    """SAM on the slices that a prompt touches; needs ``pip install 'semisam[sam2d]'``.

    It accepts points of both signs, boxes and masks. SAM was trained on photographs and needs a
    prompt on each slice. Between clicked slices the prediction is propagated (`SliceWise`).

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
        InputError: an option is out of range, or the checkpoint is not SAM's.
    """

    accepts = SamPictures.accepts

    def __init__(
        self,
        *,
        checkpoint: str = "facebook/sam-vit-base",
        axis: int = -1,
        propagate: bool = True,
        batch: int = 4,
        clip: float = 0.5,
        bf16: bool = False,
        decoder: str | None = None,
    ) -> None:
        model = SamPictures(load("SamModel", ["sam"], checkpoint), bf16=bf16)
        super().__init__(
            model, axis=axis, propagate=propagate, batch=batch, clip=clip, decoder=decoder
        )
