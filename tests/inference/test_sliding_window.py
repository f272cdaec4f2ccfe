"""The sliding window against the published one, and what must hold for any of them."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from semisam.inference.sliding_window import sliding_window, window_starts


@pytest.mark.parametrize("window_batch", [1, 5])
@pytest.mark.parametrize("case", ["big", "small_depth", "exact"])
def test_equals_the_published_window(shared: Path, case, window_batch):
    golden = np.load(shared / "goldens" / "sliding_window.npz")
    net = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.Tanh(), nn.Conv3d(4, 2, 3, padding=1))
    state = {k[4:]: torch.from_numpy(golden[k]) for k in golden.files if k.startswith("net/")}
    net.load_state_dict(state)
    score = sliding_window(
        lambda x: net(x).softmax(1),
        torch.from_numpy(golden[f"{case}/image"])[None],
        golden[f"{case}/patch"].tolist(),
        golden[f"{case}/stride"].tolist(),
        window_batch=window_batch,
    )
    np.testing.assert_allclose(score.numpy(), golden[f"{case}/score"], atol=1e-6, rtol=0)
    np.testing.assert_array_equal(score.argmax(0).numpy(), golden[f"{case}/label"])


def test_starts_as_published():
    assert window_starts(41, 16, 6) == [0, 6, 12, 18, 24, 25]
    assert window_starts(16, 16, 18) == [0]
    assert window_starts(28, 16, 6) == [0, 6, 12]
    for wrong in ((15, 16, 4), (16, 16, 0), (16, 0, 4)):
        with pytest.raises(ValueError, match="0 < patch <= size"):
            window_starts(*wrong)


@given(st.integers(1, 60), st.integers(1, 60), st.data())
def test_windows_cover_the_axis_where_strides_do_not_leave_gaps(size, patch, data):
    size = max(size, patch)
    stride = data.draw(st.integers(1, patch))
    starts = window_starts(size, patch, stride)
    assert {v for a in starts for v in range(a, a + patch)} == set(range(size))
    assert len(set(starts)) == len(starts)


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(2, 3), st.integers(1, 7))
def test_the_identity_comes_back(data, ndim, window_batch):
    size = [data.draw(st.integers(1, 11)) for _ in range(ndim)]
    patch = [data.draw(st.integers(1, 7)) for _ in range(ndim)]
    stride = [data.draw(st.integers(1, p)) for p in patch]
    image = torch.rand((2, *size), generator=torch.Generator().manual_seed(0))
    out = sliding_window(lambda x: x, image, patch, stride, window_batch=window_batch)
    torch.testing.assert_close(out, image)


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_mean_weighs_every_window_once(ndim):
    size, patch, stride = (11, 9, 7)[:ndim], (4, 5, 3)[:ndim], (3, 2, 2)[:ndim]
    marks = iter(range(1, 1000))

    def numbered(x: Tensor) -> Tensor:
        return torch.stack([torch.full_like(row[:1], next(marks)) for row in x])

    out = sliding_window(numbered, torch.zeros(1, *size), patch, stride, window_batch=4)
    total, count = np.zeros(size), np.zeros(size)
    axes = list(zip(size, patch, stride, strict=True))
    corners = itertools.product(*(window_starts(*axis) for axis in axes))
    for number, corner in enumerate(corners, start=1):
        window = tuple(slice(a, a + p) for a, p in zip(corner, patch, strict=True))
        total[window] += number
        count[window] += 1
    np.testing.assert_allclose(out[0].numpy(), total / count, rtol=1e-6)


@pytest.mark.parametrize("ndim", [2, 3])
def test_window_batches_agree(ndim):
    generator = torch.Generator().manual_seed(3)
    image = torch.randn((1, *(21, 17, 9)[:ndim]), generator=generator)
    conv = (nn.Conv2d, nn.Conv3d)[ndim - 2](1, 3, 3, padding=1)
    with torch.no_grad():
        for p in conv.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    scores = [
        sliding_window(
            lambda x: conv(x).softmax(1), image, (8, 8, 6)[:ndim], (3, 4, 2)[:ndim], window_batch=b
        )
        for b in (1, 4, 1000)
    ]
    assert scores[0].shape == (3, *image.shape[1:])
    for other in scores[1:]:
        torch.testing.assert_close(other, scores[0], atol=1e-6, rtol=0)


def test_padding_is_zero_with_the_smaller_half_first():
    seen: list[Tensor] = []

    def record(x: Tensor) -> Tensor:
        seen.append(x)
        return x

    sliding_window(record, torch.ones(1, 3, 4), (6, 4), (2, 2))
    assert seen[0][0, 0, :, 0].tolist() == [0, 1, 1, 1, 0, 0]


def test_accumulates_in_float32_without_a_graph():
    weight = torch.ones((), requires_grad=True)
    image = torch.full((1, 6, 6), 0.1, dtype=torch.bfloat16)
    out = sliding_window(lambda x: x * weight, image, (4, 4), (1, 1))
    assert out.dtype == torch.float32 and not out.requires_grad
    torch.testing.assert_close(out, image.float())


def test_refuses_what_does_not_fit():
    image = torch.zeros(1, 8, 8)
    with pytest.raises(ValueError, match="one number per axis"):
        sliding_window(lambda x: x, image, (4, 4, 4), (2, 2, 2))
    with pytest.raises(ValueError, match="gaps"):
        sliding_window(lambda x: x, image, (2, 2), (3, 2))
    with pytest.raises(ValueError, match="window_batch"):
        sliding_window(lambda x: x, image, (4, 4), (2, 2), window_batch=0)
    with pytest.raises(ValueError, match=r"\(1, K, 4, 4\), got \(1, 4, 4\)"):
        sliding_window(lambda x: x[:, 0], image, (4, 4), (2, 2))
    with pytest.raises(ValueError, match=r"\(3, K, 4, 4\), got \(2, 1, 4, 4\)"):
        sliding_window(lambda x: x[:2], image, (4, 4), (2, 2), window_batch=3)
    with pytest.raises(ValueError, match=r"\(1, K, 4, 4\), got \(1, 1, 3, 4\)"):
        sliding_window(lambda x: x[:, :, 1:], image, (4, 4), (2, 2))
