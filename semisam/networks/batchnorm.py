"""BatchNorm's statistics of the trained network, in the place of a running average's.

The running average of the last ten or so steps is of ten networks, none of them the last, with
dropout at work. Where the weights still move, as at the end of a short schedule, the network in
evaluation is another one than was trained: Dice 11 where the same weights with statistics of their
own reach 62 (benchmarks/README.md).

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
    """Take the statistics of every BatchNorm that is deployed afresh, in place.

    They become the mean over batches of each batch's mean and (unbiased) variance, all else being
    in evaluation: no dropout. A layer that no batch reaches, such as a teacher's, keeps its own.

    Args:
        module: holds the layers; left in evaluation mode.
        batches: images ``(B, C, *S)``.
        deploy: what is done with a batch in evaluation.
    """
    module.eval()
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    norms = [norm for norm in norms if norm.running_mean is not None]
    kept = [{name: b.clone() for name, b in norm.named_buffers()} for norm in norms]
    rates = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # every batch counts alike
        norm.train()
    for images in batches:
        deploy(images)
    for norm, buffers, rate in zip(norms, kept, rates, strict=True):
        norm.momentum = rate
        if not norm.num_batches_tracked:
            norm.load_state_dict(buffers, strict=False)
    module.eval()
