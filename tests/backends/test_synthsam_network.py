import copy

import numpy as np
import pytest
import torch

from semisam.backends._synthsam.prompts import CHANNELS, Marks, make_guide
from semisam.backends._synthsam.session import Session, prediction_loss, weights_of
from semisam.backends._synthsam.user import anywhere, click, proposal
from semisam.core.masks import deepness
from semisam.networks._synthsam import SynthSAMNet, from_subvoxels, to_subvoxels
from semisam.pretraining.generator import draw_volume

SHAPE = (32, 26, 22)


@pytest.fixture(scope="module")
def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SynthSAMNet().eval()


@pytest.fixture(scope="module")
def volume():
    return draw_volume(0, 1, SHAPE)


@pytest.mark.parametrize("shape", [(12, 8, 6), (12, 8)])
def test_subvoxels_there_and_back(shape):
    volume = torch.randn(2, 1, *shape)
    parts = to_subvoxels(volume)
    assert parts.shape == (2, 2 ** len(shape), *(n // 2 for n in shape))
    assert torch.equal(from_subvoxels(parts), volume)
    for number in (0, 2 ** len(shape) - 2):  # the last axis varies fastest
        first = [slice(int(bit), None, 2) for bit in f"{number:0{len(shape)}b}"]
        assert torch.equal(parts[:, number], volume[:, 0][(slice(None), *first)])


@torch.no_grad()
def test_encoded_once_or_again_is_the_same(net, volume):
    marks = Marks(make_guide(volume.image))
    marks.add(np.array([[10, 11, 12], [4, 5, 6]]), 1)
    features = net.encode(volume.image[None, None])
    first = net.decode(features, marks.channels()[None], [marks.cells])
    marks.add(np.array([[20, 20, 20]]), 0)
    second = net.decode(features, marks.channels()[None], [marks.cells])
    again = net.decode(net.encode(volume.image[None, None]), marks.channels()[None], [marks.cells])
    assert first.shape == (1, 8, 16, 13, 11)
    assert torch.equal(second, again)
    assert not torch.equal(first, second)


@torch.no_grad()
def test_the_sharpening_part_changes_nothing_until_it_is_trained(net, volume):
    marks = Marks(make_guide(volume.image))
    marks.add(np.array([[10, 11, 12]]), 1)
    features = net.encode(volume.image[None, None])
    before = net.decode(features, marks.channels()[None], [marks.cells])
    trained = copy.deepcopy(net)
    trained.sharpen[0].weight.mul_(3)
    assert torch.equal(trained.decode(features, marks.channels()[None], [marks.cells]), before)
    trained.sharpen[2].bias.add_(1)
    after = trained.decode(features, marks.channels()[None], [marks.cells])
    torch.testing.assert_close(after, before + 1)


@torch.no_grad()
def test_rows_of_a_batch_are_independent(net, volume):
    other = draw_volume(0, 2, SHAPE)
    alone, prompts, cells = [], [], []
    for v in (volume, other):
        marks = Marks(make_guide(v.image))
        marks.add(np.array([[10, 11, 12]]), 1)
        prompts.append(marks.channels())
        cells.append(marks.cells)
        alone.append(net.decode(net.encode(v.image[None, None]), prompts[-1][None], cells[-1:])[0])
    images = torch.stack([volume.image, other.image])[:, None]
    together = net.decode(net.encode(images), torch.stack(prompts), cells)
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-3, atol=1e-4)


def test_channels_say_where_the_clicks_are(volume):
    marks = Marks(make_guide(volume.image))
    assert not marks.channels()[:4].any()
    marks.add(np.array([[10, 11, 12]]), 1)
    maps = marks.channels(torch.tensor([[4, 4, 4], [20, 20, 20]]))
    assert maps.shape == (CHANNELS, 16, 13, 11)
    for channel in (0, 2, 4, 6, 8):  # of positive clicks
        assert float(maps[channel, 5, 5, 6]) == pytest.approx(float(maps[channel].max()))
    assert not maps[9].any(), "no negative click, no likeness to one"
    assert float(maps[11, 2, 2, 2]) == 1 and float(maps[11, 1, 2, 2]) == -1
    assert float(maps[11, 9, 9, 9]) == 1 and float(maps[11, 10, 9, 9]) == -1


def test_clicks_one_by_one_or_at_once(volume):
    points = np.array([[10, 11, 12], [4, 5, 6], [20, 20, 20]])
    once, single = Marks(make_guide(volume.image)), Marks(make_guide(volume.image))
    once.add(points, 1)
    for point in points:
        single.add(point[None], 1)
    torch.testing.assert_close(once.channels(), single.channels())


def test_a_user_clicks_at_errors(volume):
    session = Session(volume.image, volume.target, np.random.default_rng(0))
    session.first_click()
    assert len(session.marks.cells[1]) == 1
    everything = torch.full((8, 16, 13, 11), 5.0)
    session.correct(everything, 2)  # all of it is too much
    assert len(session.marks.cells[0]) == 2
    session.correct(torch.where(torch.from_numpy(session.parts), 5.0, -5.0), 3)  # nothing is wrong
    assert [len(c) for c in session.marks.cells] == [2, 1]


def test_clicks_lie_in_their_region(volume):
    rng = np.random.default_rng(0)
    parts = to_subvoxels(volume.target[None, None].float())[0].numpy() > 0.5
    for power in (0.0, 2.0):
        for _ in range(20):
            inside, outside = click(parts, rng, power), click(~parts, rng, power)
            assert bool(volume.target[tuple(inside)]) and not bool(volume.target[tuple(outside)])
    assert click(np.zeros_like(parts), rng) is None


@pytest.mark.parametrize("seed", range(8))
def test_every_way_to_open_a_dialogue_about_a_picture(seed):
    picture = draw_volume(0, seed, (48, 32), hard=True)
    session = Session(picture.image, picture.target, np.random.default_rng(seed))
    session.take_habits()
    session.open()
    assert bool(torch.isfinite(session.prompt()).all()) and session.prompt().shape[1:] == (24, 16)
    session.correct(torch.full((4, 24, 16), 5.0), 3)
    assert session.clicks == 3
    session.remember(torch.zeros(4, 24, 16))
    assert weights_of(torch.zeros(1, 4, 24, 16), session.prompt()[None]).shape == (1, 1, 24, 16)


@pytest.mark.parametrize("seed", range(20))
def test_every_way_to_open_a_dialogue(seed, volume):
    session = Session(volume.image, volume.target, np.random.default_rng(seed))
    session.open()
    maps = session.prompt()
    assert bool(torch.isfinite(maps).all()) and bool(maps.any())


def test_a_tiny_target_can_be_asked_for():
    target = torch.zeros(SHAPE, dtype=torch.bool)
    target[7, 7, 7] = True
    for seed in range(12):
        session = Session(torch.randn(SHAPE), target, np.random.default_rng(seed))
        session.open()
        assert bool(torch.isfinite(session.prompt()).all())


def test_a_proposal_is_a_probability_unlike_the_target(volume):
    target = volume.target.numpy()
    for seed in range(8):
        made = proposal(target, np.random.default_rng(seed))
        assert made.shape == target.shape and 0 <= made.min() <= made.max() <= 1
        assert ((made > 0.5) != target).any()


def test_a_click_anywhere_is_in_the_region(volume):
    rng = np.random.default_rng(0)
    parts = to_subvoxels(volume.target[None, None].float())[0].numpy() > 0.5
    found = {tuple(anywhere(parts, rng)) for _ in range(30)}
    assert all(bool(volume.target[point]) for point in found) and len(found) > 20
    assert anywhere(np.zeros_like(parts), rng) is None


@pytest.mark.parametrize("kind", [0.0, 0.5, 1.0, 2.0])
def test_users_of_every_habit_click_at_errors(kind, volume):
    everything = torch.full((8, 16, 13, 11), 5.0)
    for seed in range(5):
        session = Session(volume.image, volume.target, np.random.default_rng(seed))
        session.kind = kind
        session.correct(everything, 4)
        assert session.clicks == 4
        assert sum(len(c) for c in session.marks.cells) == 4


def test_most_habits_occur(volume):
    sessions = [
        Session(volume.image, volume.target, np.random.default_rng(seed)) for seed in range(30)
    ]
    for session in sessions:
        session.take_habits()
    assert {s.kind for s in sessions} == {0.0, 0.5, 1.0, 2.0}
    assert {s.memory for s in sessions} == {0.0, 0.3, 1.0}


def test_the_loss_looks_at_surfaces_and_clicks(volume):
    target = to_subvoxels(volume.target[None, None].float())
    session = Session(volume.image, volume.target, np.random.default_rng(0))
    plain = weights_of(target, session.prompt()[None])
    assert float(plain.mean()) == pytest.approx(1)
    assert len(plain.unique()) == 2 and float(plain.max()) > 2 * float(plain.min())
    session.marks.add(np.array([[0, 0, 0]]), 0)
    clicked = weights_of(target, session.prompt()[None])
    assert float(clicked[0, 0, 0, 0, 0]) > float(plain[0, 0, 0, 0, 0])
    logits = torch.zeros_like(target)
    even = prediction_loss(logits, target, torch.ones_like(plain))
    torch.testing.assert_close(even, prediction_loss(logits, target))


def test_depth_is_that_of_the_whole_volume():
    region = np.random.default_rng(0).random((9, 8, 7)) < 0.7
    region[:3], region[:, :, 5:] = False, False
    padded = np.pad(region, 1)
    import edt

    whole = edt.edt(np.ascontiguousarray(padded), black_border=True)[1:-1, 1:-1, 1:-1]
    np.testing.assert_allclose(deepness(region), whole, rtol=1e-6)
    assert not deepness(np.zeros((4, 4), bool)).any()
