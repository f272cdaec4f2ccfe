"""The settings of a training, and the summary of a finished one."""

from __future__ import annotations

import dataclasses
from typing import Literal

from semisam.networks.precision import Precision
from semisam.training.validation import Validation


@dataclasses.dataclass(frozen=True)
class TrainingPlan:
    """The settings of the training loop.

    Args:
        iterations: optimizer steps ``T``.
        lr: highest learning rate.
        lr_step: iterations between divisions of the rate by ten, of the schedule ``step``.
        optimizer: ``sgd`` or ``adamw``.
        schedule: ``step``, ``poly``, ``cosine`` or ``fall`` (see `semisam.core.schedules`).
        momentum: of SGD.
        weight_decay: of the optimizer.
        averaged: decay of averaged weights, which are deployed; 0 deploys the last weights.
        clip: maximal gradient norm; ``None`` for no clipping.
        precision: ``bf16`` and ``fp16`` run the network under autocast; ``bf16`` only on a device
            that computes in it.
        device: a torch device.
        seed: of dropout and noise; every step draws from a generator seeded by (seed, step).
        checkpoint_every: iterations between checkpoints.
        parts: micro-batches of a batch. Their gradients are accumulated before the optimizer's
            step. BatchNorm, Dice and mixes of rows are then computed per micro-batch.
        norm_batches: batches from which BatchNorm's statistics are computed after the last step
            (see `semisam.networks.batchnorm`). 0 keeps the running averages.
        validation: settings of a validation; ``None``: no validation.
    """

    iterations: int = 6000
    lr: float = 0.01
    lr_step: int = 2500
    optimizer: Literal["sgd", "adamw"] = "sgd"
    schedule: Literal["step", "poly", "cosine", "fall"] = "step"
    momentum: float = 0.9
    weight_decay: float = 1e-4
    averaged: float = 0.0
    clip: float | None = None
    precision: Precision = "bf16"
    device: str = "cpu"
    seed: int = 0
    checkpoint_every: int = 100
    parts: int = 1
    norm_batches: int = 0
    validation: Validation | None = None


@dataclasses.dataclass(frozen=True)
class Summary:
    """The cost and the mean figures of a finished training, resumed parts included.

    Attributes:
        seconds: of training.
        waited: seconds spent on waiting for batches, part of ``seconds``.
        means: of every loss and figure, over the steps that had it.
        steps: optimizer steps; fewer than planned after an early stop.
        validation: best and last score and their iterations; empty without a validation.
    """

    seconds: float
    waited: float
    means: dict[str, float]
    steps: int
    validation: dict[str, float] = dataclasses.field(default_factory=dict)
