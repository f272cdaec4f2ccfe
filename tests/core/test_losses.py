"""Losses against the published code's numbers and against the formula written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from semisam.core.ema import ema_decay_at, ema_update, frozen_copy
from semisam.core.losses import (
    dice_loss,
    entropy,
    foreground_dice_loss,
    masked_supervised_loss,
    mean_squared_difference,
    supervised_loss,
)
from semisam.core.types import IGNORE


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


def _random(classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(2, classes, 6, 5, 4, generator=rng).requires_grad_()
    return logits, torch.randint(0, classes, (2, 6, 5, 4), generator=rng)


def _every_loss(logits: torch.Tensor, label: torch.Tensor) -> list[torch.Tensor]:
    probs = logits.softmax(1)
    everywhere = torch.ones(label.shape[1:], dtype=torch.bool)
    return [
        *supervised_loss(logits, probs, label),
        *supervised_loss(logits, probs, label, dice_classes="all"),
        *masked_supervised_loss(logits, probs, label, everywhere),
        foreground_dice_loss(probs, label),
        mean_squared_difference(probs, torch.zeros_like(probs), label),
    ]


def test_without_ignored_voxels_no_bit_changes():
    logits, label = _random()
    probs = logits.softmax(1)
    dice = [dice_loss(probs[:, k], label == k) for k in range(3)]
    foreground = torch.stack(dice[1:]).mean()
    ce = torch.nn.functional.cross_entropy(logits, label)
    per_voxel = torch.nn.functional.cross_entropy(logits, label, reduction="none")
    want = [
        *(ce, foreground, ce, torch.stack(dice).mean()),
        *(per_voxel.sum() / label.numel(), foreground, foreground, probs.square().mean()),
    ]
    for ours, plain in zip(_every_loss(logits, label), want, strict=True):
        assert torch.equal(ours, plain)
        gradients = [torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (ours, plain)]
        assert torch.equal(*gradients)


def test_ignored_voxels_are_as_if_they_were_not_there():
    logits, label = _random()
    partly = label.clone()
    partly[:, :, 2:] = IGNORE  # so that the rest is a volume of its own
    kept = logits[:, :, :, :2]
    for partial, own in zip(
        _every_loss(logits, partly), _every_loss(kept, label[:, :, :2]), strict=True
    ):
        assert float(partial) == pytest.approx(float(own), rel=1e-5)
        (gradient,) = torch.autograd.grad(partial, logits, retain_graph=True)
        assert not gradient[:, :, :, 2:].any() and gradient[:, :, :, :2].any()


def test_without_an_annotated_voxel_every_loss_is_zero():
    logits, label = _random()
    for loss in _every_loss(logits, torch.full_like(label, IGNORE)):
        (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
        assert float(loss) == 0 and not gradient.any()
