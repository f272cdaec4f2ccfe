import pytest
import torch
from scipy import ndimage

from semisam.pretraining.generator import FARTHEST, LARGEST, SMALLEST, draw_volume

SHAPE = (48, 40, 32)
FLAT = (96, 80)
KINDS = {"plain": (SHAPE, False), "hard": (SHAPE, True), "picture": (FLAT, True)}


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.fixture(scope="module")
def volumes(kind):
    return [draw_volume(3, n, *kind) for n in range(12)]


def test_a_volume_is_a_function_of_its_arguments(volumes, kind):
    shape, hard = kind
    torch.manual_seed(1)  # the global generator has no part in it
    again = draw_volume(3, 5, *kind)
    assert torch.equal(again.image, volumes[5].image)
    assert torch.equal(again.target, volumes[5].target)
    for seed, index, how in ((4, 5, hard), (3, 6, hard), (3, 5, not hard)):
        other = draw_volume(seed, index, shape, how)
        assert not torch.equal(other.image, volumes[5].image)


def test_an_image_is_finite_and_standard(volumes, kind):
    for volume in volumes:
        assert volume.image.shape == volume.target.shape == kind[0]
        assert volume.image.dtype == torch.float32
        assert bool(torch.isfinite(volume.image).all())
        assert abs(float(volume.image.mean())) < 1e-3
        assert abs(float(volume.image.std()) - 1) < 1e-2


def test_targets_are_of_many_sizes_and_contrasts(volumes, kind):
    parts = [float(v.target.float().mean()) for v in volumes]
    assert all(SMALLEST <= part <= LARGEST[len(kind[0])] for part in parts)
    assert max(parts) > 4 * min(parts)
    contrast = [float(v.image[v.target].mean() - v.image[~v.target].mean()) for v in volumes]
    assert min(contrast) < 0 < max(contrast), "targets must be brighter and darker than the rest"


def test_a_target_is_one_piece(volumes):
    assert all(ndimage.label(v.target.numpy())[1] == 1 for v in volumes)


def test_looks_tell_structures_apart(volumes, kind):
    for volume in volumes:
        assert volume.looks.shape == kind[0]
        assert len(volume.looks.unique()) > 1


def test_hard_targets_reach_the_border():
    found = [draw_volume(3, n, SHAPE, hard=True).target for n in range(12)]
    assert any(bool(t[0].any() or t[-1].any()) for t in found)


def test_a_label_off_the_edge_has_the_same_image_and_another_surface(kind):
    pairs = [(draw_volume(3, n, *kind), draw_volume(3, n, *kind, off_edge=True)) for n in range(12)]
    smaller, larger = 0, 0
    for drawn, moved in pairs:
        assert torch.equal(drawn.image, moved.image)
        far, near = (
            torch.from_numpy(ndimage.distance_transform_edt(t))
            for t in (~drawn.target, drawn.target)
        )
        unlike = drawn.target ^ moved.target
        # Where the rest of an eroded target is several pieces, all but one are left out.
        assert not far[unlike & ~drawn.target].gt(2 * FARTHEST).any()
        assert ndimage.label(moved.target.numpy())[1] == 1
        assert near[moved.target].max() > 0.5 * near.max(), "the deepest part must stay"
        smaller += int(moved.target.sum() < 0.95 * drawn.target.sum())
        larger += int(moved.target.sum() > 1.05 * drawn.target.sum())
    assert smaller and larger


@pytest.mark.parametrize("shape", [(17, 16, 21), (64, 16, 20), (17, 33)])
def test_any_shape(shape):
    assert draw_volume(0, 0, shape).image.shape == shape


@pytest.mark.parametrize("shape", [(15, 32, 32), (32, 15), (32,)])
def test_refuses_what_is_too_small(shape):
    with pytest.raises(ValueError, match="must have 2 or 3 axes of at least 16"):
        draw_volume(0, 0, shape)
