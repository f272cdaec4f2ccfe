"""Clicks from the truth, and the dialogue of a model with them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from semisam.bench import clicks as rules


class Perfect:
    """Knows the truth, a click at a time: a ball around each positive click within it."""

    ndim = 3
    accepts = frozenset({"points"})

    def __init__(self, truth, reach=1):
        self.truth, self.reach = torch.from_numpy(truth), reach
        self.encoded, self.prompts = 0, []

    def encode(self, image):
        self.encoded += 1
        return image

    def segment(self, embedding, prompt):
        self.prompts.append(prompt)
        index = torch.stack(torch.meshgrid(*map(torch.arange, self.truth.shape), indexing="ij"))
        logits = torch.full(self.truth.shape, -1.0)
        for point in prompt.points[prompt.labels == 1]:
            apart = (index - point.view(-1, *[1] * self.truth.ndim)).abs().amax(0)
            logits[(apart <= self.reach) & self.truth] = 1.0
        return logits


def _truth():
    truth = np.zeros((12, 10, 8), bool)
    truth[2:9, 3:8, 2:6] = True
    return truth


@pytest.mark.parametrize("draw", [rules.random_click, rules.deep_click])
def test_clicks_lie_where_the_answer_is_wrong_and_their_sign_is_the_truth(draw):
    truth, rng = _truth(), np.random.default_rng(0)
    answer = np.roll(truth, 2, axis=0)
    for _ in range(50):
        point, label = draw(truth, answer, rng)
        assert truth[point] != answer[point] and label == truth[point]
    first, label = draw(truth, np.zeros_like(truth), rng)
    assert truth[first] and label == 1
    assert draw(truth, truth, rng) is None


def test_random_clicks_are_of_both_signs():
    truth, rng = _truth(), np.random.default_rng(0)
    answer = np.roll(truth, 2, axis=0)
    assert {rules.random_click(truth, answer, rng)[1] for _ in range(50)} == {0, 1}


def test_deep_clicks_lie_in_the_inner_half_of_the_deeper_error():
    truth = np.zeros((20, 12, 12), bool)
    truth[3:12, 2:11, 2:11] = True  # 9 voxels across: 5 deep in the middle
    answer = truth.copy()
    answer[3:6] = False  # missed, 3 voxels thick: 2 deep
    answer[13:20, 2:11, 2:11] = True  # surplus up to the border, 7 thick: 4 deep
    rng = np.random.default_rng(0)
    drawn = {rules.deep_click(truth, answer, rng) for _ in range(200)}
    assert {label for _, label in drawn} == {0}
    # Deeper than 2 means the third layer at least; the volume's border counts as one.
    assert {point[0] for point, _ in drawn} == {15, 16, 17}
    assert {point[1] for point, _ in drawn} == {4, 5, 6, 7, 8}
    answer[13:20] = False
    assert {rules.deep_click(truth, answer, rng)[1] for _ in range(20)} == {1}


def test_the_published_dialogue_clicks_deep_twice_and_then_anywhere(monkeypatch):
    drawn = []
    for name in ("deep_click", "random_click"):
        real = getattr(rules, name)
        monkeypatch.setattr(
            rules, name, lambda *given, name=name, real=real: drawn.append(name) or real(*given)
        )
    truth = _truth()

    def names(clicks, axis=None):
        drawn.clear()
        backend = Perfect(truth, reach=0)
        if axis is not None:
            backend.slice_axis = axis
        image = torch.zeros(1, *truth.shape)
        rules.interact(backend, image, truth, [4], np.random.default_rng(0), clicks)
        return list(drawn)

    assert names("published") == 2 * ["deep_click"] + 2 * ["random_click"]
    assert names("random") == 4 * ["random_click"]
    assert set(names("published", axis=0)) == {"random_click"}


@pytest.mark.parametrize(
    ("memory", "lengths", "masks"),
    [
        (None, [1, 2, 3], [False, False, False]),
        ("mask", [1, 1, 1], [False, True, True]),
        ("both", [1, 2, 3], [False, True, True]),
    ],
)
def test_a_backend_is_told_of_earlier_clicks_as_it_was_trained(memory, lengths, masks):
    truth = _truth()
    backend = Perfect(truth, reach=0)
    if memory is not None:
        backend.memory = memory
    image = torch.zeros(1, *truth.shape)
    rng = np.random.default_rng(0)
    rules.interact(backend, image, truth, [3], rng, class_name="atrium")
    prompts = list(backend.prompts)
    assert [len(p.labels) for p in prompts] == lengths
    assert {p.class_name for p in prompts} == {"atrium"}
    last = [None, *prompts[:-1]] if memory is None else [None] * 3
    assert all(p.last is before for p, before in zip(prompts, last, strict=True))
    assert [p.mask is not None for p in prompts] == masks
    for before, prompt in pairwise(prompts):
        if prompt.mask is not None:
            assert torch.equal(prompt.mask, backend.segment(None, before).sigmoid())


def test_a_volume_is_encoded_once_and_all_clicks_are_kept():
    truth = _truth()
    backend = Perfect(truth)
    found = rules.interact(
        backend, torch.zeros(1, *truth.shape), truth, [1, 4], np.random.default_rng(1)
    )
    assert backend.encoded == 1 and [count for count, *_ in found] == [1, 4]
    assert [len(p.labels) for p in backend.prompts] == [1, 2, 3, 4]
    for early, late in zip(backend.prompts, backend.prompts[1:], strict=False):
        assert torch.equal(late.points[: len(early.points)], early.points)
    overlap = [int(((answer > 0.5) & truth).sum()) for _, answer, *_ in found]
    assert overlap[0] < overlap[1]


def test_nothing_more_is_asked_once_all_is_right():
    truth = _truth()
    backend = Perfect(truth, reach=99)
    found = rules.interact(
        backend, torch.zeros(1, *truth.shape), truth, [1, 3], np.random.default_rng(1)
    )
    assert [len(p.labels) for p in backend.prompts] == [1]
    assert [count for count, *_ in found] == [1, 3]
    assert all(np.array_equal(answer > 0.5, truth) for _, answer, *_ in found)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_slice_models_get_a_click_on_every_slice_of_the_target(axis):
    truth = _truth()
    backend = Perfect(truth)
    backend.slice_axis = axis
    rules.interact(backend, torch.zeros(1, *truth.shape), truth, [1], np.random.default_rng(1))
    points = backend.prompts[0].points
    others = tuple(a for a in range(3) if a != axis % 3)
    assert sorted(points[:, axis].tolist()) == np.flatnonzero(truth.any(axis=others)).tolist()
    assert truth[tuple(points.numpy().T)].all()


def test_slice_models_get_the_clicks_of_any_model_on_an_image():
    truth = _truth()[..., _truth().any((0, 1)).argmax()]
    backend = Perfect(truth)
    backend.slice_axis = -1
    rules.interact(backend, torch.zeros(1, *truth.shape), truth, [1], np.random.default_rng(1))
    assert backend.prompts[0].points.shape == (1, 2)
