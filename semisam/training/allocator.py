"""Settings of the C library for the memory of large tensors."""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_memory() -> bool:
    """Keep the memory of freed tensors in the process; return whether the system allows it.

    A training step allocates and frees the same activations, tens of megabytes each, many times.
    The C library of Linux returns each to the system at once and gets it back page by page, zeroed.
    That takes a fifth of a step's time on a CPU. The peak does not grow, but memory stays in use
    until the process ends. Huge pages are used where the system offers them.

    Call it before the first large tensor. On other systems than Linux with glibc it does nothing.
    """
    # Read by PyTorch at its first large allocation.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    options = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 64 << 20))
    return all([mallopt(option, value) == 1 for option, value in options])
