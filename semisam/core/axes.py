"""PyTorch's names of one operation, by the number of spatial axes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

LINEAR = {2: "bilinear", 3: "trilinear"}
"""The mode of ``interpolate``."""

CHANNELS_LAST: Mapping[int, Any] = {2: torch.channels_last, 3: torch.channels_last_3d}
"""The memory format that convolutions on a CPU prefer."""

CONV: Mapping[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
CONV_TRANSPOSE: Mapping[int, Any] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
DROPOUT: Mapping[int, Any] = {2: nn.Dropout2d, 3: nn.Dropout3d}
MEAN_POOL: Mapping[int, Any] = {2: functional.avg_pool2d, 3: functional.avg_pool3d}
MAX_POOL: Mapping[int, Any] = {2: functional.max_pool2d, 3: functional.max_pool3d}
GRID_MEANS: Mapping[int, Any] = {
    2: functional.adaptive_avg_pool2d,
    3: functional.adaptive_avg_pool3d,
}
