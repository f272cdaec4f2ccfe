"""Recompute BatchNorm statistics for the final weights (PreciseBN).

The running average mixes the statistics of about the last ten steps, with dropout active. Where the
weights still change, as at the end of a short schedule, it does not fit the final weights: Dice is
11, against 62 with recomputed statistics (benchmarks/README.md).

References:
    Wu, Johnson. "Rethinking 'Batch' in BatchNorm." 2021. https://arxiv.org/abs/2105.07576
    (PreciseBN, section 3)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def renew_statistics(
    module: nn.Module, batches: Iterable[Tensor], deploy: Callable[[Tensor], object]
) -> None:
    """Recompute the statistics of every BatchNorm that ``deploy`` uses, in place.

    They become the mean over batches of each batch's mean and (unbiased) variance. All other layers
    are in evaluation mode, so dropout is off. A layer that no batch reaches, such as a teacher's,
    keeps its statistics.

    Args:
        module: holds the layers; left in evaluation mode.
        batches: images ``(B, C, *S)``.
        deploy: the forward pass of a batch in evaluation.
    """
    module.eval()
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    norms = [norm for norm in norms if norm.running_mean is not None]
    if not norms:
        return
    kept = [{name: b.clone() for name, b in norm.named_buffers()} for norm in norms]
    rates = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
        norm.train()
    for images in batches:
        deploy(images)
    for norm, buffers, rate in zip(norms, kept, rates, strict=True):
        norm.momentum = rate
        if not norm.num_batches_tracked:
            norm.load_state_dict(buffers, strict=False)
    module.eval()
