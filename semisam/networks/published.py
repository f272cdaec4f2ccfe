"""Published V-Net checkpoints, deployed as by their authors."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from semisam.networks.vnet import load_published


class PublishedVNet(nn.Module):
    """A published V-Net checkpoint that maps images to probabilities.

    One output channel (DTC, DTML) passes through a sigmoid, several (UA-MT, MT) through a softmax.

    Args:
        path: path of the checkpoint.

    Raises:
        InputError: the file is not such a checkpoint.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.net = load_published(path)
        self.num_classes = max(2, int(self.net.heads["logits"].out_channels))  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> Tensor:
        """Return ``(B, K, *S)`` probabilities."""
        logits: Tensor = self.net(image)["logits"]
        if logits.shape[1] > 1:
            return logits.softmax(1)
        foreground = logits.sigmoid()
        return torch.cat([1 - foreground, foreground], 1)
