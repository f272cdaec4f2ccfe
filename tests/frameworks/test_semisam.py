"""The SemiSAM branch: the objective, and the faults of the published code that cannot be here."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch

from semisam.core.errors import PluginError, SemisamError
from semisam.core.types import IGNORE, Batch, Clock, OracleBatch, Place, Prompt, Step, View
from semisam.frameworks._gate import Quality, agree, gate, measure, pooled_dice
from semisam.frameworks.controls import MovedSAM, OracleSAM, ShuffledSAM, TruthSAM
from semisam.frameworks.fixmatch import FixMatch
from semisam.frameworks.mean_teacher import MeanTeacher
from semisam.frameworks.queries import check_pair, merge_prompts
from semisam.frameworks.semisam import SemiSAM, sam_loss
from semisam.frameworks.supervised import Supervised
from semisam.prompters.box import BoxPrompter
from semisam.prompters.corrective_points import CorrectivePoints
from semisam.prompters.uncertainty_points import UncertaintyPoints
from semisam.testing import random_batch, tiny_builder
from semisam.training.accumulation import micro_batches

# A fifth of the way, at a step that does not measure the labeled rows.
CLOCK = Clock(2001, 10005)
MEASURED = Clock(2000, 10000)


class RecordingBackend:
    """Answers with a plane through the volume and remembers what it was asked."""

    ndim = 3
    accepts = frozenset({"points", "box", "mask"})

    def __init__(self):
        self.encoded = []
        self.prompts = []

    def encode(self, image):
        self.encoded.append(image)
        return image

    def segment(self, embedding, prompt):
        self.prompts.append(prompt)
        ramp = torch.linspace(-3, 3, embedding.shape[1])
        return ramp.view(-1, 1, 1).expand(embedding.shape[1:]).contiguous()


class PlacedBackend(RecordingBackend):
    """Remembers the places, too."""

    wants_place = True

    def __init__(self):
        super().__init__()
        self.places = []

    def encode(self, image, place):
        self.places.append(place)
        return super().encode(image)


class RecordingPrompter:
    """Asks with the proposal's mask and remembers what it was shown."""

    emits = frozenset({"mask"})
    rounds = 1

    def __init__(self, rounds=1, skip=()):
        self.views = []
        self.rounds = rounds
        self.skip = skip

    def __call__(self, view, rng):
        self.views.append(view)
        return None if len(self.views) - 1 in self.skip else Prompt(mask=view.prob)


def _framework(classes=2, **options):
    torch.manual_seed(0)
    return MeanTeacher(tiny_builder(norm="none", dropout=0.0), classes, **options)


def _batch(classes=2, labeled=2, unlabeled=2):
    return random_batch(classes, labeled=labeled, unlabeled=unlabeled, shape=(6, 8, 4))


@pytest.mark.parametrize("classes", [2, 4])
def test_the_loss_is_the_papers(classes):
    backend, prompter = RecordingBackend(), RecordingPrompter()
    branch = SemiSAM(_framework(classes), backend, prompter)
    batch = _batch(classes)
    step = branch.training_step(batch, CLOCK)
    answer = (torch.linspace(-3, 3, 6) > 0).float().view(-1, 1, 1).expand(6, 8, 4)
    unlabeled = step.probs[2:, 1:]
    want = 0.1 * math.exp(-5 * 0.2) * ((unlabeled - answer) ** 2).mean()
    assert float(step.losses["sam"]) == pytest.approx(float(want), rel=1e-5)


@pytest.mark.parametrize("target", ["hard", "soft"])
def test_the_dice_loss_is_the_mean_over_pairs(target):
    generator = torch.Generator().manual_seed(0)
    pairs = [tuple(torch.rand(2, 5, 4, 3, generator=generator)) for _ in range(3)]
    want = []
    for p, answer in pairs:
        y = (answer > 0.5).float() if target == "hard" else answer
        want.append(1 - (2 * (p * y).sum() + 1e-5) / ((p * p).sum() + (y * y).sum() + 1e-5))
    assert float(sam_loss(pairs, target, None, "dice")) == pytest.approx(float(sum(want)) / 3)
    shares = [0.0, 1.0, 0.5]
    weighed = sum(s * float(w) for s, w in zip(shares, want, strict=True)) / 3
    assert float(sam_loss(pairs, target, shares, "dice")) == pytest.approx(weighed)


def test_a_small_organ_moves_the_dice_loss_as_much_as_a_large_one():
    def slope(side):
        prob = torch.full((16, 16, 16), 0.01)
        prob[:side, :side, :side] = 0.4
        prob.requires_grad_()
        answer = torch.zeros(16, 16, 16)
        answer[:side, :side, :side] = 1
        terms = {
            loss: torch.autograd.grad(sam_loss([(prob, answer)], "hard", None, loss), prob)[0]
            for loss in ("dice", "mse")
        }
        return {loss: -float(g[:side, :side, :side].sum()) for loss, g in terms.items()}

    small, large = slope(2), slope(12)
    assert 0.8 < small["dice"] / large["dice"] < 1.25
    assert small["mse"] / large["mse"] == pytest.approx((2 / 12) ** 3, rel=1e-4)


def test_an_empty_answer_does_not_push_the_dice_loss():
    prob = torch.full((6, 6, 6), 0.6, requires_grad=True)
    sam_loss([(prob, torch.zeros(6, 6, 6))], "hard", None, "dice").backward()
    assert float(prob.grad.abs().max()) < 1e-8


@pytest.mark.parametrize("step", [0, 5000, 9999])
def test_a_weight_that_stays(step):
    branch = SemiSAM(
        _framework(), RecordingBackend(), RecordingPrompter(), weight=0.5, loss="dice", ramp_rate=0
    )
    found = branch.training_step(_batch(), Clock(step, 10000))
    assert found.metrics["sam_weight"] == 0.5
    answer = (torch.linspace(-3, 3, 6) > 0).float().view(-1, 1, 1).expand(6, 8, 4)
    want = sam_loss([(found.probs[i, 1], answer) for i in (2, 3)], "hard", None, "dice")
    assert float(found.losses["sam"]) == pytest.approx(0.5 * float(want))


def test_soft_targets_are_the_answers_probability():
    pair = [(torch.tensor([0.2, 0.9]), torch.tensor([0.6, 0.3]))]
    hard = ((0.2 - 1) ** 2 + (0.9 - 0) ** 2) / 2
    soft = ((0.2 - 0.6) ** 2 + (0.9 - 0.3) ** 2) / 2
    assert float(sam_loss(pair, "hard")) == pytest.approx(hard)
    assert float(sam_loss(pair, "soft")) == pytest.approx(soft)


def test_for_two_classes_the_loss_is_the_published_mean_over_both_channels():
    prob, answer = torch.rand(5, 4), (torch.rand(5, 4) > 0.5).float()
    both = torch.stack([1 - prob, prob])
    one_hot = torch.stack([1 - answer, answer])
    published = ((both - one_hot) ** 2).mean()
    assert float(sam_loss([(prob, answer)], "hard")) == pytest.approx(float(published))


def test_the_sam_term_has_a_gradient_and_it_reaches_the_student():
    branch = SemiSAM(_framework(), RecordingBackend(), RecordingPrompter())
    branch.training_step(_batch(), CLOCK).losses["sam"].backward()
    grads = [p.grad.abs().sum() for p in branch.inner.student.parameters()]
    assert all(g > 0 for g in grads)
    assert all(p.grad is None for p in branch.inner.teacher.parameters())


def test_only_unlabeled_rows_are_asked_with_the_foreground_channel():
    backend, prompter = RecordingBackend(), RecordingPrompter()
    branch = SemiSAM(_framework(), backend, prompter)
    batch = _batch()
    step = branch.training_step(batch, CLOCK)
    assert len(backend.encoded) == 2
    for i, (image, view) in enumerate(zip(backend.encoded, prompter.views, strict=True), start=2):
        assert torch.equal(image, batch.image[i])
        assert torch.equal(view.prob, step.probs[i, 1])
        assert not view.prob.requires_grad


@pytest.mark.parametrize(
    ("spoil", "got"),
    [
        (lambda x: x[None], "Tensor"),
        (lambda x: x * math.nan, "NaN"),
        (lambda x: x.numpy(), "ndarray"),
    ],
)
def test_a_backend_with_wrong_logits_is_named(spoil, got):
    class Wrong(RecordingBackend):
        def segment(self, embedding, prompt):
            return spoil(super().segment(embedding, prompt))

    branch = SemiSAM(_framework(), Wrong(), RecordingPrompter())
    with pytest.raises(PluginError, match=rf"backend Wrong must return logits .*, got {got}"):
        branch.training_step(_batch(), CLOCK)


def test_a_method_that_guides_other_rows_is_named():
    class Guides(MeanTeacher):
        def training_step(self, batch, clock):
            self.guided(self(batch.image).detach())
            return super().training_step(batch, clock)

    inner = Guides(tiny_builder(), 2)
    branch = SemiSAM(inner, RecordingBackend(), RecordingPrompter(), role="target")
    with pytest.raises(PluginError, match=r"guided must get .* of method Guides"):
        branch.training_step(_batch(), CLOCK)


def test_uncertainty_is_a_map():
    prompter = RecordingPrompter()
    SemiSAM(_framework(), RecordingBackend(), prompter).training_step(_batch(), CLOCK)
    view = prompter.views[0]
    assert view.uncertainty.shape == view.prob.shape
    p = view.prob
    entropy = -(p * p.log() + (1 - p) * (1 - p).log()) / math.log(2)
    torch.testing.assert_close(view.uncertainty, entropy, atol=1e-4, rtol=1e-4)


def test_a_prompter_is_shown_nothing_but_a_view():
    assert set(View.__dataclass_fields__) == {"prob", "uncertainty", "previous", "class_name"}


def test_every_row_and_class_starts_without_a_previous_answer():
    prompter = RecordingPrompter(rounds=3)
    SemiSAM(_framework(3), RecordingBackend(), prompter).training_step(_batch(3), CLOCK)
    previous = [view.previous is None for view in prompter.views]
    assert previous == [True, False, False] * 4


def test_a_row_does_not_depend_on_the_rows_before_it():
    """Neither state nor random numbers pass from one patient to the next."""

    def clicks(batch):
        backend = RecordingBackend()
        prompter = CorrectivePoints(rounds=2, max_uncertainty=1.0)
        SemiSAM(_framework(), backend, prompter, seed=3).training_step(batch, CLOCK)
        return backend

    batch = _batch(unlabeled=3)
    changed = batch.image.clone()
    changed[2] = -changed[2].flip(0)
    first, second = clicks(batch), clicks(Batch(changed, batch.label))
    last_image = batch.image[-1]
    for one, other in zip(_asked(first, last_image), _asked(second, last_image), strict=True):
        assert torch.equal(one.points, other.points) and torch.equal(one.labels, other.labels)


def test_prompts_do_not_depend_on_how_the_batch_is_divided():
    class Seeds(RecordingPrompter):
        def __call__(self, view, rng):
            seeds.append(rng.initial_seed())
            return super().__call__(view, rng)

    def query(batch):
        SemiSAM(_framework(), RecordingBackend(), Seeds(), seed=3).training_step(batch, CLOCK)

    seeds, batch = [], _batch()
    query(batch)
    whole = list(seeds)
    seeds.clear()
    for part in micro_batches(batch, 2):
        query(part)
    assert seeds == whole and len(set(whole)) == 2


def test_prompts_depend_on_the_step_and_on_the_seed():
    """A prompter that draws at random sees other numbers in every step and every run."""

    def clicks(seed, step):
        backend = RecordingBackend()
        branch = SemiSAM(_framework(), backend, UncertaintyPoints(max_uncertainty=1.0), seed=seed)
        branch.training_step(_batch(), Clock(step, 10005))
        return [prompt.points.tolist() for prompt in backend.prompts]

    first = clicks(3, 2001)
    assert len(first) == 2 and first == clicks(3, 2001)
    assert all(one != other for one, other in zip(first, clicks(3, 2002), strict=True))
    assert all(one != other for one, other in zip(first, clicks(4, 2001), strict=True))


def _asked(backend, image):
    """Return the prompts that came after this image was encoded."""
    index = next(i for i, seen in enumerate(backend.encoded) if torch.equal(seen, image))
    per_image = len(backend.prompts) // len(backend.encoded)
    assert per_image == 2
    return backend.prompts[index * per_image :]


def test_skipped_volumes_leave_the_mean_and_are_counted():
    prompter = RecordingPrompter(skip=(0,))
    branch = SemiSAM(_framework(), RecordingBackend(), prompter)
    step = branch.training_step(_batch(), CLOCK)
    answer = (torch.linspace(-3, 3, 6) > 0).float().view(-1, 1, 1).expand(6, 8, 4)
    want = 0.1 * math.exp(-1) * ((step.probs[3, 1] - answer) ** 2).mean()
    assert float(step.losses["sam"]) == pytest.approx(float(want), rel=1e-5)
    assert (step.metrics["sam_queried"], step.metrics["sam_skipped"]) == (1, 1)


def test_nothing_worth_asking_is_a_zero_loss():
    branch = SemiSAM(_framework(), RecordingBackend(), RecordingPrompter(skip=(0, 1)))
    step = branch.training_step(_batch(), CLOCK)
    assert float(step.losses["sam"]) == 0.0
    sum(step.losses.values()).backward()


def test_weight_zero_asks_nothing_and_changes_nothing():
    backend = RecordingBackend()
    wrapped = SemiSAM(_framework(), backend, RecordingPrompter(), weight=0.0)
    torch.manual_seed(1)
    one = wrapped.training_step(_batch(), CLOCK)
    bare = _framework()
    torch.manual_seed(1)
    other = bare.training_step(_batch(), CLOCK)
    assert {k: float(v) for k, v in one.losses.items()} == {
        k: float(v) for k, v in other.losses.items()
    }
    assert backend.encoded == []


def test_classes_that_are_left_out_are_not_asked_for():
    backend, prompter = RecordingBackend(), RecordingPrompter()
    branch = SemiSAM(_framework(3), backend, prompter)
    branch.leave_out([1])
    step = branch.training_step(_batch(3), CLOCK)
    assert [
        bool(torch.equal(v.prob, step.probs[i, 2]))
        for i, v in zip((2, 3), prompter.views, strict=True)
    ] == [True, True]
    branch.leave_out([2])
    step = branch.training_step(_batch(3), CLOCK)
    assert "sam" not in step.losses and len(prompter.views) == 2
    alone = SemiSAM(Supervised(tiny_builder(), 2), backend, prompter)
    alone.leave_out([1])
    assert not alone.uses_unlabeled


def test_asking_does_not_touch_the_methods_random_numbers():
    """The inner losses with the branch are, to the bit, those without it."""
    branch = SemiSAM(_framework(), RecordingBackend(), UncertaintyPoints(max_uncertainty=1.0))
    framework = _framework()
    torch.manual_seed(1)
    with_branch = branch.training_step(_batch(), CLOCK).losses
    after = torch.rand(1)
    torch.manual_seed(1)
    without = framework.training_step(_batch(), CLOCK).losses
    assert all(torch.equal(with_branch[k], without[k]) for k in without)
    assert torch.equal(after, torch.rand(1))


def test_the_branch_moves_the_teacher_of_the_method():
    branch = SemiSAM(_framework(), RecordingBackend(), RecordingPrompter())
    inner = branch.inner
    with torch.no_grad():
        for parameter in inner.student.parameters():
            parameter.add_(1.0)
    branch.after_update(Clock(0, 100))  # the first update copies
    for mine, theirs in zip(inner.teacher.parameters(), inner.student.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_supervised_gets_unlabeled_rows_only_with_the_branch():
    bare = Supervised(tiny_builder(), 2)
    assert not bare.uses_unlabeled
    assert SemiSAM(bare, RecordingBackend(), RecordingPrompter()).uses_unlabeled
    assert not SemiSAM(bare, RecordingBackend(), RecordingPrompter(), weight=0.0).uses_unlabeled


def test_the_backend_stays_out_of_parameters_and_state():
    class ModuleOwner(RecordingBackend):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Linear(3, 3)

    inner = _framework()
    branch = SemiSAM(inner, ModuleOwner(), RecordingPrompter())
    assert list(branch.state_dict()) == list(inner.state_dict())
    assert len(list(branch.parameters())) == len(list(inner.parameters()))
    fresh = _framework()
    fresh.load_state_dict(branch.state_dict())
    branch.load_state_dict(fresh.state_dict())


def test_a_pair_that_does_not_fit_is_refused_at_construction():
    class PointsOnly(RecordingBackend):
        accepts = frozenset({"points"})

    with pytest.raises(PluginError, match=r"accepts \(points\), got BoxPrompter"):
        SemiSAM(_framework(), PointsOnly(), BoxPrompter())
    check_pair(PointsOnly(), UncertaintyPoints())


def test_points_of_all_rounds_are_collected():
    one = Prompt(points=torch.tensor([[1, 2, 3]]), labels=torch.tensor([1]))
    two = Prompt(points=torch.tensor([[4, 5, 6]]), labels=torch.tensor([0]))
    merged = merge_prompts(merge_prompts(None, one), two)
    assert merged.points.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert merged.labels.tolist() == [1, 0]


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_the_newest_box_and_mask_stay_until_the_next(kind):
    old, new = (Prompt(**{kind: torch.full((2, 3), value)}) for value in (1, 2))
    clicks = Prompt(points=torch.ones(1, 3), labels=torch.ones(1))
    assert getattr(merge_prompts(old, new), kind) is getattr(new, kind)
    kept = merge_prompts(old, clicks)
    assert getattr(kept, kind) is getattr(old, kind) and kept.points is clicks.points
    assert merge_prompts(clicks, new).points is clicks.points


def test_sams_mask_threshold_is_probability_one_half():
    """A logit of 0.3 is a probability of 0.57: foreground (published: background)."""

    class Faint(RecordingBackend):
        def segment(self, embedding, prompt):
            return torch.full(embedding.shape[1:], 0.3)

    branch = SemiSAM(_framework(), Faint(), RecordingPrompter())
    step = branch.training_step(_batch(), CLOCK)
    want = 0.1 * math.exp(-1) * ((step.probs[2:, 1] - 1) ** 2).mean()
    assert float(step.losses["sam"]) == pytest.approx(float(want), rel=1e-5)


class Sphere(RecordingBackend):
    """Answers with the truth of the row asked, or its opposite, by the image's mean."""

    def __init__(self, masks):
        super().__init__()
        self.masks = masks

    def segment(self, embedding, prompt):
        super().segment(embedding, prompt)
        return self.masks[float(embedding.mean())] * 20 - 10


def _measured(branch_options, correct, classes=2, alike=False):
    batch = _batch(classes)
    if alike:  # then method and model agree on unlabeled rows as on labeled ones
        batch.image[2:] = batch.image[:2]
    truth = batch.label == 1 if correct else batch.label != 1
    masks = {float(batch.image[i].mean()): truth[i % 2].float() for i in range(4)}
    backend = Sphere(masks)
    branch = SemiSAM(_framework(classes), backend, RecordingPrompter(), **branch_options)
    return branch.training_step(batch, MEASURED), backend


@pytest.mark.parametrize("correct", [True, False])
def test_the_log_tells_how_good_the_answers_are_on_the_labeled_rows(correct):
    step, backend = _measured({}, correct)
    assert len(backend.encoded) == 4
    assert step.metrics["sam_dice"] == float(correct)
    assert 0 < step.metrics["proposal_dice"] < 1
    assert "sam_gate" not in step.metrics


def test_the_measure_is_no_part_of_the_objective():
    """With it and without, the weight of the paper gives the same losses, to the bit."""
    one, _ = _measured({}, True)
    other, backend = _measured({"measure_every": 0}, True)
    assert len(backend.encoded) == 2 and "sam_dice" not in other.metrics
    assert {k: float(v) for k, v in one.losses.items()} == {
        k: float(v) for k, v in other.losses.items()
    }


@pytest.mark.parametrize("gated", [True, False])
def test_labeled_rows_are_measured_with_prompts_of_the_methods_own_map(gated):
    """Prompts from their labels would raise `sam_dice` and open the gate."""
    backend, prompter = RecordingBackend(), RecordingPrompter()
    branch = SemiSAM(_framework(), backend, prompter, gated=gated)
    batch = _batch()
    step = branch.training_step(batch, MEASURED)
    assert step.metrics["sam_dice"] > 0
    for row, image, view in zip((0, 1, 2, 3), backend.encoded, prompter.views, strict=True):
        assert torch.equal(image, batch.image[row])
        assert torch.equal(view.prob, step.probs[row, 1])
    relabeled = Batch(batch.image, 1 - batch.label)
    other = RecordingPrompter()
    SemiSAM(_framework(), backend, other, gated=gated).training_step(relabeled, MEASURED)
    assert all(
        torch.equal(a.prob, b.prob) and torch.equal(a.uncertainty, b.uncertainty)
        for a, b in zip(prompter.views, other.views, strict=True)
    )


@pytest.mark.parametrize("correct", [True, False])
def test_the_gate_opens_for_good_answers_and_shuts_for_bad_ones(correct):
    plain, _ = _measured({}, correct, alike=True)
    gated, _ = _measured({"gated": True}, correct, alike=True)
    share = gated.metrics["sam_gate"]
    assert share > 0.95 if correct else share < 0.2
    want = share * float(plain.losses["sam"])
    assert float(gated.losses["sam"]) == pytest.approx(want, rel=1e-5)
    if correct:
        gated.losses["sam"].backward()  # the gate is a number: the gradient is the loss's alone


def test_the_gate_is_the_formula():
    quality = Quality(prediction=0.7, proposal=0.9, agreement=0.8, agreement_unlabeled=0.6)
    ratio = 0.6 / 0.8
    better = 1 / (1 + math.exp((ratio * 0.9 - 0.7) / 0.1))
    assert gate(quality) == pytest.approx(better * ratio / 0.8)
    ratio = 0.7 / 0.8
    assert gate(replace(quality, agreement_unlabeled=0.7)) == pytest.approx(
        1 / (1 + math.exp((ratio * 0.9 - 0.7) / 0.1))
    )
    # Better agreement than on the labeled rows says nothing more about the proposal.
    assert gate(replace(quality, agreement_unlabeled=1.0)) == pytest.approx(
        1 / (1 + math.exp((0.9 - 0.7) / 0.1))
    )


def test_the_gate_opens_for_no_model_that_fails_on_unlabeled_rows():
    """Until disagreement there was blamed on the method, wrong predictions opened it."""
    quality = Quality(prediction=0.93, proposal=0.93, agreement=0.95, agreement_unlabeled=0.9)
    shares = [gate(replace(quality, agreement_unlabeled=a)) for a in (0.8, 0.6, 0.3, 0.0)]
    assert 0.75 < shares[0] < 0.85  # a method that is a little worse there than on labeled rows
    assert shares == sorted(shares, reverse=True) and shares[2] < 0.4 and shares[-1] == 0


@pytest.mark.parametrize("missing", ["prediction", "proposal", "agreement", "agreement_unlabeled"])
def test_without_evidence_the_gate_is_shut(missing):
    quality = Quality(prediction=0.9, proposal=0.1, agreement=0.5, agreement_unlabeled=0.5)
    assert gate(quality) > 0.99
    assert gate(replace(quality, **{missing: None})) == 0.0


def test_each_class_has_a_gate_of_its_own():
    pairs = [(torch.rand(4), torch.rand(4)), (torch.rand(4), torch.rand(4))]
    one, two = (((p - (a > 0.5).float()) ** 2).mean() for p, a in pairs)
    got = sam_loss(pairs, "hard", [0.25, 0.5])
    assert float(got) == pytest.approx(float((0.25 * one + 0.5 * two) / 2), rel=1e-5)


def test_dice_is_pooled_over_rows():
    full, empty = torch.ones(4, dtype=torch.bool), torch.zeros(4, dtype=torch.bool)
    assert pooled_dice([(full, full), (empty, full)]) == pytest.approx(2 * 4 / (4 + 4 + 0 + 4))
    assert pooled_dice([(empty, empty)]) is None
    assert pooled_dice([]) is None


def test_rows_without_the_class_are_no_evidence():
    masks = torch.rand(3, 4, 4) > 0.5
    label = torch.zeros(2, 4, 4, dtype=torch.int64)
    found = measure(masks, label, [(0, masks[0]), (1, masks[1])], 1)
    assert found == Quality(None, None, None, None) and gate(found) == 0
    label[1, 0] = 1
    found = measure(masks, label, [(0, masks[0]), (1, masks[1])], 1)
    assert found.agreement == 1.0 and found.agreement_unlabeled is None and gate(found) == 0
    assert agree(masks, [(2, masks[2])]) == 1.0
    assert gate(replace(found, agreement_unlabeled=1.0)) > 0


def _find_the_first_class(method):
    """Let a method of three classes have the first one everywhere."""
    biases = [p for p in method.parameters() if p.requires_grad and p.shape == (3,)]
    with torch.no_grad():
        biases[-1] += torch.tensor([0.0, 5.0, 0.0])


@pytest.mark.parametrize("gated", [True, False])
def test_a_class_that_no_labeled_row_measures_is_not_queried_in_vain(gated):
    """Its gate is shut, whatever the model would predict."""
    batch = _batch(3)
    batch.label[batch.label == 2] = 1
    masks = {float(batch.image[i].mean()): (batch.label[i % 2] == 1).float() for i in range(4)}
    inner, prompter = _framework(3), RecordingPrompter()
    _find_the_first_class(inner)
    branch = SemiSAM(inner, Sphere(masks), prompter, gated=gated)
    step = branch.training_step(batch, MEASURED)
    # Two classes in four rows, or without the second class in the two unlabeled rows.
    assert step.metrics["sam_calls"] == len(prompter.views) == (6 if gated else 8)
    asked = (2, 2) if gated else (4, 0)
    assert (step.metrics["sam_queried"], step.metrics["sam_skipped"]) == asked


def test_a_shut_gate_gives_its_weight_to_no_other_class():
    """The weight in the loss is the one in the log, a mean over all classes."""
    batch = _batch(3)
    batch.image[2:] = batch.image[:2]
    batch.label[batch.label == 2] = 0
    truth = [(batch.label[i % 2] == 1).float() for i in range(4)]
    masks = {float(batch.image[i].mean()): truth[i] for i in range(4)}
    inner = _framework(3)
    _find_the_first_class(inner)
    branch = SemiSAM(inner, Sphere(masks), RecordingPrompter(), gated=True)
    step = branch.training_step(batch, MEASURED)
    assert step.metrics["sam_queried"] == 2 and 0 < step.metrics["sam_gate"] <= 0.5
    alone = torch.stack([(step.probs[i, 1] - truth[i]).square().mean() for i in (2, 3)]).mean()
    want = step.metrics["sam_weight"] * step.metrics["sam_gate"] * float(alone)
    assert float(step.losses["sam"]) == pytest.approx(want, rel=1e-5)


def test_asked_every_few_steps_with_as_many_times_the_weight():
    backend = RecordingBackend()
    branch = SemiSAM(_framework(), backend, RecordingPrompter(), every=4, measure_every=0)
    plain = SemiSAM(_framework(), RecordingBackend(), RecordingPrompter(), measure_every=0)
    for step in range(8):
        clock = Clock(step, 100)
        torch.manual_seed(step)
        got = branch.training_step(_batch(), clock)
        torch.manual_seed(step)
        want = plain.training_step(_batch(), clock)
        factor = 4 if step % 4 == 0 else 0
        assert float(got.losses["sam"]) == pytest.approx(factor * float(want.losses["sam"]))
        assert got.metrics["sam_calls"] == (2 if factor else 0)
        assert list(got.losses) == list(want.losses)
    assert len(backend.encoded) == 2 * 2


def test_below_the_floor_nothing_is_asked():
    backend = RecordingBackend()
    branch = SemiSAM(_framework(), backend, RecordingPrompter(), floor=0.05)
    early, late = Clock(1, 100), Clock(20, 100)  # 0.1 exp(-0.05) and 0.1 exp(-1)
    assert float(branch.training_step(_batch(), early).losses["sam"]) > 0
    asked = len(backend.encoded)
    step = branch.training_step(_batch(), late)
    assert float(step.losses["sam"]) == 0 and len(backend.encoded) == asked
    sum(step.losses.values()).backward()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"every": 0}, "every must be at least 1 .* got 0 and"),
        ({"measure_every": -1}, "measure_every not negative, got 1 and -1"),
        ({"floor": -0.1}, "floor must be at least 0, got -0.1"),
        ({"ramp_rate": -1.0}, "ramp_rate must be at least 0, got -1.0"),
        ({"weight": 1.5, "role": "target"}, "weight must be at most 1 .* got 1.5"),
    ],
)
def test_branch_options_out_of_range(option, said):
    with pytest.raises(ValueError, match=said):
        SemiSAM(_framework(), RecordingBackend(), RecordingPrompter(), **option)


def _oracle_batch(classes=2):
    batch = _batch(classes)
    truth = torch.randint(0, classes, (4, 6, 8, 4), generator=torch.Generator().manual_seed(3))
    truth[:2] = batch.label
    return OracleBatch(batch.image, batch.label, truth)


@pytest.mark.parametrize("classes", [2, 4])
def test_oracle_prompts_are_the_truth_and_the_method_does_not_see_it(classes):
    seen = []

    class Spy(MeanTeacher):
        def training_step(self, batch, clock):
            seen.append(type(batch))
            return super().training_step(batch, clock)

    torch.manual_seed(0)
    spy = Spy(tiny_builder(norm="none", dropout=0.0), classes)
    prompter = RecordingPrompter()
    batch = _oracle_batch(classes)
    OracleSAM(spy, RecordingBackend(), prompter).training_step(batch, CLOCK)
    assert seen == [Batch]
    views = iter(prompter.views)
    for row in (2, 3):
        for k in range(1, classes):
            view = next(views)
            assert torch.equal(view.prob, (batch.truth[row] == k).float())
            assert not view.uncertainty.any()


def test_truth_as_the_answer_is_the_ceiling():
    backend, batch = RecordingBackend(), _oracle_batch()
    step = TruthSAM(_framework(), backend, RecordingPrompter()).training_step(batch, CLOCK)
    answer = (batch.truth[2:] == 1).float()
    want = 0.1 * math.exp(-1) * ((step.probs[2:, 1] - answer) ** 2).mean()
    assert float(step.losses["sam"]) == pytest.approx(float(want), rel=1e-5)
    assert backend.encoded == [] and step.metrics["sam_calls"] == 0


def test_truth_has_its_whole_weight_where_a_gate_would_be_shut():
    batch = _oracle_batch(3)
    batch.label[:] = 0  # no labeled row shows a class
    options = {"role": "target", "gated": True, "weight": 1.0, "ramp_rate": 0.0}
    torch.manual_seed(0)
    inner = FixMatch(tiny_builder(norm="none", dropout=0.0), 3, threshold=0.0)
    branch = TruthSAM(inner, RecordingBackend(), RecordingPrompter(), **options)
    own, joined = _target(branch, batch)
    assert torch.equal(joined.argmax(1), batch.truth[2:]) and joined.amax(1).min() == 1
    assert not torch.equal(own, joined)
    # There is no gate that could be logged.
    assert "sam_gate" not in branch.training_step(batch, CLOCK).metrics


def test_at_ignored_voxels_the_methods_own_map_is_the_truth():
    batch = _oracle_batch()
    truth = batch.truth.clone()
    truth[:, 3:] = IGNORE
    partly = OracleBatch(batch.image, batch.label, truth)
    step = TruthSAM(_framework(), RecordingBackend(), RecordingPrompter()).training_step(
        partly, CLOCK
    )
    answer = torch.where(truth == IGNORE, step.probs[:, 1] > 0.5, truth == 1)[2:].float()
    want = 0.1 * math.exp(-1) * ((step.probs[2:, 1] - answer) ** 2).mean()
    assert float(step.losses["sam"]) == pytest.approx(float(want), rel=1e-5)


@pytest.mark.parametrize("control", [OracleSAM, TruthSAM])
def test_without_the_truth_a_control_that_needs_it_stops(control):
    branch = control(_framework(), RecordingBackend(), RecordingPrompter())
    with pytest.raises(TypeError, match="OracleBatch"):
        branch.training_step(_batch(), CLOCK)


def test_shuffled_rows_get_each_others_answers():
    batch = _batch()
    masks = {float(batch.image[i].mean()): torch.full((6, 8, 4), i / 4) for i in range(4)}
    branch = ShuffledSAM(_framework(), Sphere(masks), RecordingPrompter(), target="soft")
    step = branch.training_step(batch, CLOCK)
    answers = [(masks[float(batch.image[i].mean())] * 20 - 10).sigmoid() for i in (3, 2)]
    want = 0.1 * math.exp(-1) * ((step.probs[2:, 1] - torch.stack(answers)) ** 2).mean()
    assert float(step.losses["sam"]) == pytest.approx(float(want), rel=1e-5)


def test_moved_rows_get_each_others_answers_at_another_place():
    batch = _batch()
    torch.manual_seed(0)
    answers = {float(batch.image[i].mean()): torch.rand(6, 8, 4) for i in range(4)}
    backend = Sphere(answers)
    shuffled = ShuffledSAM(_framework(), backend, RecordingPrompter())
    moved = MovedSAM(_framework(), backend, RecordingPrompter())
    step = shuffled.inner.training_step(batch, CLOCK)
    before, *_ = shuffled._query_rows(batch, step, CLOCK)
    after, *_ = moved._query_rows(batch, step, CLOCK)
    again, *_ = moved._query_rows(batch, step, CLOCK)
    later, *_ = moved._query_rows(batch, step, Clock(2002, 10005))
    for i in (2, 3):
        assert torch.equal(after[i][1], again[i][1])
        assert not torch.equal(after[i][1], before[i][1])
        assert not torch.equal(after[i][1], later[i][1])
        assert torch.equal(after[i][1].flatten().sort()[0], before[i][1].flatten().sort()[0])


@pytest.mark.parametrize("control", [ShuffledSAM, MovedSAM])
def test_a_control_has_the_weight_of_the_branch(control):
    """Its predictions are measured before they are exchanged."""
    batch = _batch()
    torch.manual_seed(0)
    answers = {float(batch.image[i].mean()): torch.rand(6, 8, 4) for i in range(4)}
    for options in ({}, {"gated": True}):
        figures = []
        for kind in (SemiSAM, control):
            torch.manual_seed(1)
            branch = kind(_framework(), Sphere(answers), RecordingPrompter(), **options)
            figures.append(branch.training_step(batch, MEASURED).metrics)
        same = {"sam_dice", "sam_agreement", *(["sam_gate"] if options else [])}
        assert same <= figures[0].keys()
        assert all(figures[0][key] == figures[1][key] for key in same)


def test_shuffled_needs_another_row():
    branch = ShuffledSAM(_framework(), RecordingBackend(), RecordingPrompter())
    with pytest.raises(SemisamError, match="two unlabeled rows in a batch, got 1"):
        branch.training_step(_batch(labeled=2, unlabeled=1), CLOCK)


def test_the_measure_leaves_ignored_voxels_out():
    rng = torch.Generator().manual_seed(0)
    masks = torch.rand(2, 4, 4, 4, generator=rng) > 0.5
    answers = torch.rand(2, 4, 4, 4, generator=rng) > 0.5
    label = torch.randint(0, 2, (1, 4, 4, 4), generator=rng)
    partly = label.clone()
    partly[:, 2:] = IGNORE
    found = measure(masks, partly, [(0, answers[0])], 1)
    own = measure(masks[:, :2], label[:, :2], [(0, answers[0, :2])], 1)
    assert found == own
    assert found != measure(masks, label, [(0, answers[0])], 1)


def _fixmatch(**options):
    torch.manual_seed(0)
    return FixMatch(tiny_builder(norm="none", dropout=0.0), 2, threshold=0.0, **options)


def test_a_loss_that_the_branch_would_replace_is_refused():
    class Own(MeanTeacher):
        def training_step(self, batch, clock):
            step = super().training_step(batch, clock)
            return Step({**step.losses, "sam": step.losses["consistency"]}, step.probs)

    inner = Own(tiny_builder(norm="none", dropout=0.0), 2)
    with pytest.raises(PluginError, match="got 'sam' of method Own"):
        SemiSAM(inner, RecordingBackend(), RecordingPrompter()).training_step(_batch(), CLOCK)


def test_labeled_maps_are_measured_with_the_statistics_of_the_batch():
    """BatchNorm's running averages lag behind, and the target of unlabeled rows has none."""
    batch, prompter = _batch(), RecordingPrompter()
    torch.manual_seed(0)
    inner = FixMatch(tiny_builder(norm="batch", dropout=0.0), 2, threshold=0.0).train()
    with torch.no_grad():
        want = copy.deepcopy(inner)(batch.image)[:2, 1]
    branch = SemiSAM(inner, RecordingBackend(), prompter, role="target", weight=0.5, gated=True)
    torch.manual_seed(1)
    one = copy.deepcopy(inner)
    branch.training_step(batch, CLOCK)
    for view, row in zip(prompter.views[:2], want, strict=True):
        torch.testing.assert_close(view.prob, row)
    # The averages are those of the method's own passes, and its parts train as before.
    torch.manual_seed(1)
    one.training_step(batch, CLOCK)
    for name, value in one.state_dict().items():
        assert torch.allclose(value.float(), inner.state_dict()[name].float(), atol=1e-6), name
    assert all(part.training for part in inner.modules())


def _target(branch, batch):
    """Return the map that the branch gives back for the method's own target, and that target."""
    seen = {}
    guided = branch.inner.guided

    def record(target):
        seen["own"], seen["joined"] = target, guided(target)
        return seen["joined"]

    branch.inner.guided = record
    branch.training_step(batch, CLOCK)
    return seen["own"], seen["joined"]


@pytest.mark.parametrize("weight", [0.5, 1.0])
def test_answers_join_the_target_of_a_method_that_takes_guidance(weight):
    branch = SemiSAM(
        _fixmatch(), RecordingBackend(), RecordingPrompter(), role="target", weight=weight,
        ramp_rate=0.0,
    )  # fmt: skip
    own, joined = _target(branch, _batch())
    answer = torch.linspace(-3, 3, 6).sigmoid().view(-1, 1, 1).expand(6, 8, 4)
    want = (1 - weight) * own[:, 1] + weight * answer
    torch.testing.assert_close(joined[:, 1], want)
    torch.testing.assert_close(joined.sum(1), torch.ones_like(want))


def test_a_joined_target_adds_no_loss_and_the_proposal_is_the_target():
    prompter = RecordingPrompter()
    branch = SemiSAM(_fixmatch(), RecordingBackend(), prompter, role="target", weight=0.5)
    own, _ = _target(branch, _batch())
    step = branch.training_step(_batch(), CLOCK)
    assert "sam" not in step.losses and step.metrics["sam_calls"] == 2
    for view, row in zip(prompter.views, own, strict=False):
        torch.testing.assert_close(view.prob, row[1])
    assert branch.inner.guide is None


def test_a_method_without_guidance_gets_the_loss():
    branch = SemiSAM(_framework(), RecordingBackend(), RecordingPrompter(), role="target")
    step = branch.training_step(_batch(), CLOCK)
    assert float(step.losses["sam"]) > 0


def test_several_classes_stay_probabilities():
    torch.manual_seed(0)
    inner = FixMatch(tiny_builder(norm="none", dropout=0.0), 4, threshold=0.0)
    branch = SemiSAM(
        inner, RecordingBackend(), RecordingPrompter(), role="target", weight=1.0, ramp_rate=0.0
    )
    _, joined = _target(branch, _batch(4))
    assert float(joined.min()) >= 0
    torch.testing.assert_close(joined.sum(1), torch.ones_like(joined[:, 0]))


def test_the_gate_scales_the_share_of_the_answers():
    branch = SemiSAM(
        _fixmatch(), RecordingBackend(), RecordingPrompter(), role="target", weight=1.0,
        ramp_rate=0.0, gated=True,
    )  # fmt: skip
    own, joined = _target(branch, _batch())
    answer = torch.linspace(-3, 3, 6).sigmoid().view(-1, 1, 1).expand(6, 8, 4)
    share = ((joined[:, 1] - own[:, 1]) / (answer - own[:, 1])).flatten()
    gates = branch.training_step(_batch(), CLOCK).metrics["sam_gate"]
    assert 0 < gates < 1 and float(share.median()) == pytest.approx(gates, abs=1e-3)


def test_a_share_above_one_is_refused():
    with pytest.raises(ValueError, match="at most 1"):
        SemiSAM(_fixmatch(), RecordingBackend(), RecordingPrompter(), role="target", weight=2.0)


def test_a_backend_that_wants_it_gets_the_place_of_each_row():
    batch = random_batch(labeled=2, unlabeled=2, shape=(8, 8, 8))
    places = tuple(Place(f"case {row}", (4.0, 4.0, 4.0), (1.0, 1.0, 2.0)) for row in range(4))
    backend = PlacedBackend()
    branch = SemiSAM(_fixmatch(), backend, RecordingPrompter(), measure_every=0)
    assert branch.wants_places
    branch.training_step(replace(batch, places=places), Clock(1, 10))
    assert backend.places == list(places[2:])
    branch.training_step(batch, Clock(1, 10))
    assert backend.places[2:] == [None, None]
    assert not SemiSAM(_fixmatch(), RecordingBackend(), RecordingPrompter()).wants_places


def test_prompter_and_backend_get_the_name_of_the_class():
    prompter, backend = RecordingPrompter(), RecordingBackend()
    names = ("background", "atrium", "ventricle")
    branch = SemiSAM(_framework(3), backend, prompter, names, measure_every=0)
    branch.training_step(_batch(3), CLOCK)
    assert [view.class_name for view in prompter.views] == ["atrium", "ventricle"] * 2
    assert [prompt.class_name for prompt in backend.prompts] == ["atrium", "ventricle"] * 2
    SemiSAM(_framework(3), RecordingBackend(), prompter).training_step(_batch(3), CLOCK)
    assert prompter.views[-1].class_name == ""


def test_a_prompt_holds_the_one_of_the_round_before():
    backend = RecordingBackend()
    branch = SemiSAM(_framework(3), backend, RecordingPrompter(2), measure_every=0)
    branch.training_step(_batch(3), CLOCK)
    firsts, seconds = backend.prompts[::2], backend.prompts[1::2]
    assert len(firsts) == len(seconds) == 4
    assert all(first.last is None for first in firsts)
    assert all(second.last is first for first, second in zip(firsts, seconds, strict=True))


def test_kinds_of_a_plugin_are_kept_over_the_rounds():
    old = Prompt(more={"text": "atrium", "scribble": 1}, class_name="atrium")
    new = merge_prompts(old, Prompt(more={"scribble": 2}, class_name="atrium"))
    assert new.more == {"text": "atrium", "scribble": 2} and new.last is old
