"""Strides of the test window. Nothing heavy is imported, as the protocols name them."""

from __future__ import annotations

from collections.abc import Sequence


def published_stride(patch: Sequence[int]) -> tuple[int, ...]:
    """Return UA-MT's stride in proportion to the patch: 18 x 18 x 4 at a patch of 112 x 112 x 80.

    Args:
        patch: voxels of a window along two (in-plane) or three axes.
    """
    return tuple(
        max(1, round(p * 4 / 80) if axis == 2 else round(p * 18 / 112))
        for axis, p in enumerate(patch)
    )


def third_stride(patch: Sequence[int]) -> tuple[int, ...]:
    """Return a third of a patch, at least one voxel.

    The mean over more windows is better, and the windows are fewer by far than by the published
    stride (benchmarks/README.md, "The test window").
    """
    return tuple(max(1, side // 3) for side in patch)
