"""CPS, MC-Net+, URPC, ICT and BCP: their objectives by their formulas, and what each adds."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.distributions import Beta

from semisam.core.framework import NetBuilder
from semisam.core.losses import masked_supervised_loss
from semisam.core.types import Batch, Clock
from semisam.frameworks.bcp import BidirectionalCopyPaste, draw_box, reassemble
from semisam.frameworks.cps import CrossPseudoSupervision
from semisam.frameworks.ict import InterpolationConsistencyTraining, draw_mix, mix
from semisam.frameworks.mc_net import HEADS, MutualConsistency
from semisam.frameworks.urpc import UncertaintyRectifiedPyramidConsistency, pyramid_consistency
from semisam.networks.unet import UNet
from semisam.plugins.registry import describe_options
from semisam.run.protocols import PROTOCOLS
from semisam.testing import random_batch, tiny_builder

CLOCK = Clock(700, 1000)
RAMP = math.exp(-5 * 0.3)
BUILD = tiny_builder(norm="none", dropout=0.0)


def _batch(classes, labeled=2, unlabeled=2, shape=(6, 9, 5)):
    return random_batch(num_classes=classes, labeled=labeled, unlabeled=unlabeled, shape=shape)


def _softmax(logits):
    powers = logits.double().exp()
    return powers / powers.sum(1, keepdim=True)


def _ce(logits, label, where=None):
    per_voxel = -_softmax(logits).log().gather(1, label[:, None])[:, 0]
    return per_voxel.mean() if where is None else per_voxel[:, where].mean()


def _dice(logits, label, where=None):
    """The mean over the foreground classes; only the voxels of the mask are looked at."""
    p, terms = _softmax(logits), []
    for k in range(1, p.shape[1]):
        s, y = p[:, k], (label == k).double()
        if where is not None:
            s, y = s[:, where], y[:, where]
        terms.append(1 - (2 * (s * y).sum() + 1e-5) / ((s * s).sum() + (y * y).sum() + 1e-5))
    return sum(terms) / len(terms)


def _losses(framework, batch, clock=CLOCK):
    torch.manual_seed(5)
    return framework.training_step(batch, clock)


def _floats(losses):
    return {name: float(torch.as_tensor(value).detach()) for name, value in losses.items()}


def _assert_same(framework, batch, want, clock=CLOCK):
    got = _floats(_losses(framework, batch, clock).losses)
    assert got == pytest.approx(_floats(want), rel=2e-5)


def _apart(framework):
    """Move the teacher away from its student, or they would agree."""
    with torch.no_grad():
        for parameter in framework.teacher.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return framework


# --- cross pseudo supervision ---------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("rows", ["all", "unlabeled"])
def test_cps(classes, rows):
    torch.manual_seed(0)
    framework = CrossPseudoSupervision(BUILD, classes, consistency_rows=rows)
    batch = _batch(classes)
    one = framework.first(batch.image)["logits"]
    two = framework.second(batch.image)["logits_second"]
    assert not torch.equal(one, two), "the networks must start differently"
    part = slice(0, 4) if rows == "all" else slice(2, 4)
    cross = _ce(one[part], two[part].max(1).indices) + _ce(two[part], one[part].max(1).indices)
    want = {
        "ce": 0.5 * (_ce(one[:2], batch.label) + _ce(two[:2], batch.label)),
        "dice": 0.5 * (_dice(one[:2], batch.label) + _dice(two[:2], batch.label)),
        "consistency": 0.1 * RAMP * cross,
    }
    _assert_same(framework, batch, want)


def test_cps_a_network_is_not_moved_by_what_it_teaches():
    """The gradient of the first is that of its own cross-entropy with fixed labels."""
    torch.manual_seed(0)
    framework = CrossPseudoSupervision(BUILD, 3)
    batch = _batch(3)
    _losses(framework, batch).losses["consistency"].backward()
    got = [p.grad.clone() for p in framework.first.parameters()]
    framework.zero_grad()
    with torch.no_grad():
        fixed = framework.second(batch.image)["logits_second"].argmax(1)
    loss = _ce(framework.first(batch.image)["logits"], fixed)
    (0.1 * RAMP * loss).backward()
    for ours, parameter in zip(got, framework.first.parameters(), strict=True):
        torch.testing.assert_close(ours, parameter.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("axes", [2, 3])
def test_cps_two_networks_of_one_pretrained_start_differ(axes):
    """They would stay equal, and each would teach itself."""
    build = NetBuilder(lambda heads: UNet(1, heads, axes=axes), channels=1, axes=axes)
    framework = CrossPseudoSupervision(build, 2)
    image = random_batch(shape=(16,) * axes).image
    one, two = framework.first(image)["logits"], framework.second(image)["logits_second"]
    assert not torch.allclose(one, two, atol=0.1)


# --- mutual consistency ---------------------------------------------------------------------------


def _sharp(p):
    return p**10 / (p**10 + (1 - p) ** 10)


@pytest.mark.parametrize("classes", [2, 4])
def test_mc_net(classes):
    torch.manual_seed(0)
    framework = MutualConsistency(BUILD, classes)
    batch = _batch(classes)
    heads = [framework.net(batch.image)[name] for name in HEADS]
    maps = [_softmax(head) for head in heads]
    pairs = [(i, j) for i in range(3) for j in range(3) if i != j]
    squares = [((maps[i] - _sharp(maps[j])) ** 2).mean() for i, j in pairs]
    want = {
        "dice": 0.5 * sum(_dice(head[:2], batch.label) for head in heads),
        "consistency": 0.1 * RAMP * sum(squares),
    }
    _assert_same(framework, batch, want)


@pytest.mark.parametrize("flows", [False, True])
def test_mc_net_gradient_of_the_targets(flows):
    torch.manual_seed(0)
    framework = MutualConsistency(BUILD, 2, target_gradient=flows)
    batch = _batch(2)
    _losses(framework, batch).losses["consistency"].backward()
    got = [p.grad.clone() for p in framework.parameters() if p.grad is not None]
    framework.zero_grad()
    maps = [framework.net(batch.image)[name].softmax(1) for name in HEADS]
    sharp = [_sharp(p if flows else p.detach()) for p in maps]
    pairs = [(i, j) for i in range(3) for j in range(3) if i != j]
    sum(0.1 * RAMP * ((maps[i] - sharp[j]) ** 2).mean() for i, j in pairs).backward()
    want = [p.grad for p in framework.parameters() if p.grad is not None]
    for ours, other in zip(got, want, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-7)


def test_mc_net_the_published_ramp_ends_before_the_training():
    """``exp(-5 (1 - min(t // 150, 40) / 40)^2)`` of 15,000 iterations."""
    torch.manual_seed(0)
    published = PROTOCOLS["published"].methods["mc-net"]
    framework = MutualConsistency(BUILD, 2, **published)
    batch = _batch(2)

    def at(step):
        return _floats(_losses(framework, batch, Clock(step, 15_000)).losses)["consistency"]

    last = at(14_999)
    for step in (0, 149, 150, 3_000, 5_999, 6_000, 9_000):
        share = math.exp(-5 * (1 - min(step // 150, 40) / 40) ** 2)
        assert at(step) == pytest.approx(share * last, rel=1e-5), step


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"rise": 0.0}, {"rise": 1.1}])
def test_mc_net_refuses(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be above 0"):
        MutualConsistency(BUILD, 2, **options)


# --- uncertainty rectified pyramid consistency ----------------------------------------------------


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("divergence_of", ["scale", "average"])
def test_urpc(classes, divergence_of):
    torch.manual_seed(0)
    framework = UncertaintyRectifiedPyramidConsistency(BUILD, classes, divergence_of=divergence_of)
    batch = _batch(classes)
    names = ("logits", "logits_level1", "logits_level2", "logits_level3")
    heads = [framework.net(batch.image)[name] for name in names]
    maps = [_softmax(head[2:]) for head in heads]
    average = sum(maps) / 4
    rectified, divergences = [], []
    for p in maps:
        first, second = (p, average) if divergence_of == "scale" else (average, p)
        d = (first * (first / second).log()).sum(1)
        w = (-d).exp()
        square = ((p - average) ** 2).mean(1)
        rectified.append((w * square).sum() / w.sum())
        divergences.append(d.mean())
    want = {
        "ce": 0.5 * sum(_ce(head[:2], batch.label) for head in heads) / 4,
        "dice": 0.5 * sum(_dice(head[:2], batch.label) for head in heads) / 4,
        "consistency": 0.1 * RAMP * sum(rectified) / 4,
        "divergence": 0.1 * RAMP * sum(divergences) / 4,
    }
    _assert_same(framework, batch, want)


def test_urpc_where_the_scales_differ_counts_less():
    """Two voxels: agreement at one, none at the other; the weights are exp(-D)."""
    agree = torch.tensor([0.7, 0.3])
    one, two = torch.tensor([0.9, 0.1]), torch.tensor([0.2, 0.8])
    maps = torch.stack([torch.stack([agree, one]), torch.stack([agree, two])])  # scale, voxel, K
    log_probs = maps.movedim(-1, 1)[:, None].log()
    rectified, divergence = pyramid_consistency(log_probs, "scale")
    middle = (one + two) / 2
    d = [float((p * (p / middle).log()).sum()) for p in (one, two)]
    squares = [float(((p - middle) ** 2).mean()) for p in (one, two)]
    weighted = [math.exp(-x) * y / (1 + math.exp(-x)) for x, y in zip(d, squares, strict=True)]
    assert float(rectified) == pytest.approx(sum(weighted) / 2, rel=1e-5)
    assert float(rectified) < sum(squares) / 4, "the unweighted mean over both voxels"
    assert float(divergence) == pytest.approx(sum(d) / 4, rel=1e-5)
    assert 0 < max(d) < math.log(2), "never above the log of the number of scales"


def test_urpc_scales_that_agree_have_no_consistency_loss():
    log_probs = torch.randn(1, 2, 3, 4, 4).log_softmax(2).expand(4, -1, -1, -1, -1)
    for term in pyramid_consistency(log_probs, "scale"):
        assert float(term) == pytest.approx(0, abs=1e-6)


def test_urpc_asks_for_the_scales_and_needs_one_more_than_the_finest():
    asked = []
    UncertaintyRectifiedPyramidConsistency(
        lambda **heads: asked.append(heads) or BUILD(**heads), 3, levels=2
    )
    assert asked == [{"logits": 3, "logits_level1": 3, "logits_level2": 3}]
    with pytest.raises(ValueError, match="levels must be at least 1"):
        UncertaintyRectifiedPyramidConsistency(BUILD, 2, levels=0)
    with pytest.raises(ValueError, match="logits_level4"):
        UncertaintyRectifiedPyramidConsistency(BUILD, 2, levels=4)


# --- interpolation consistency training -----------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("unlabeled", [1, 2, 3])
def test_ict(classes, unlabeled):
    torch.manual_seed(0)
    framework = _apart(InterpolationConsistencyTraining(BUILD, classes))
    batch = _batch(classes, unlabeled=unlabeled)
    pool = batch.image[1:] if unlabeled == 1 else batch.image[2:]
    torch.manual_seed(5)
    share = float(Beta(0.2, 0.2).sample())
    shift = int(torch.randint(1, 3, ())) if len(pool) == 3 else 1
    partner = [(i + shift) % len(pool) for i in range(len(pool))]
    assert all(i != j for i, j in enumerate(partner))
    with torch.no_grad():
        taught = _softmax(framework.teacher(pool)["logits"])
        mixed = share * pool + (1 - share) * pool[partner]
        target = share * taught + (1 - share) * taught[partner]
        logits = framework.student(batch.image[:2])["logits"]
        at_mix = _softmax(framework.student(mixed)["logits"])
    want = {
        "ce": 0.5 * _ce(logits, batch.label),
        "dice": 0.5 * _dice(logits, batch.label),
        "consistency": 0.1 * RAMP * ((at_mix - target) ** 2).mean(),
    }
    assert float(want["consistency"]) > 0
    _assert_same(framework, batch, want)


def test_ict_mix():
    rows = torch.tensor([[1.0], [10.0], [100.0]])
    assert mix(rows, 0.75, 1).flatten().tolist() == [3.25, 32.5, 75.25]
    assert mix(rows, 1.0, 2).equal(rows)
    torch.manual_seed(0)
    draws = [draw_mix(0.2, 4) for _ in range(300)]
    assert {shift for _, shift in draws} == {1, 2, 3}
    shares = np.array([share for share, _ in draws])
    assert shares.min() >= 0 and shares.max() <= 1
    # Beta(a, a) has mean 1/2 and variance 1 / (4 (2a + 1)).
    assert shares.mean() == pytest.approx(0.5, abs=0.07)
    assert shares.var() == pytest.approx(1 / 5.6, abs=0.03)
    with pytest.raises(ValueError, match="alpha"):
        InterpolationConsistencyTraining(BUILD, 2, alpha=0.0)


def test_ict_teacher_follows_the_student_after_the_update():
    torch.manual_seed(0)
    framework = _apart(InterpolationConsistencyTraining(BUILD, 2))
    before = [p.clone() for p in framework.teacher.parameters()]
    framework.after_update(Clock(700, 1000))
    moved, student = framework.teacher.parameters(), framework.student.parameters()
    for old, new, s in zip(before, moved, student, strict=True):
        torch.testing.assert_close(new, 0.99 * old + 0.01 * s)


def test_ict_without_a_wrapper_nothing_goes_back_through_the_plain_rows():
    torch.manual_seed(0)
    framework = InterpolationConsistencyTraining(BUILD, 2)
    step = _losses(framework, _batch(2))
    gradient = torch.autograd.grad(
        sum(step.losses.values()), step.probs, allow_unused=True, retain_graph=True
    )
    assert gradient == (None,)
    step.probs[2:].sum().backward()  # and a wrapper's term can


# --- bidirectional copy-paste ---------------------------------------------------------------------


def _largest(label, classes):
    kept = np.zeros_like(label)
    for k in range(1, classes):
        parts, count = ndimage.label(label == k, np.ones((3, 3, 3)))
        if count:
            kept[parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])] = k
    return kept


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize(("labeled", "unlabeled"), [(2, 2), (1, 3), (3, 1), (1, 1)])
def test_bcp(classes, labeled, unlabeled):
    torch.manual_seed(0)
    framework = _apart(BidirectionalCopyPaste(BUILD, classes))
    batch = _batch(classes, labeled, unlabeled)
    known, other = batch.image[:labeled], batch.image[labeled:]
    torch.manual_seed(5)
    box = draw_box(batch.image.shape[2:], 2 / 3)
    with torch.no_grad():
        raw = framework.teacher(other)["logits"].max(1).indices.numpy()
    pseudo = torch.from_numpy(np.stack([_largest(row, classes) for row in raw]))
    if unlabeled > 1:
        assert not np.array_equal(raw, pseudo), "the largest component must matter in this test"
    into, onto, label, of_into, of_onto = [], [], [], [], []
    for k in range(max(labeled, unlabeled)):
        i, j, m = k % labeled, k % unlabeled, (k + 1) % unlabeled
        image = known[i].clone()
        image[:, box] = other[j][:, box]
        into.append(image)
        image = other[m].clone()
        image[:, box] = known[i][:, box]
        onto.append(image)
        label.append(batch.label[i])
        of_into.append(pseudo[j])
        of_onto.append(pseudo[m])
    label, of_into, of_onto = map(torch.stack, (label, of_into, of_onto))
    with torch.no_grad():
        a = framework.student(torch.stack(into))["logits"]
        b = framework.student(torch.stack(onto))["logits"]
    want = {
        "ce": 0.5 * (_ce(a, label, ~box) + _ce(b, label, box)),
        "dice": 0.5 * (_dice(a, label, ~box) + _dice(b, label, box)),
        "pseudo_ce": 0.25 * (_ce(a, of_into, box) + _ce(b, of_onto, ~box)),
        "pseudo_dice": 0.25 * (_dice(a, of_into, box) + _dice(b, of_onto, ~box)),
    }
    _assert_same(framework, batch, want)


def test_bcp_pre_training_pairs_image_label_and_map_of_three_rows():
    """With three rows a wrong partner is not the right one by chance."""
    seen = {}

    class Recorder(torch.nn.Module):
        def forward(self, image):
            seen["image"] = image
            return {"logits": torch.cat([image, -image], 1)}

    framework = BidirectionalCopyPaste(lambda **heads: Recorder(), 2)
    image = torch.randn(3, 1, 6, 9, 5)
    label = (image[:, 0] < 0).long()
    step = _losses(framework, Batch(image, label), Clock(1, 1000))
    torch.manual_seed(5)
    box = draw_box(image.shape[2:], 2 / 3)
    for row in range(3):
        assert torch.equal(seen["image"][row][:, box], image[(row + 1) % 3][:, box])
        assert torch.equal(seen["image"][row][:, ~box], image[row][:, ~box])
    logits = torch.cat([seen["image"], -seen["image"]], 1)
    want = 0.5 * _ce(logits, (seen["image"][:, 0] < 0).long())
    assert float(step.losses["ce"]) == pytest.approx(float(want), rel=1e-5)
    torch.testing.assert_close(step.probs, torch.cat([image, -image], 1).softmax(1))


@pytest.mark.parametrize("classes", [2, 4])
def test_bcp_pre_trains_on_labeled_rows_pasted_onto_each_other(classes):
    torch.manual_seed(0)
    framework = _apart(BidirectionalCopyPaste(BUILD, classes))
    batch = _batch(classes)
    torch.manual_seed(5)
    box = draw_box(batch.image.shape[2:], 2 / 3)
    image, label = batch.image[:2].clone(), batch.label.clone()
    image[0, :, box], image[1, :, box] = batch.image[1][:, box], batch.image[0][:, box]
    label[0, box], label[1, box] = batch.label[1][box], batch.label[0][box]
    with torch.no_grad():
        logits = framework.student(image)["logits"]
        plain = framework(batch.image[2:])
    want = {"ce": 0.5 * _ce(logits, label), "dice": 0.5 * _dice(logits, label)}
    want |= {"pseudo_ce": 0.0, "pseudo_dice": 0.0}
    early = Clock(117, 1000)  # 2/17 of 1000 are 117.6
    _assert_same(framework, batch, want, early)
    step = _losses(framework, batch, early)
    p = _softmax(logits).float()
    for row in (0, 1):
        torch.testing.assert_close(step.probs[row][:, box], p[1 - row][:, box])
        torch.testing.assert_close(step.probs[row][:, ~box], p[row][:, ~box])
    torch.testing.assert_close(step.probs[2:], plain)
    assert _floats(_losses(framework, batch, Clock(118, 1000)).losses)["pseudo_ce"] > 0


def test_bcp_teacher_is_a_copy_until_pre_training_ends():
    torch.manual_seed(0)
    framework = _apart(BidirectionalCopyPaste(BUILD, 2))
    framework.after_update(Clock(117, 1000))
    pairs = zip(framework.teacher.parameters(), framework.student.parameters(), strict=True)
    assert all(torch.equal(t, s) for t, s in pairs)
    before = [p.clone() for p in _apart(framework).teacher.parameters()]
    framework.after_update(Clock(118, 1000))
    moved, student = framework.teacher.parameters(), framework.student.parameters()
    for old, new, s in zip(before, moved, student, strict=True):
        torch.testing.assert_close(new, 0.99 * old + 0.01 * s)


def test_bcp_box():
    torch.manual_seed(0)
    shape, corners = (12, 9, 6), set()
    for _ in range(200):
        box = draw_box(shape, 2 / 3)
        inside = box.nonzero()
        low, high = inside.min(0).values, inside.max(0).values + 1
        assert (high - low).tolist() == [8, 6, 4] and box.sum() == 8 * 6 * 4
        corners.add(tuple(low.tolist()))
    assert {c[0] for c in corners} == set(range(5)) and {c[2] for c in corners} == {0, 1, 2}
    assert draw_box((4, 5), 0.5).sum() == 4, "two axes"
    for wrong in ({"beta": 1.0}, {"beta": 0.0}, {"pretrain": 1.0}):
        with pytest.raises(ValueError, match="beta must be in"):
            BidirectionalCopyPaste(BUILD, 2, **wrong)


@pytest.mark.parametrize(("labeled", "unlabeled"), [(2, 2), (1, 3), (3, 1), (3, 2), (1, 1)])
def test_bcp_every_row_gets_its_own_voxels_back(labeled, unlabeled):
    """With images in the place of maps, the re-assembled rows are the images."""
    image = torch.randn(labeled + unlabeled, 1, 6, 4, 5)
    known, other = image[:labeled], image[labeled:]
    box = draw_box(image.shape[2:], 2 / 3)
    into, onto = [], []
    for k in range(max(labeled, unlabeled)):
        i, j, m = k % labeled, k % unlabeled, (k + 1) % unlabeled
        into.append(torch.where(box, other[j], known[i]))
        onto.append(torch.where(box, known[i], other[m]))
    back = reassemble(torch.stack(into), torch.stack(onto), box, labeled, unlabeled)
    assert torch.equal(back, image)


def test_masked_supervision_reads_nothing_outside_and_takes_an_empty_mask():
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 4, 5)
    label = torch.randint(0, 3, (2, 4, 5))
    mask = torch.rand(4, 5) > 0.5
    ours = masked_supervised_loss(logits, logits.softmax(1), label, mask)
    changed = torch.where(mask, label, 0)
    other = masked_supervised_loss(logits, logits.softmax(1), changed, mask)
    assert all(torch.equal(a, b) for a, b in zip(ours, other, strict=True))
    want = [_ce(logits, label, mask), _dice(logits, label, mask)]
    assert [float(x) for x in ours] == pytest.approx([float(x) for x in want], rel=1e-5)
    nothing = masked_supervised_loss(logits, logits.softmax(1), label, torch.zeros_like(mask))
    assert [float(x) for x in nothing] == [0.0, 0.0]


# --- all of them ----------------------------------------------------------------------------------

METHODS = {
    "cps": (CrossPseudoSupervision, ("consistency",), ("first", "second")),
    "mc-net": (MutualConsistency, ("consistency",), ("net",)),
    "urpc": (UncertaintyRectifiedPyramidConsistency, ("consistency", "divergence"), ("net",)),
    "ict": (InterpolationConsistencyTraining, ("consistency",), ("student",)),
    "bcp": (BidirectionalCopyPaste, ("pseudo_ce", "pseudo_dice"), ("student",)),
}


@pytest.mark.parametrize("name", METHODS)
def test_the_unlabeled_term_moves_the_student_and_not_the_teacher(name):
    method, terms, trained = METHODS[name]

    def gradients(batch):
        torch.manual_seed(0)
        framework = method(BUILD, 2)
        if hasattr(framework, "teacher"):
            _apart(framework)
            before = copy.deepcopy(framework.teacher.state_dict())
        losses = _losses(framework, batch).losses
        sum(losses[term] for term in terms).backward()
        if hasattr(framework, "teacher"):
            after = framework.teacher.state_dict()
            assert all(torch.equal(before[key], after[key]) for key in before)
            assert all(p.grad is None for p in framework.teacher.parameters())
        return [p.grad for part in trained for p in getattr(framework, part).parameters()]

    batch, changed = _batch(2), _batch(2)
    changed.image[2:] *= -1
    one, other = gradients(batch), gradients(changed)
    assert all(g is not None and float(g.abs().sum()) > 0 for g in one)
    assert any(not torch.allclose(a, b, rtol=1e-3, atol=0) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", METHODS)
def test_the_first_of_the_trained_networks_is_deployed(name):
    method, _, (trained, *_) = METHODS[name]
    torch.manual_seed(0)
    framework = method(BUILD, 3).eval()
    image = _batch(3).image
    want = _softmax(getattr(framework, trained)(image)["logits"]).float()
    torch.testing.assert_close(framework(image), want)


@pytest.mark.parametrize("name", ["cps", "mc-net", "urpc", "ict"])
def test_the_map_of_a_step_is_the_deployed_one(name):
    """Not for bcp, whose map is put together from mixes."""
    torch.manual_seed(0)
    framework, batch = METHODS[name][0](BUILD, 3), _batch(3)
    torch.testing.assert_close(_losses(framework, batch).probs, framework(batch.image))


@pytest.mark.parametrize("name", METHODS)
def test_without_unlabeled_rows_the_labels_alone_teach(name):
    method, terms, _ = METHODS[name]
    torch.manual_seed(0)
    framework = method(BUILD, 2)
    batch = _batch(2)
    step = _losses(framework, Batch(batch.image[:2], batch.label))
    assert step.probs.shape == (2, 2, 6, 9, 5)
    losses = _floats(step.losses)
    assert losses["dice"] > 0
    # The networks of cps, and the decoders of mc-net, teach each other on labeled rows too.
    if name not in {"cps", "mc-net"}:
        assert all(losses[term] == 0 for term in terms)


@pytest.mark.parametrize("name", ["cps", "urpc", "ict"])
@pytest.mark.parametrize("classes", [2, 4])
def test_dice_over_all_classes_as_published(name, classes):
    torch.manual_seed(0)
    framework = METHODS[name][0](BUILD, classes, dice_classes="all")
    batch = _batch(classes)
    rows = batch.image[:2]
    with torch.no_grad():
        if name == "cps":
            logits = [*framework.first(rows).values(), *framework.second(rows).values()]
        elif name == "urpc":
            logits = list(framework.net(rows).values())
        else:
            logits = [framework.student(rows)["logits"]]
    each = []
    for scale in logits:
        p = _softmax(scale)
        for k in range(classes):
            s, y = p[:, k], (batch.label == k).double()
            each.append(1 - (2 * (s * y).sum() + 1e-5) / ((s * s).sum() + (y * y).sum() + 1e-5))
    want = 0.5 * float(sum(each)) / classes / (1 if name == "cps" else len(logits))
    found = _losses(framework, batch).losses
    assert float(found["dice"]) == pytest.approx(want, rel=2e-5)
    usual = METHODS[name][0](BUILD, classes)
    usual.load_state_dict(framework.state_dict())
    other = _losses(usual, batch).losses
    assert float(other["dice"]) != pytest.approx(want, rel=1e-3)
    assert all(torch.equal(found[key], other[key]) for key in found if key != "dice")


@pytest.mark.parametrize("name", METHODS)
def test_every_option_is_documented(name):
    for option in describe_options("framework", name):
        assert option.doc, f"{name}: {option.name} has no doc"


@pytest.mark.parametrize("name", METHODS)
def test_a_negative_weight_is_refused(name):
    options = ("supervised_weight", "alpha" if name == "bcp" else "consistency_weight")
    for option in options:
        with pytest.raises(ValueError, match=r"-0\.1"):
            METHODS[name][0](BUILD, 2, **{option: -0.1})
