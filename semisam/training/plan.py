"""How to train, and what a training took."""

from __future__ import annotations

import dataclasses

from semisam.networks.precision import Precision


@dataclasses.dataclass(frozen=True)
class Plan:
    """How to train.

    Args:
        iterations: optimizer steps ``T``.
        lr: SGD's initial learning rate.
        lr_step: the rate is divided by ten each so many iterations.
        momentum: SGD's.
        weight_decay: SGD's.
        clip: maximal gradient norm; ``None`` for no clipping.
        precision: ``bf16`` and ``fp16`` run the network under autocast.
        device: a torch device.
        seed: of dropout and noise; every step draws from a generator seeded by (seed, step).
        checkpoint_every: iterations between checkpoints.
        parts: micro-batches of a batch, whose gradients are accumulated before the optimizer's
            step. BatchNorm's statistics, and losses that are of the batch as a whole (Dice, mixes
            of rows), are then of a micro-batch.
        allow_accumulation: a step that does not fit into memory is taken again in twice as many
            parts, and so are those after it; once in a run.
        norm_batches: batches from which BatchNorm's statistics are taken afresh after the last
            step (see `semisam.networks.batchnorm`); 0: the running averages stay.
    """

    iterations: int = 6000
    lr: float = 0.01
    lr_step: int = 2500
    momentum: float = 0.9
    weight_decay: float = 1e-4
    clip: float | None = None
    precision: Precision = "bf16"
    device: str = "cpu"
    seed: int = 0
    checkpoint_every: int = 100
    parts: int = 1
    allow_accumulation: bool = False
    norm_batches: int = 0


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a finished training took, resumed parts included.

    Attributes:
        seconds: of training.
        waited: of these, for batches.
        means: of every loss and figure, over the steps that gave it.
        accumulated: whether memory forced the batch into micro-batches.
    """

    seconds: float
    waited: float
    means: dict[str, float]
    accumulated: bool = False
