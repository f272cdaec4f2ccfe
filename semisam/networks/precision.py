"""Autocast and memory format of a network's input."""

from __future__ import annotations

import contextlib
import platform
from typing import Any, Literal

import torch
from torch import Tensor

Precision = Literal["bf16", "fp16", "fp32"]


def computes_bf16(device: torch.device) -> bool:
    """Return whether the hardware computes in bfloat16, and does not emulate it.

    Emulated, a training step took 28 times as long as in float32 on a CPU with AVX2 only.
    """
    if device.type == "cuda":
        with torch.cuda.device(device):  # PyTorch looks at the current one
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    mkldnn: Any = torch.backends.mkldnn
    if not (mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return False
    # oneDNN emulates it with AVX-512, too.
    on_x86 = platform.machine().lower() in ("x86_64", "amd64")
    own = (torch.cpu._is_avx512_bf16_supported, torch.cpu._is_amx_tile_supported)
    return not on_x86 or any(has() for has in own)


def is_half(device: torch.device, precision: Precision) -> bool:
    """Return whether a network's activations take two bytes a value."""
    return precision == "fp16" or (precision == "bf16" and computes_bf16(device))


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[Any]:
    """Return the autocast context of a precision.

    It is empty for fp32, and for bf16 on a device that does not compute in bfloat16.
    """
    if not is_half(device, precision):
        return contextlib.nullcontext()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    # Before 2.11 a pass without gradients left its cast weights in the cache, and later passes took
    # them, without gradients too (https://github.com/pytorch/pytorch/pull/165068).
    return torch.autocast(device.type, dtype, cache_enabled=_since(2, 11))


def _since(*version: int) -> bool:
    """Return whether PyTorch has this version or a later one."""
    return tuple(map(int, torch.__version__.split(".")[:2])) >= version


def in_bf16(device: torch.device) -> torch.autocast:
    """Return a context of bfloat16, or of float32 if the hardware does not compute in bfloat16.

    It replaces an autocast around it, unlike the empty context of `autocast`.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=computes_bf16(device))


def to_channels_last(image: Tensor) -> Tensor:
    """Return a 5-D tensor in ``channels_last_3d`` and any other tensor unchanged."""
    return channels_last(image) if image.ndim == 5 else image


def channels_last(image: Tensor) -> Tensor:
    """Return an image ``(B, C, *S)`` of two or three axes with its channels last in memory."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    image = image.contiguous(memory_format=formats[image.ndim])
    if image.shape[1] == 1:
        # One channel is contiguous in both formats, and PyTorch would choose the other one: the
        # output of the first convolution, the largest tensor, would then be copied twice.
        strides = list(image.stride())
        strides[1] = 1
        image = image.as_strided(image.shape, strides)
    return image
