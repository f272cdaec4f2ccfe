"""The SAM family of `transformers` as slice models: loading, and the mapping to their pixels."""

from __future__ import annotations

import copy
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from semisam.backends._decoder import (
    Bools,
    Case,
    adapt_decoder,
    load_decoder,
    organs_in,
)
from semisam.backends._slices import batches, evenly
from semisam.backends.slicewise import SliceWise, on_device
from semisam.core.errors import InputError, PluginError
from semisam.core.regions import box_of_mask
from semisam.core.types import Prompt

_MEAN = (0.485, 0.456, 0.406)  # of ImageNet, used in the training of SAM and SAM 2
_STD = (0.229, 0.224, 0.225)
_MOST_SLICES = 64  # whose features an adaptation keeps, about 4 MB each
_SURE = 1e-3  # a mask's probabilities are clamped to this distance from 0 and 1

Features = tuple[Tensor, ...]
Picture = tuple[Features, tuple[int, int]]
"""The features of a slice, and its shape ``(a, b)``."""


def load(architecture: str, model_types: Sequence[str], checkpoint: str) -> nn.Module:
    """Return the frozen model of a checkpoint, in float32 and eval mode, on the CPU.

    Safetensors are preferred; a pickled checkpoint is read with ``weights_only``. Code in a
    checkpoint is never run.

    Args:
        architecture: a model class of `transformers`.
        model_types: accepted values of ``model_type`` in ``config.json``.
        checkpoint: a directory that ``save_pretrained`` wrote, or a name on the Hugging Face hub,
            whose files are cached.

    Raises:
        PluginError: `transformers` is not installed.
        InputError: the checkpoint is missing, is another model's, or lacks some weights.
    """
    try:
        import transformers
    except ImportError as error:
        raise PluginError(
            f"this backend needs the package transformers, got an import error ({error}). Run "
            "pip install 'semisam[sam2d]'."
        ) from error
    _check_checkpoint(checkpoint)
    quiet = transformers.utils.logging
    verbosity, bars = quiet.get_verbosity(), quiet.is_progress_bar_enabled()
    quiet.set_verbosity_error()  # the checks below turn its warnings into errors
    if Path(checkpoint).is_dir():
        quiet.disable_progress_bar()
    try:
        config, _ = transformers.PreTrainedConfig.get_config_dict(checkpoint)
        if config.get("model_type") not in model_types:
            raise InputError(
                f"checkpoint must hold a model of type {' or '.join(model_types)}, got "
                f"{config.get('model_type')!r} in {checkpoint}. Choose the backend that fits it."
            )
        # Random initial values, which loading replaces, must not advance the global generator.
        with torch.random.fork_rng(devices=[]):
            model, report = getattr(transformers, architecture).from_pretrained(
                checkpoint, dtype=torch.float32, weights_only=True, output_loading_info=True
            )
    except InputError:
        raise
    except Exception as error:  # of many libraries below: files, network, formats
        reason = " ".join(str(error).split())
        raise InputError(
            f"checkpoint must be a directory or a name on the Hugging Face hub that {architecture} "
            f"of transformers opens, got {checkpoint}: {type(error).__name__}: {reason}"
        ) from error
    finally:
        quiet.set_verbosity(verbosity)
        if bars:
            quiet.enable_progress_bar()
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise InputError(
            f"checkpoint must hold every weight of {architecture}, got {checkpoint}, which lacks "
            f"{len(missing)}, among them {missing[0]}. Choose another checkpoint."
        )
    frozen: nn.Module = model.eval().requires_grad_(False)
    return frozen


def _check_checkpoint(checkpoint: str) -> None:
    path = Path(checkpoint)
    if path.is_dir() or (not path.exists() and re.fullmatch(r"[\w.-]*\w/\w[\w.-]*", checkpoint)):
        return
    what = "is a file" if path.exists() else "does not exist"
    raise InputError(
        "checkpoint must be a directory as save_pretrained of transformers writes it, or a name "
        f"owner/model on the Hugging Face hub, got {checkpoint}, which {what}. Check the path."
    )


@dataclass(frozen=True)
class Frame:
    """The place of a slice ``(a, b)`` in the square picture that a model reads.

    The first axis runs to the right (x) and the second one down (y). The slice fills the picture's
    top left corner. The centre of voxel ``i`` is at pixel ``(i + 1/2) scale - 1/2``. The small
    slices of scans are enlarged up to tenfold, so rounding it down would shift every click.

    Attributes:
        shape: ``(a, b)``.
        side: side of the picture, in pixels.
        filled: pixels that the slice fills, ``(right, down)``.
    """

    shape: tuple[int, int]
    side: int
    filled: tuple[int, int]

    @classmethod
    def fit(cls, shape: tuple[int, int], side: int, keep_aspect: bool) -> Frame:
        """Return the frame in which a slice's longer side, or both sides, fill the picture."""
        longest = max(shape)
        right, down = (max(round(side * n / longest), 1) for n in shape)
        return cls(shape, side, (right, down) if keep_aspect else (side, side))

    def picture(self, slices: Tensor, mode: str) -> Tensor:
        """Return the filled part ``(N, 3, down, right)`` of the picture of ``(N, 3, a, b)``."""
        size = self.filled[::-1]
        return functional.interpolate(slices.transpose(-1, -2), size, mode=mode, antialias=True)

    def pad(self, picture: Tensor) -> Tensor:
        """Fill the area to the right of and below the slice with zeros."""
        right, down = self.filled
        return functional.pad(picture, (0, self.side - right, 0, self.side - down))

    def points(self, points: Tensor) -> Tensor:
        """Return pixels (x, y) of voxels ``(N, 2)``."""
        return (points + 0.5) * self._scale(points) - 0.5

    def box(self, box: Tensor) -> Tensor:
        """Return the pixels (x, y, x, y) of the edges of a half-open box ``(2, 2)``."""
        return (box * self._scale(box) - 0.5).flatten()

    def mask(self, prob: Tensor, side: int) -> Tensor:
        """Return log odds ``(side, side)`` of the picture of a probability map ``(a, b)``."""
        picture = self.pad(self.picture(prob[None, None], "bilinear"))
        small = functional.interpolate(picture, (side, side), mode="area")[0, 0]
        return small.clamp(_SURE, 1 - _SURE).logit()

    def logits(self, low: Tensor) -> Tensor:
        """Map log odds ``(N, s, s)`` of the picture, of any resolution, to slices ``(N, a, b)``."""
        size = (self.side, self.side)
        full = functional.interpolate(low[:, None], size, mode="bilinear", align_corners=False)
        right, down = self.filled
        mine = functional.interpolate(
            full[..., :down, :right], self.shape[::-1], mode="bilinear", antialias=True
        )
        return mine[:, 0].transpose(-1, -2)

    def _scale(self, like: Tensor) -> Tensor:
        return torch.tensor([f / n for f, n in zip(self.filled, self.shape, strict=True)]).to(
            like.device
        )


class PictureModel(ABC):
    """A `semisam.backends.slicewise.SliceModel` of the SAM family.

    A single click is ambiguous: the model predicts several masks, and the one with the highest
    estimated IoU is taken. Any other prompt gets a single mask.

    Args:
        module: a frozen model of `transformers`.
        bf16: compute in bfloat16 where that is safe (autocast), else in float32.
    """

    accepts: frozenset[str] = frozenset({"points", "box", "mask"})
    memory = "both"  # record of earlier clicks: the clicks and the last prediction
    keep_aspect: bool = False
    resampling: str = "bilinear"

    def __init__(self, module: nn.Module, *, bf16: bool = False) -> None:
        self._module = module
        self._bf16 = bf16
        config: Any = module.config
        self._side = int(config.prompt_encoder_config.image_size)
        self._mask_side = 4 * (self._side // int(config.prompt_encoder_config.patch_size))

    @property
    def parts(self) -> list[nn.Module]:
        """The parts that an adaptation trains: all but the image encoder."""
        module: Any = self._module
        return [module.prompt_encoder, module.mask_decoder]

    @abstractmethod
    def _features(self, pixels: Tensor) -> Features:
        """Map ``(N, 3, side, side)`` to the levels of the image features, ``(N, ...)`` each."""

    def _embeddings(self, levels: Features) -> Any:
        """Return the levels as the model's ``image_embeddings``."""
        return levels[0]

    def _normalise(self, picture: Tensor) -> Tensor:
        """Scale a picture in [0, 1] to the values of the model's training."""
        mean, std = (torch.tensor(v).to(picture).view(3, 1, 1) for v in (_MEAN, _STD))
        return (picture - mean) / std

    @torch.no_grad()
    def encode(self, slices: Tensor) -> list[Features]:
        """Return the features of each slice of ``(N, 3, a, b)``, which are in [0, 1]."""
        a, b = slices.shape[2:]
        frame = self._frame((a, b))
        pixels = frame.pad(self._normalise(frame.picture(slices, self.resampling)))
        self._module.to(slices.device)
        with self._autocast(slices.device):
            levels = self._features(pixels)
        return list(zip(*levels, strict=True))

    def segment(
        self, features: Sequence[Features], prompts: Sequence[Prompt], shape: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Return logits ``(N, a, b)`` float32 and the estimated IoU ``(N,)``."""
        frame = self._frame(shape)
        asked = [self._inputs(prompt, frame) for prompt in prompts]
        alike: dict[tuple[tuple[str, torch.Size], ...], list[int]] = {}
        for n, inputs in enumerate(asked):
            # Prompts with other numbers of clicks are separate: padding would change predictions.
            alike.setdefault(tuple((k, v.shape) for k, v in inputs.items()), []).append(n)
        rows: dict[int, tuple[Tensor, Tensor]] = {}
        for some in alike.values():
            levels = tuple(map(torch.stack, zip(*(features[n] for n in some), strict=True)))
            inputs = {k: torch.stack([asked[n][k] for n in some]) for k in asked[some[0]]}
            logits, quality = self._decode(levels, inputs)
            rows.update(zip(some, zip(frame.logits(logits), quality, strict=True), strict=True))
        both = [rows[n] for n in range(len(prompts))]
        return torch.stack([row for row, _ in both]), torch.stack([q for _, q in both])

    def _decode(self, levels: Features, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the best logits ``(N, s, s)`` and their estimated IoU ``(N,)``."""
        lone = set(inputs) == {"input_points", "input_labels"}
        ambiguous = lone and inputs["input_labels"].shape[-1] == 1
        with self._autocast(levels[0].device):
            out = self._module(
                image_embeddings=self._embeddings(levels), multimask_output=ambiguous, **inputs
            )
        scores = out.iou_scores[:, 0].float()
        best = scores.argmax(1)
        row = torch.arange(len(best), device=best.device)
        return out.pred_masks[:, 0].float()[row, best], scores[row, best]

    def _inputs(self, prompt: Prompt, frame: Frame) -> dict[str, Tensor]:
        """Return the model's inputs for a slice's prompt, without the batch axis."""
        inputs: dict[str, Tensor] = {}
        box = prompt.box
        if prompt.points is not None and prompt.labels is not None:
            inputs["input_points"] = frame.points(prompt.points)[None]
            inputs["input_labels"] = prompt.labels.long()[None]
        elif box is None and prompt.mask is not None:
            # SAM's training has no mask without another prompt.
            box = box_of_mask(prompt.mask > 0.5)
        if box is not None:
            inputs["input_boxes"] = frame.box(box)[None]
        if prompt.mask is not None:
            inputs["input_masks"] = frame.mask(prompt.mask, self._mask_side)[None]
        return inputs

    def _frame(self, shape: tuple[int, int]) -> Frame:
        return Frame.fit(shape, self._side, self.keep_aspect)

    def _autocast(self, device: torch.device) -> torch.autocast:
        # When off, it also disables the autocast of the surrounding training.
        return torch.autocast(device.type, torch.bfloat16, enabled=self._bf16)


class AdaptableSlices(SliceWise):
    """Slices seen by a model of the SAM family, which ``--sam-adapt`` adapts to labeled scans.

    The prompt encoder and the mask decoder are trained, on slices of each organ in equal distances.
    The image encoder stays as published.

    Args:
        model: the model of pictures.
        decoder: a file of the decoder's weights that `adapt` wrote.
        options: of `SliceWise`.
    """

    _model: PictureModel

    def __init__(self, model: PictureModel, *, decoder: str | None, **options: Any) -> None:
        super().__init__(model, **options)
        if decoder is not None:
            load_decoder(Path(decoder), model.parts)

    @classmethod
    def sources(cls, *, decoder: str | None = None, **options: Any) -> dict[str, Path]:
        """Return the file of an adapted decoder."""
        return {} if decoder is None else {"decoder": Path(decoder)}

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
        model = copy.deepcopy(self._model)
        organs = evenly(organs_in(cases), _MOST_SLICES)
        most = max(_MOST_SLICES // len(organs), 1)
        seen = [
            pair
            for image, mask in organs
            for pair in self._pictures(model, image.to(device), mask, most)
        ]

        def predict(picture: Picture, prompt: Prompt) -> Tensor:
            features, shape = picture
            return model.segment([features], [on_device(prompt, device)], shape)[0][0]

        adapt_decoder(
            model.parts,
            seen,
            model.accepts,
            predict,
            file,
            steps=steps,
            seed=seed,
            on_step=on_step,
        )

    @torch.no_grad()
    def adapted(self, file: Path) -> Self:
        """Return this model with the decoder of a file that `adapt` wrote."""
        tuned = copy.copy(self)
        tuned._model = copy.deepcopy(self._model)
        load_decoder(file, tuned._model.parts)
        return tuned

    def _pictures(
        self, model: PictureModel, image: Tensor, mask: Bools, most: int
    ) -> list[tuple[Picture, Bools]]:
        """Return the features and the masks ``(a, b)`` of at most some slices of an organ."""
        masks = mask[None] if mask.ndim == 2 else np.moveaxis(mask, self.slice_axis % 3, 0)
        (inside,) = np.nonzero(masks.any((1, 2)))
        shown = evenly(inside.tolist(), most)
        slices = self.encode(image).slices
        features = [
            found for some in batches(shown, self._batch) for found in model.encode(slices[some])
        ]
        _, a, b = masks.shape
        return [
            ((found, (a, b)), np.ascontiguousarray(masks[at]))
            for found, at in zip(features, shown, strict=True)
        ]
