"""Strong views and CutMix."""

from __future__ import annotations

import pytest
import torch

from semisam.core.views import draw_cut, mix, strong_view, unmix


@pytest.mark.parametrize("shape", [(2, 1, 12, 10, 8), (3, 2, 16, 12)])
def test_a_view_changes_the_looks_and_moves_no_voxel(shape):
    torch.manual_seed(0)
    image = torch.zeros(shape)
    image[..., shape[-1] // 2 :] = 4.0  # an edge along the last axis
    view = strong_view(image)
    assert view.shape == image.shape and view.dtype == image.dtype
    assert torch.isfinite(view).all() and not torch.equal(view, image)
    dark, bright = view[..., 1], view[..., -2]
    assert float(bright.mean() - dark.mean()) > 1


def test_rows_and_channels_get_their_own_changes():
    torch.manual_seed(0)
    image = torch.rand(1, 1, 16, 16, 8).expand(2, 2, -1, -1, -1)
    view = strong_view(image).flatten(2).std(2)
    assert len(set(view.flatten().tolist())) == 4


def test_a_flat_image_stays_finite():
    assert torch.isfinite(strong_view(torch.full((1, 1, 8, 8, 8), 3.0))).all()


def test_views_follow_the_seed():
    image = torch.rand(1, 1, 8, 8, 8)
    torch.manual_seed(3)
    first = strong_view(image)
    torch.manual_seed(3)
    assert torch.equal(strong_view(image), first)


def test_the_cut_is_one_box_of_the_stated_share():
    torch.manual_seed(0)
    image = torch.zeros(2, 1, 30, 24, 20)
    for _ in range(50):
        cut = draw_cut(image)
        inside = cut.nonzero()
        sides = inside.amax(0) - inside.amin(0) + 1
        assert int(cut.sum()) == int(sides.prod())
        # Rounding to voxels moves a share a little.
        assert 0.01 < float(cut.float().mean()) < 0.45


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_unmixing_gives_back_every_row(rows):
    torch.manual_seed(0)
    maps = torch.rand(rows, 2, 8, 6, 4)
    cut = draw_cut(maps)
    mixed = mix(maps, cut)
    assert torch.equal(unmix(mixed, cut), maps)
    assert rows == 1 or not torch.equal(mixed, maps)
    assert torch.equal(mixed[0][:, cut], maps[1 % rows][:, cut])
