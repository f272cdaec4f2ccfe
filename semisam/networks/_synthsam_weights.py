"""The file of SynthSAM's weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from semisam.core.errors import InputError
from semisam.core.files import check_digest, replace_file
from semisam.networks._synthsam import SynthSAMNet

_FOLDER = Path(__file__).parents[1] / "backends" / "weights"
EMBEDDED = {2: _FOLDER / "synthsam2d.safetensors", 3: _FOLDER / "synthsam.safetensors"}
"""The weights in the package by the axes of an image, trained on synthetic images only."""

_LATER = "sharpen."  # a part of the network that is not in files of version 0.1


def save_weights(path: Path, weights: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
    """Write weights as safetensors in half precision, atomically.

    Args:
        path: of the file.
        weights: the network's state dict.
        about: the file's metadata.
    """
    halves = {k: v.detach().cpu().half().contiguous() for k, v in weights.items()}
    with replace_file(path) as temporary:
        temporary.write_bytes(save(halves, dict(about)))


def load_weights(path: Path, axes: int = 3) -> dict[str, Tensor]:
    """Read weights that fit `SynthSAMNet`, as float32.

    Args:
        path: of the file.
        axes: spatial axes of the network's images.

    Raises:
        InputError: the file is missing, damaged or not SynthSAM's.
    """
    found = _read(path)
    with torch.device("meta"):
        wanted = {k: tuple(v.shape) for k, v in SynthSAMNet(axes).state_dict().items()}
    if axes == 3 and not any(k.startswith(_LATER) for k in found):
        found |= _later()
    shapes = {k: tuple(v.shape) for k, v in found.items()}
    unlike = sorted(k for k in wanted.keys() | shapes.keys() if wanted.get(k) != shapes.get(k))
    if unlike:
        first = unlike[0]
        raise InputError(
            f"weights must be of SynthSAM's network for {axes} axes, got {path}, where {first} is "
            f"{shapes.get(first, 'missing')} instead of {wanted.get(first, 'absent')}. Use a file "
            "that `semisam pretrain synthsam` wrote."
        )
    floats = {k: v.float() for k, v in found.items()}
    if not all(math.isfinite(float(v.sum())) for v in floats.values()):
        raise InputError(
            f"weights must be finite numbers, got NaN or infinity in {path}. Copy it again or use "
            "another file."
        )
    return floats


def _read(path: Path) -> dict[str, Tensor]:
    """Return the arrays of a safetensors file, which holds no code, so it is safe to read."""
    if not path.is_file():
        raise InputError(
            f"weights must be a safetensors file, got {path}, which is no file. Check the path."
        )
    check_digest(path)
    try:
        return load_file(str(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(
            f"weights must be a safetensors file, got {path} ({error}). It may be truncated: copy "
            "it again."
        ) from error


def axes_of(path: Path) -> int:
    """Return the spatial axes of the images that the weights in a file are for.

    Raises:
        InputError: the file is not of SynthSAM's weights.
    """
    stem = _read(path).get("stem.weight")
    return 2 if stem is not None and stem.ndim == 4 else 3


def _later() -> dict[str, Tensor]:
    """Return weights for the part that older files lack; they change no prediction."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = SynthSAMNet().state_dict()
    return {k: v for k, v in state.items() if k.startswith(_LATER)}
