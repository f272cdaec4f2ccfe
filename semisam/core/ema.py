"""The mean teacher: an exponential moving average of a student's parameters."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def frozen_copy(student: nn.Module) -> nn.Module:
    """Return a copy of the student whose parameters require no gradient."""
    teacher = copy.deepcopy(student)
    for parameter in teacher.parameters():
        parameter.requires_grad_(False)
    return teacher


def ema_decay_at(step: int, decay: float) -> float:
    """Return ``min(1 - 1/(t + 1), decay)``, which is a plain average in early steps.

    ``t`` counts finished updates from 0, so the first update copies the student, as published.
    """
    return min(1.0 - 1.0 / (step + 1), decay)


@torch.no_grad()
def move_average(
    average: Sequence[Tensor], current: Sequence[Tensor], step: int, decay: float
) -> None:
    """Move averaged weights in place: ``min(decay, (1 + t) / (10 + t))`` of them stay.

    Args:
        average: the averaged tensors.
        current: the trained ones, in the same order.
        step: ``t``, the step that was just made, from 0.
        decay: reached over the first steps.
    """
    kept = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average), list(current), 1 - kept)


@torch.no_grad()
def ema_update(teacher: nn.Module, student: nn.Module, decay: float, *, buffers: bool) -> None:
    """Update the teacher: ``theta' = a theta' + (1 - a) theta``, in a few fused kernels.

    Args:
        teacher: changed in place.
        student: a module of the same architecture.
        decay: ``a`` of this step.
        buffers: also average the floating-point buffers (BatchNorm statistics). The published code
            does not: its teacher runs in training mode and keeps its own statistics.
    """
    old: list[Tensor] = list(teacher.parameters())
    new: list[Tensor] = list(student.parameters())
    torch._foreach_lerp_(old, new, 1.0 - decay)
    if buffers:
        for ours, theirs in zip(teacher.buffers(), student.buffers(), strict=True):
            if ours.is_floating_point():
                ours.lerp_(theirs, 1.0 - decay)
            else:
                ours.copy_(theirs)
