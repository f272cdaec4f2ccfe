"""AD-MT: its objective from the formula, its turns, and whose label counts."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.nn import functional as F

from semisam.core.types import IGNORE, Batch, Clock
from semisam.core.views import draw_cut, mix, strong_view
from semisam.frameworks.ad_mt import AlternateDiverseMeanTeacher
from semisam.testing import random_batch, tiny_builder

END = Clock(1000, 1000)
BUILD = tiny_builder(norm="none", dropout=0.0)


def _method(classes=2, apart=True, **options):
    torch.manual_seed(0)
    method = AlternateDiverseMeanTeacher(BUILD, classes, **options)
    if apart:  # three different networks
        for module in (*method.teachers, method.student):
            for parameter in module.parameters():
                parameter.data += 0.1 * torch.randn_like(parameter)
    return method


def _batch(classes=2, unlabeled=2):
    return random_batch(classes, labeled=2, unlabeled=unlabeled, shape=(8, 6, 4))


def _probs(network, image):
    return network(image)["logits"].detach().softmax(1)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("turn", [0, 1])
def test_the_loss_is_that_of_the_formula(classes, turn):
    method, batch = _method(classes, unlabeled_weight=1.5), _batch(classes)
    method.turn.fill_(turn)
    weak = batch.image[2:]
    p1, p2 = (_probs(teacher, weak) for teacher in method.teachers)
    h1, h2 = (-(p * p.log2()).sum(1, keepdim=True) for p in (p1, p2))
    w1 = (-h1).exp() / ((-h1).exp() + (-h2).exp())
    c, y = (w1 * p1 + (1 - w1) * p2).max(1)
    own_c, own_y = _probs(method.student, weak).max(1)
    surer = (p1.argmax(1) != p2.argmax(1)) & (own_y != y) & (own_c > c)
    assert 0 < int(surer.sum()) < surer.numel()
    y, c = torch.where(surer, own_y, y), torch.where(surer, own_c, c)
    near_median = c.flatten().sort().values[c.numel() // 2 - 1 :][:2]
    method.threshold = float(near_median.mean())  # of no voxel, so that no rounding decides
    torch.manual_seed(5)
    step = method.training_step(batch, END)
    torch.manual_seed(5)
    if turn:
        cut = draw_cut(weak)
        strong, y, c = mix(weak, cut), mix(y, cut), mix(c, cut)
    else:
        strong = strong_view(weak)
    sure = c >= method.threshold
    logits = method.student(strong)["logits"].detach()
    want = 1.5 * F.cross_entropy(logits, y, reduction="none")[sure].mean()
    assert step.losses["strong_ce"].item() == pytest.approx(float(want), rel=1e-4)
    torch.testing.assert_close(step.probs, method.student(batch.image)["logits"].softmax(1))
    logits = method.student(batch.image[:2])["logits"].detach()
    ce = 0.5 * F.cross_entropy(logits, batch.label)
    assert step.losses["ce"].item() == pytest.approx(float(ce), rel=1e-4)


def test_the_weight_of_a_teacher_follows_its_entropy():
    method = _method()
    image = _batch().image
    target, disagree = method._teach(image)
    p1, p2 = (_probs(teacher, image) for teacher in method.teachers)
    surer = (p1.max(1).values > p2.max(1).values) & (p1.argmax(1) != p2.argmax(1))
    assert surer.any()
    assert torch.equal(target.argmax(1)[surer], p1.argmax(1)[surer])
    assert torch.equal(disagree, p1.argmax(1) != p2.argmax(1))


def test_only_the_teacher_in_turn_moves_and_each_gets_turns():
    method = _method(apart=False, ema_decay=0.5, longest_turn=3)
    moved, lengths, length = [], [], 0
    for step in range(60):
        for parameter in method.student.parameters():
            parameter.data += 0.01
        turn = int(method.turn)
        before = copy.deepcopy([teacher.state_dict() for teacher in method.teachers])
        method.after_update(Clock(step, 60))
        changed = [
            any(not torch.equal(value, old[name]) for name, value in teacher.state_dict().items())
            for teacher, old in zip(method.teachers, before, strict=True)
        ]
        assert changed[turn] and not changed[1 - turn]
        moved.append(turn)
        length += 1
        if int(method.turn) != turn:
            lengths.append(length)
            length = 0
    assert set(moved) == {0, 1} and set(lengths) == {1, 2, 3}


def test_the_first_update_of_each_teacher_copies_the_student():
    """Otherwise the second one, whose turn comes later, stays near its random start for long."""
    method = _method(longest_turn=3)
    copied = set()
    for step in range(12):
        for parameter in method.student.parameters():
            parameter.data += 0.01 * torch.randn_like(parameter)
        turn = int(method.turn)
        method.after_update(Clock(step, 100))
        state = method.student.state_dict()
        alike = [
            all(torch.equal(value, state[name]) for name, value in teacher.state_dict().items())
            for teacher in method.teachers
        ]
        assert alike[turn] is (turn not in copied) and not alike[1 - turn]
        copied.add(turn)
    assert copied == {0, 1}


def test_the_teacher_in_turn_is_in_training_mode():
    method, batch = _method(), _batch()
    for turn in (0, 1):
        method.turn.fill_(turn)
        method.training_step(batch, END)
        assert [teacher.training for teacher in method.teachers] == [turn == 0, turn == 1]


def test_the_turn_belongs_to_the_state():
    method, other = _method(), _method()
    for step in range(25):
        method.after_update(Clock(step, 100))
    other.load_state_dict(method.state_dict())
    for step in range(25, 60):
        method.after_update(Clock(step, 100))
        other.after_update(Clock(step, 100))
        assert (int(method.turn), int(method.left)) == (int(other.turn), int(other.left))
        assert torch.equal(method.updates, other.updates)


def test_the_first_teacher_is_deployed():
    method, image = _method(), _batch().image
    torch.testing.assert_close(method(image), _probs(method.teachers[0], image))


def test_the_student_can_be_deployed():
    method, image = _method(deploy="student"), _batch().image
    torch.testing.assert_close(method(image), _probs(method.student, image))


@pytest.mark.parametrize("turn", [0, 1])
def test_a_single_unlabeled_row_has_a_strong_view_in_every_turn(turn):
    method, batch = _method(threshold=0.0), _batch(unlabeled=1)
    method.turn.fill_(turn)
    seen = []
    method.student.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    method.training_step(batch, END)
    assert not torch.allclose(seen[0][-1], batch.image[-1], atol=1e-3)


def test_unsure_voxels_teach_nothing():
    step = _method(threshold=0.9999).training_step(_batch(), END)
    assert float(step.losses["strong_ce"]) == 0 and step.metrics["sure"] == 0


def test_the_labels_of_the_labeled_rows_are_the_only_ones():
    batch = _batch()
    ignored = Batch(batch.image, torch.full_like(batch.label, IGNORE))
    step = _method(threshold=0.0).training_step(ignored, END)
    assert float(step.losses["ce"]) == 0 and float(step.losses["strong_ce"]) > 0


def test_a_batch_of_labeled_rows_is_supervised():
    step = _method().training_step(_batch(unlabeled=0), END)
    assert float(step.losses["strong_ce"]) == 0 and float(step.losses["ce"]) > 0


def test_the_weight_rises():
    method, batch = _method(threshold=0.0), _batch()
    losses = []
    for step in (0, 1000):
        torch.manual_seed(1)
        losses.append(float(method.training_step(batch, Clock(step, 1000)).losses["strong_ce"]))
    assert losses[0] == pytest.approx(losses[1] * math.exp(-5), rel=1e-4)


@pytest.mark.parametrize("options", [{"threshold": 1.0}, {"ema_decay": 1.0}, {"longest_turn": 0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="must be in"):
        _method(**options)
