"""Autocast and memory format of a network's input."""

from __future__ import annotations

import contextlib
from typing import Any, Literal

import torch
from torch import Tensor

Precision = Literal["bf16", "fp16", "fp32"]


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[Any]:
    """Return the autocast context of a precision; an empty context for fp32."""
    if precision == "fp32":
        return contextlib.nullcontext()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    return torch.autocast(device.type, dtype)


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
