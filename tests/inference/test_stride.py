"""Strides of the test window."""

from __future__ import annotations

from semisam.inference.stride import published_stride, third_stride


def test_strides():
    assert published_stride((112, 112, 80)) == (18, 18, 4)
    assert published_stride((128, 128, 128)) == (21, 21, 6)
    assert published_stride((112, 112)) == (18, 18)
    assert published_stride((2, 2, 2)) == (1, 1, 1)
    assert third_stride((64, 65, 1)) == (21, 21, 1)
