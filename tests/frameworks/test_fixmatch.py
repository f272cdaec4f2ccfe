"""FixMatch: its objective from the formula, and what each option does."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

from semisam.core.types import IGNORE, Batch, Clock
from semisam.core.views import draw_cut, mix, strong_view, unmix
from semisam.frameworks.fixmatch import FixMatch
from semisam.testing import random_batch, tiny_builder

END = Clock(1000, 1000)
BUILD = tiny_builder(norm="none", dropout=0.0)


def _method(classes=2, **options):
    torch.manual_seed(0)
    return FixMatch(BUILD, classes, **options)


def _batch(classes=2, unlabeled=2):
    return random_batch(classes, labeled=2, unlabeled=unlabeled, shape=(8, 6, 4))


@pytest.mark.parametrize("classes", [2, 3])
def test_the_loss_is_that_of_the_formula(classes):
    method, batch = _method(classes), _batch(classes)
    weak = batch.image[2:]
    with torch.no_grad():
        confidence, pseudo = method(weak).max(1)
    method.threshold = float(confidence.median())
    torch.manual_seed(5)
    step = method.training_step(batch, END)
    torch.manual_seed(5)
    cut = draw_cut(weak)
    torch.rand(())
    strong = mix(strong_view(weak), cut)
    logits = method.student(strong)["logits"].detach()
    sure, label = mix(confidence, cut) >= method.threshold, mix(pseudo, cut)
    assert 0 < int(sure.sum()) < sure.numel()
    want = F.cross_entropy(logits, label, reduction="none")[sure].mean()
    assert step.losses["strong_ce"].item() == pytest.approx(0.5 * float(want), rel=1e-4)
    terms = []
    for k in range(1, classes):
        p, y = logits.softmax(1)[:, k][sure], (label == k)[sure].float()
        terms.append(1 - (2 * (p * y).sum() + 1e-5) / ((p * p).sum() + (y * y).sum() + 1e-5))
    dice = float(sum(terms) / len(terms))
    assert step.losses["strong_dice"].item() == pytest.approx(0.5 * dice, rel=1e-4)
    torch.testing.assert_close(step.probs[2:], unmix(logits.softmax(1), cut))


def test_unsure_voxels_teach_nothing():
    method = _method(threshold=0.999)
    step = method.training_step(_batch(), END)
    assert float(step.losses["strong_ce"]) == 0 and step.metrics["sure"] == 0


def test_the_weight_rises_and_stays():
    method = _method(rise=0.25, unlabeled_weight=0.8)
    weights = [method.unlabeled_weight(Clock(t, 1000)) for t in (0, 100, 250, 1000)]
    assert weights[0] < 0.01 < weights[1] < weights[2] == weights[3] == 0.8
    assert _method(rise=0.0).unlabeled_weight(Clock(0, 1000)) == 1.0


def test_the_average_teaches_if_there_is_one():
    method = _method(ema_decay=0.9)
    before = copy.deepcopy(method.teacher.state_dict())
    with torch.no_grad():
        for parameter in method.student.parameters():
            parameter.add_(0.1)
    image = _batch().image
    assert not torch.equal(method._predict(image), method(image))
    method.after_update(Clock(100, 1000))
    for name, value in method.teacher.state_dict().items():
        torch.testing.assert_close(value, before[name] + 0.01, rtol=1e-4, atol=1e-5)
    assert _method().teacher is None


def test_the_labels_of_the_labeled_rows_are_the_only_ones():
    batch = _batch()
    ignored = Batch(batch.image, torch.full_like(batch.label, IGNORE))
    step = _method(threshold=0.0).training_step(ignored, END)
    assert float(step.losses["ce"]) == 0 and float(step.losses["strong_ce"]) > 0


def test_a_batch_of_labeled_rows_is_supervised():
    step = _method().training_step(_batch(unlabeled=0), END)
    assert float(step.losses["strong_ce"]) == 0 and float(step.losses["ce"]) > 0


@pytest.mark.parametrize("options", [{"threshold": 1.0}, {"ema_decay": -0.1}, {"cutmix": 2.0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="must be in"):
        _method(**options)
