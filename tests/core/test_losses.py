"""Losses against the published code's numbers and against the formula written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from semisam.core.ema import ema_decay_at, ema_update, frozen_copy
from semisam.core.losses import dice_loss, entropy, foreground_dice_loss, supervised_loss


def test_published_values(shared):
    data = np.load(shared / "goldens" / "losses_and_sdf.npz")
    logits = torch.from_numpy(data["logits_a"])
    probs = logits.softmax(1)
    label = torch.from_numpy(data["target"])
    ce, dice = supervised_loss(logits, probs, label)
    assert float(ce) == pytest.approx(float(data["cross_entropy"]), abs=1e-6)
    assert float(dice) == pytest.approx(float(data["dice_loss"]), abs=1e-6)
    mean_entropy = float(entropy(probs).mean())
    assert mean_entropy == pytest.approx(float(data["entropy_loss_normalised"]), abs=1e-6)


def test_dice_by_hand():
    prob = torch.tensor([[0.5, 1.0, 0.0, 0.25]])
    mask = torch.tensor([[1, 1, 0, 0]])
    overlap, squares, size = 1.5, 0.25 + 1 + 0.0625, 2
    want = 1 - (2 * overlap + 1e-5) / (squares + size + 1e-5)
    assert float(dice_loss(prob, mask)) == pytest.approx(want, abs=1e-7)


def test_dice_of_nothing_is_zero_and_finite():
    prob = torch.zeros(1, 4, requires_grad=True)
    loss = dice_loss(prob, torch.zeros(1, 4, dtype=torch.int64))
    loss.backward()
    assert float(loss) == 0 and torch.isfinite(prob.grad).all()


def test_foreground_dice_leaves_background_out_and_averages_classes():
    torch.manual_seed(0)
    probs = torch.randn(2, 4, 5, 6).softmax(1)
    label = torch.randint(0, 4, (2, 5, 6))
    each = [dice_loss(probs[:, k], label == k) for k in (1, 2, 3)]
    assert float(foreground_dice_loss(probs, label)) == pytest.approx(float(sum(each)) / 3)


def test_entropy_is_one_for_ignorance_and_zero_for_certainty():
    probs = torch.tensor([[0.25, 1.0], [0.25, 0.0], [0.25, 0.0], [0.25, 0.0]])[None]
    assert entropy(probs)[0, 0].tolist() == pytest.approx([1.0, 0.0], abs=1e-5)


def test_ema_is_the_formula_and_leaves_statistics_alone():
    torch.manual_seed(0)
    student = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    teacher = frozen_copy(student)
    before = [p.clone() for p in teacher.parameters()]
    with torch.no_grad():
        for p in student.parameters():
            p.add_(1.0)
    student(torch.randn(8, 3) * 5 + 2)
    ema_update(teacher, student, 0.9, buffers=False)
    for old, new, moved in zip(before, student.parameters(), teacher.parameters(), strict=True):
        torch.testing.assert_close(moved, 0.9 * old + 0.1 * new)
        assert not moved.requires_grad
    assert torch.equal(teacher[1].running_mean, torch.zeros(3))
    ema_update(teacher, student, 0.9, buffers=True)
    torch.testing.assert_close(teacher[1].running_mean, 0.1 * student[1].running_mean)


def test_first_update_copies_the_student():
    assert ema_decay_at(0, 0.99) == 0.0
    assert ema_decay_at(1, 0.99) == 0.5
    assert ema_decay_at(5000, 0.99) == 0.99
