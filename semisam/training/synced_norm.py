"""BatchNorm whose statistics are of the rows of all ranks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from semisam.training.distributed import all_sum


class SyncedBatchNorm(_BatchNorm):
    """BatchNorm of any number of spatial axes with the statistics of all ranks' rows.

    For the CPU, where torch's ``SyncBatchNorm`` does not run. Mean first, then the mean square
    around it: exact where the mean is large. State dict and evaluation are BatchNorm's.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised input, ``(B, C, ...)``, in the input's precision."""
        if not (self.training or self.running_mean is None):
            return super().forward(input)
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        axes = [0, *range(2, x.ndim)]
        shape = [1, -1, *[1] * (x.ndim - 2)]
        count = float(x.numel() // x.shape[1])
        sums = all_sum(torch.cat([x.sum(axes), x.new_tensor([count])]))
        count = float(sums[-1].detach())
        mean = sums[:-1] / count
        centered = x - mean.view(shape)
        variance = all_sum(centered.square().sum(axes)) / count
        self._remember(mean.detach(), variance.detach(), count)
        out = centered * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: float) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        rate = self.momentum
        if rate is None:
            rate = 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), rate)
        unbiased = variance * (count / max(count - 1.0, 1.0))
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), rate)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"expected at least 2 axes, got {input.ndim}")


def sync_batchnorm(module: nn.Module, device: torch.device) -> None:
    """Replace every BatchNorm below a module, in place; parameters and buffers are kept.

    Args:
        module: a method; its state dict keeps its keys.
        device: on CUDA torch's own ``SyncBatchNorm`` is taken, which is faster there.
    """
    for name, child in module.named_children():
        if not isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            sync_batchnorm(child, device)
            continue
        kind = nn.SyncBatchNorm if device.type == "cuda" else SyncedBatchNorm
        synced = kind(
            child.num_features,
            eps=child.eps,
            momentum=child.momentum,
            affine=child.affine,
            track_running_stats=child.track_running_stats,
        )
        # The same tensors, so that an optimizer that knows them still does.
        synced._parameters = child._parameters
        synced._buffers = child._buffers
        synced.train(child.training)
        setattr(module, name, synced)
