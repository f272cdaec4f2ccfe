"""Mean Teacher's objective, computed again from the formula."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.nn import functional as F

from semisam.core.types import Batch, Clock
from semisam.frameworks.mean_teacher import MeanTeacher
from semisam.frameworks.supervised import Supervised
from semisam.testing import random_batch, tiny_builder

CLOCK = Clock(700, 1000)


def _setup(classes, **options):
    torch.manual_seed(0)
    framework = MeanTeacher(tiny_builder(norm="none", dropout=0.0), classes, **options)
    with torch.no_grad():  # a teacher that differs from its student
        for parameter in framework.teacher.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    batch = random_batch(num_classes=classes, labeled=2, unlabeled=2, shape=(6, 8, 4))
    return framework, batch


def _formula(framework, batch, classes, rows, w, lambda_c):
    image, label = batch.image, batch.label
    torch.manual_seed(5)
    noise = (torch.randn_like(image[rows]) * 0.1).clamp(-0.2, 0.2)
    with torch.no_grad():
        taught = framework.teacher(image[rows] + noise)["logits"].softmax(1)
    logits = framework.student(image)["logits"]
    p = logits.softmax(1)
    one_hot = F.one_hot(label, classes).movedim(-1, 1).float()
    log_p = logits[:2].log_softmax(1)
    ce = -(one_hot * log_p).sum(1).mean()
    dice = 0.0
    for k in range(1, classes):
        s, y = p[:2, k], one_hot[:, k]
        dice += 1 - (2 * (s * y).sum() + 1e-5) / ((s * s).sum() + (y * y).sum() + 1e-5)
    dice = dice / (classes - 1)
    consistency = ((p[rows] - taught) ** 2).mean()
    return {"ce": w * ce, "dice": w * dice, "consistency": lambda_c * consistency}


@pytest.mark.parametrize("classes", [2, 4])
def test_objective_of_the_paper(classes):
    framework, batch = _setup(classes)
    want = _formula(framework, batch, classes, slice(2, 4), 0.5, 0.1 * math.exp(-5 * 0.3))
    torch.manual_seed(5)
    losses = framework.training_step(batch, CLOCK).losses
    assert {k: float(v) for k, v in losses.items()} == pytest.approx(
        {k: float(v) for k, v in want.items()}, rel=1e-5
    )


def test_objective_of_the_published_script():
    framework, batch = _setup(
        2,
        supervised_weight=1.0,
        consistency_weight=0.05,
        consistency_rows="all",
        ramp_power=2,
        ramp_every=150,
    )
    lambda_c = 0.05 * math.exp(-5 * (1 - 600 / 1000) ** 2)
    want = _formula(framework, batch, 2, slice(0, 4), 1.0, lambda_c)
    torch.manual_seed(5)
    losses = framework.training_step(batch, CLOCK).losses
    assert {k: float(v) for k, v in losses.items()} == pytest.approx(
        {k: float(v) for k, v in want.items()}, rel=1e-5
    )


def test_the_unlabeled_term_moves_the_student_and_not_the_teacher():
    framework, batch = _setup(2)
    torch.manual_seed(5)
    framework.training_step(batch, CLOCK).losses["consistency"].backward()
    grads = [p.grad for p in framework.student.parameters()]
    assert all(g is not None and g.abs().sum() > 0 for g in grads)
    assert all(p.grad is None for p in framework.teacher.parameters())


def test_the_teacher_follows_only_after_the_update():
    framework, batch = _setup(2)
    before = copy.deepcopy(framework.teacher.state_dict())
    framework.training_step(batch, CLOCK)
    assert all(torch.equal(v, before[k]) for k, v in framework.teacher.state_dict().items())
    framework.after_update(CLOCK)
    for old, moved, student in zip(
        before.values(),
        framework.teacher.state_dict().values(),
        framework.student.state_dict().values(),
        strict=True,
    ):
        torch.testing.assert_close(moved, 0.99 * old + 0.01 * student)


def test_without_unlabeled_rows_the_consistency_is_zero():
    framework, batch = _setup(2)
    losses = framework.training_step(Batch(batch.image[:2], batch.label), CLOCK).losses
    assert float(losses["consistency"]) == 0.0


def test_supervised_is_half_cross_entropy_and_half_dice():
    torch.manual_seed(0)
    framework = Supervised(tiny_builder(norm="none", dropout=0.0), 2)
    batch = random_batch(num_classes=2, labeled=2, unlabeled=0, shape=(6, 8, 4))
    losses = framework.training_step(batch, CLOCK).losses
    logits = framework.net(batch.image)["logits"]
    s, y = logits.softmax(1)[:, 1], (batch.label == 1).float()
    dice = 1 - (2 * (s * y).sum() + 1e-5) / ((s * s).sum() + (y * y).sum() + 1e-5)
    assert float(losses["dice"]) == pytest.approx(0.5 * float(dice), rel=1e-5)
    ce = F.nll_loss(logits.log_softmax(1), batch.label)
    assert float(losses["ce"]) == pytest.approx(0.5 * float(ce), rel=1e-5)
