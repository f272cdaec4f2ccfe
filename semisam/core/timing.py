"""The time, on devices that work on after a call has returned."""

from __future__ import annotations

import time

import torch


def now(device: torch.device) -> float:
    """Return the time in seconds once a device has finished its queued work.

    A GPU still computes what was called before.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
