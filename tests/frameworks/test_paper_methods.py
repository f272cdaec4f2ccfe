"""The objectives of UA-MT, DTC, DTML and Ent-Mini, computed again from their formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional as F

from semisam.core.types import IGNORE, Clock
from semisam.frameworks._sdf import signed_distance, signed_distances
from semisam.frameworks.dtc import DualTaskConsistency, with_background
from semisam.frameworks.dtml import DualTaskMutualLearning
from semisam.frameworks.ent_mini import EntropyMinimisation
from semisam.frameworks.mean_teacher import MeanTeacher
from semisam.frameworks.supervised import Supervised
from semisam.frameworks.ua_mt import UncertaintyAwareMeanTeacher
from semisam.testing import random_batch, tiny_builder

CLOCK = Clock(700, 1000)
LAMBDA_C = 0.1 * math.exp(-5 * 0.3)
BUILD = tiny_builder(norm="none", dropout=0.0)


def _batch(classes):
    return random_batch(num_classes=classes, labeled=2, unlabeled=2, shape=(6, 8, 4))


def _ce(logits, label):
    return -logits.log_softmax(1).gather(1, label[:, None]).mean()


def _dice(prob, mask):
    y = mask.float()
    return 1 - (2 * (prob * y).sum() + 1e-5) / ((prob * prob).sum() + (y * y).sum() + 1e-5)


def _mean_dice(per_class, label):
    terms = [_dice(per_class[:, k], label == k + 1) for k in range(per_class.shape[1])]
    return sum(terms) / len(terms)


def _floats(losses):
    return {name: float(value) for name, value in losses.items()}


def _assert_same(framework, batch, want):
    torch.manual_seed(5)
    losses = framework.training_step(batch, CLOCK).losses
    assert _floats(losses) == pytest.approx(_floats(want), rel=2e-5)


def _tanh(x):
    return (x.exp() - (-x).exp()) / (x.exp() + (-x).exp())


@pytest.mark.parametrize("classes", [2, 4])
def test_ua_mt(classes):
    torch.manual_seed(0)
    framework = UncertaintyAwareMeanTeacher(BUILD, classes, passes=3)
    with torch.no_grad():
        for parameter in framework.teacher.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    batch = _batch(classes)
    image = batch.image[2:]
    torch.manual_seed(5)

    def teach(x):
        noise = (torch.randn_like(x) * 0.1).clamp(-0.2, 0.2)
        return framework.teacher(x + noise)["logits"].softmax(1)

    with torch.no_grad():
        target = teach(image)
        several = teach(torch.cat([image] * 3))
        mean = (several[0:2] + several[2:4] + several[4:6]) / 3
        u = -(mean * (mean + 1e-6).log()).sum(1, keepdim=True)
    threshold = (0.75 + 0.25 * math.exp(-5 * (1 - 0.7) ** 2)) * math.log(classes)
    mask = (u < threshold).float()
    assert 0 < mask.mean() < 1, "the mask must matter in this test"
    logits = framework.student(batch.image)["logits"]
    p = logits.softmax(1)
    masked = (mask * (p[2:] - target) ** 2).sum() / (classes * mask.sum() + 1e-16)
    want = {
        "ce": 0.5 * _ce(logits[:2], batch.label),
        "dice": 0.5 * _mean_dice(p[:2, 1:], batch.label),
        "consistency": LAMBDA_C * masked,
    }
    _assert_same(framework, batch, want)
    torch.manual_seed(5)
    uncertainty = framework.training_step(batch, CLOCK).uncertainty
    torch.testing.assert_close(uncertainty[2:], u / math.log(classes), atol=1e-5, rtol=1e-5)
    assert not uncertainty.requires_grad and uncertainty.shape == (4, 1, 6, 8, 4)


@pytest.mark.parametrize("classes", [2, 4])
def test_ent_mini(classes):
    torch.manual_seed(0)
    framework = EntropyMinimisation(BUILD, classes)
    batch = _batch(classes)
    logits = framework.net(batch.image)["logits"]
    p = logits.softmax(1)
    entropy = -(p * (p + 1e-6).log()).sum(1) / math.log(classes)
    want = {
        "ce": 0.5 * _ce(logits[:2], batch.label),
        "dice": 0.5 * _mean_dice(p[:2, 1:], batch.label),
        "entropy": LAMBDA_C * entropy.mean(),
    }
    _assert_same(framework, batch, want)


@pytest.mark.parametrize("classes", [2, 4])
def test_ent_mini_with_dice_over_all_classes_as_published(classes):
    torch.manual_seed(0)
    framework = EntropyMinimisation(
        BUILD, classes, dice_classes="all", ramp_power=2, ramp_every=150
    )
    batch = _batch(classes)
    p = framework.net(batch.image)["logits"].softmax(1)
    losses = framework.training_step(batch, CLOCK).losses
    per_class = [_dice(p[:2, k], batch.label == k) for k in range(classes)]
    assert float(losses["dice"]) == pytest.approx(0.5 * float(sum(per_class)) / classes, rel=2e-5)
    entropy = (-(p * (p + 1e-6).log()).sum(1) / math.log(classes)).mean()
    weight = 0.1 * math.exp(-5 * (1 - 600 / 1000) ** 2)
    assert float(losses["entropy"]) == pytest.approx(weight * float(entropy), rel=2e-5)


@pytest.mark.parametrize("classes", [2, 4])
def test_dtc(classes):
    torch.manual_seed(0)
    framework = DualTaskConsistency(BUILD, classes)
    batch = _batch(classes)
    heads = framework.net(batch.image)
    p, z = heads["logits"].softmax(1)[:, 1:], _tanh(heads["sdf"])
    truth = _sdf_by_scipy(batch.label, classes)
    want = {
        "dice": _mean_dice(p[:2], batch.label),
        "sdf": 0.3 * ((z[:2] - truth) ** 2).mean(),
        "consistency": 10 * LAMBDA_C * ((1 / (1 + (1500 * z).exp()) - p) ** 2).mean(),
    }
    _assert_same(framework, batch, want)


@pytest.mark.parametrize("classes", [2, 4])
def test_dtml(classes):
    torch.manual_seed(0)
    framework = DualTaskMutualLearning(BUILD, classes)
    batch = _batch(classes)
    logits = framework.segmenter(batch.image)["logits"]
    p = logits.softmax(1)[:, 1:]
    inside = 1 / (1 + (1500 * _tanh(framework.regressor(batch.image)["sdf"])).exp())
    want = {
        "ce": 0.5 * _ce(logits[:2], batch.label),
        "dice": 0.5 * _mean_dice(p[:2], batch.label),
        "distance_dice": _mean_dice(inside[:2], batch.label),
        "consistency": 2 * 10 * LAMBDA_C * ((inside - p) ** 2).mean(),
    }
    _assert_same(framework, batch, want)


def test_dtc_without_a_background_channel_is_the_published_sigmoid():
    torch.manual_seed(0)
    framework = DualTaskConsistency(BUILD, 2, background_channel=False)
    batch = _batch(2)
    heads = framework.net(batch.image)
    assert heads["logits"].shape[1] == 1
    p, z = heads["logits"].sigmoid(), _tanh(heads["sdf"])
    want = {
        "dice": _dice(p[:2, 0], batch.label == 1),
        "sdf": 0.3 * ((z[:2] - _sdf_by_scipy(batch.label, 2)) ** 2).mean(),
        "consistency": 10 * LAMBDA_C * (((-1500 * z).sigmoid() - p) ** 2).mean(),
    }
    _assert_same(framework, batch, want)
    torch.testing.assert_close(framework(batch.image), torch.cat([1 - p, p], 1))


def test_dtml_without_a_background_channel_is_the_published_sigmoid():
    torch.manual_seed(0)
    framework = DualTaskMutualLearning(BUILD, 2, background_channel=False)
    batch = _batch(2)
    logits = framework.segmenter(batch.image)["logits"]
    assert logits.shape[1] == 1
    p = logits.sigmoid()
    inside = (-1500 * _tanh(framework.regressor(batch.image)["sdf"])).sigmoid()
    label = batch.label[:, None].float()
    want = {
        "ce": 0.5 * F.binary_cross_entropy(p[:2], label),
        "dice": 0.5 * _dice(p[:2], label),
        "distance_dice": _dice(inside[:2], label),
        "consistency": 2 * 10 * LAMBDA_C * ((inside - p) ** 2).mean(),
    }
    _assert_same(framework, batch, want)
    torch.testing.assert_close(framework(batch.image), torch.cat([1 - p, p], 1))


@pytest.mark.parametrize("method", [DualTaskConsistency, DualTaskMutualLearning])
def test_several_classes_without_a_background_channel(method):
    torch.manual_seed(0)
    probs = method(BUILD, 4, background_channel=False)(_batch(4).image)
    assert probs.shape[1] == 4
    torch.testing.assert_close(probs.sum(1), torch.ones_like(probs[:, 0]))


def test_a_step_moves_two_channels_twice_as_far_as_the_published_one():
    """The reason for the option, on a head of one weight per channel."""
    image, label = torch.ones(1, 1, 2, 2), torch.ones(1, 2, 2, dtype=torch.int64)
    moved = {}
    for channels in (1, 2):
        weights = torch.zeros(1, channels, 1, 1, requires_grad=True)
        logits = with_background(weights * image, 2)
        F.cross_entropy(logits, label).backward()
        stepped = with_background((weights - 0.1 * weights.grad).detach(), 2)
        moved[channels] = float(stepped[0, 1] - stepped[0, 0])
    assert moved[2] == pytest.approx(2 * moved[1]) and moved[1] > 0


@pytest.mark.parametrize(
    ("framework", "option"),
    [
        (Supervised, "supervised_weight"),
        (UncertaintyAwareMeanTeacher, "supervised_weight"),
        (UncertaintyAwareMeanTeacher, "noise_std"),
        (DualTaskConsistency, "beta"),
        (DualTaskMutualLearning, "consistency_count"),
        (EntropyMinimisation, "supervised_weight"),
    ],
)
def test_negative_weights_are_refused(framework, option):
    with pytest.raises(ValueError, match=f"{option} must be at least 0, got -1"):
        framework(BUILD, 2, **{option: -1})


def test_one_backward_of_the_sum_is_dtmls_two_backwards():
    """Published: each network's optimizer gets the shared consistency from both backward calls."""
    torch.manual_seed(0)
    framework = DualTaskMutualLearning(BUILD, 2)
    batch = _batch(2)
    losses = framework.training_step(batch, CLOCK).losses
    sum(losses.values()).backward()
    ours = [p.grad.clone() for p in framework.parameters()]
    framework.zero_grad()
    losses = framework.training_step(batch, CLOCK).losses
    shared = losses["consistency"] / 2
    (losses["ce"] + losses["dice"] + shared).backward(retain_graph=True)
    (losses["distance_dice"] + shared).backward()
    for one, two in zip(ours, framework.parameters(), strict=True):
        torch.testing.assert_close(one, two.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("method", "trained"),
    [
        (Supervised, "net"),
        (MeanTeacher, "student"),
        (UncertaintyAwareMeanTeacher, "student"),
        (EntropyMinimisation, "net"),
        (DualTaskConsistency, "net"),
        (DualTaskMutualLearning, "segmenter"),
    ],
)
def test_the_softmax_of_the_trained_network_is_deployed(method, trained):
    torch.manual_seed(0)
    framework, image = method(BUILD, 3).eval(), _batch(3).image
    powers = getattr(framework, trained)(image)["logits"].exp()
    torch.testing.assert_close(framework(image), powers / powers.sum(1, keepdim=True))


@pytest.mark.parametrize(
    ("make", "term"),
    [
        (lambda: UncertaintyAwareMeanTeacher(BUILD, 2), "consistency"),
        (lambda: EntropyMinimisation(BUILD, 2), "entropy"),
        (lambda: DualTaskConsistency(BUILD, 2), "consistency"),
        (lambda: DualTaskMutualLearning(BUILD, 2), "consistency"),
    ],
    ids=["ua-mt", "ent-mini", "dtc", "dtml"],
)
def test_the_unlabeled_term_moves_the_student(make, term):
    """Its gradient depends on the unlabeled rows and reaches every trained parameter."""

    def gradients(batch):
        torch.manual_seed(0)
        framework = make()
        if hasattr(framework, "teacher"):
            with torch.no_grad():
                for parameter in framework.teacher.parameters():
                    parameter.mul_(1.1)
        torch.manual_seed(1)
        framework.training_step(batch, CLOCK).losses[term].backward()
        return [p.grad for p in framework.parameters() if p.requires_grad]

    batch = _batch(2)
    changed = _batch(2)
    changed.image[2:] *= -1
    one, other = gradients(batch), gradients(changed)
    assert sum(float(g.abs().sum()) > 0 for g in one if g is not None) >= 4
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if a is not None]
    assert any(not torch.allclose(a, b, rtol=1e-3, atol=0) for a, b in pairs)


def _sdf_by_scipy(label, classes):
    """The published formula: scipy's distances, min-max within the crop, 0 on the boundary."""
    maps = np.zeros((len(label), classes - 1, *label.shape[1:]), np.float32)
    for row in range(len(label)):
        for k in range(1, classes):
            mask = (label[row] == k).numpy()
            if not mask.any():
                continue
            inside = ndimage.distance_transform_edt(mask)
            outside = ndimage.distance_transform_edt(~mask)
            signed = (outside - outside.min()) / (outside.max() - outside.min()) - (
                inside - inside.min()
            ) / (inside.max() - inside.min())
            face = ndimage.generate_binary_structure(mask.ndim, 1)
            boundary = mask & ~ndimage.binary_erosion(mask, face, border_value=1)
            signed[boundary] = 0
            maps[row, k - 1] = signed
    return torch.from_numpy(maps)


def test_signed_distance_of_the_published_code(shared):
    data = np.load(shared / "goldens" / "losses_and_sdf.npz")
    for mask, want in zip(data["sdf_mask"], data["sdf"], strict=True):
        if np.isfinite(want).all():
            np.testing.assert_allclose(signed_distance(mask > 0), want, atol=1e-6)


def test_signed_distance_of_random_masks():
    rng = np.random.default_rng(0)
    for _ in range(5):
        noise = ndimage.gaussian_filter(rng.normal(size=(14, 11, 9)), 1.5)
        label = torch.from_numpy((noise > 0).astype(np.int64))[None]
        torch.testing.assert_close(
            signed_distances(label, 2), _sdf_by_scipy(label, 2), atol=1e-6, rtol=0
        )


def test_signed_distance_at_the_extremes():
    empty, full = np.zeros((4, 5, 6), bool), np.ones((4, 5, 6), bool)
    assert (signed_distance(empty) == 0).all()
    assert (signed_distance(full) == -1).all()
    one = empty.copy()
    one[0, 0, 0] = True
    assert signed_distance(one)[0, 0, 0] == 0 and signed_distance(one).max() == 1
    label = F.one_hot(torch.tensor([0]), 3).reshape(1, 3, 1, 1)
    assert signed_distances(label, 4).shape == (1, 3, 3, 1, 1)


def test_signed_distance_is_between_annotated_voxels():
    label = torch.full((1, 5, 7, 1), IGNORE)
    label[0, 2] = torch.tensor([0, 0, 0, 1, 1, 1, 0])[:, None]
    found = signed_distances(label, 2)[0, 0, :, :, 0]
    # Along the annotated line: the two outer foreground voxels are the boundary.
    line = signed_distances(label[:, 2:3], 2)[0, 0, 0, :, 0]
    assert line.tolist() == pytest.approx([1, 2 / 3, 1 / 3, 0, -1, 0, 1 / 3])
    assert torch.equal(found[2], line)
    assert not found[[0, 1, 3, 4]].any(), "an ignored voxel has no distance"
    only = torch.where(label == 1, 1, IGNORE)
    assert signed_distances(only, 2).unique().tolist() == [-1, 0]
