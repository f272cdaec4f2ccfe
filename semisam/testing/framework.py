"""The contract of a method, as tests."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import nn

from semisam.core.framework import Framework, NetBuilder
from semisam.core.types import IGNORE, Batch, Clock, Step
from semisam.frameworks.semisam import SemiSAM
from semisam.testing._steps import (
    TOTAL,
    Scripted,
    Voxelwise,
    backward,
    batch_for,
    check_gradients,
    check_losses,
    check_probs,
    contrasts,
    equal,
    evaluating,
    flat_gradient,
    four_quarters,
    kept_graphs,
    objective,
    quarters,
    teachers,
    train,
    without_noise,
)
from semisam.testing.backend import FakeBackend
from semisam.testing.prompter import FakePrompter
from semisam.testing.samples import random_batch, tiny_builder

_MANY = 12
"""Steps after which state that matters later, such as a queue, must be in use."""
_EASY = 100
_CLOCKS = (Clock(0, TOTAL), Clock(TOTAL // 2, TOTAL), Clock(TOTAL - 1, TOTAL))


class FrameworkContract:
    """Tests of a method. Subclass it and define ``make``; ``network`` for parts by name.

    Attributes:
        shape: spatial shape ``*S`` of the patches, not a cube.
        channels: image channels ``C``.
        probs_are_deployed: ``Step.probs`` equals the result of ``forward`` without dropout and
            normalisation; False for a method whose student has a perturbed input.
        teachers_move: False for a method with a teacher that stays as it is on purpose.
        agreement_is_free: False for a method whose unlabeled losses compare no predictions, such as
            an adversarial one.
        lr: learning rate of the easy task; lower it for a network that diverges.
    """

    shape: ClassVar[tuple[int, ...]] = (8, 12, 10)
    channels: ClassVar[int] = 1
    probs_are_deployed: ClassVar[bool] = True
    teachers_move: ClassVar[bool] = True
    agreement_is_free: ClassVar[bool] = True
    lr: ClassVar[float] = 0.05

    def make(self, build: NetBuilder, num_classes: int) -> Framework:
        """Return the method under test, with default options."""
        raise NotImplementedError("define make(self, build, num_classes)")

    def network(self, in_channels: int, heads: Mapping[str, int]) -> nn.Module:
        """Return the network that ``build`` makes, for a method that reads its parts by name.

        Set ``shape`` to multiples of its stride. Tests whose network has known predictions are then
        left out: the easy tasks, the sign of unlabeled losses, and ignored voxels one by one.

        Args:
            in_channels: of the image.
            heads: output channels by head name.
        """
        raise NotImplementedError("define network(self, in_channels, heads)")

    def test_step_on_two_and_four_classes(self) -> None:
        """Check that losses are finite scalars with a gradient and probs a distribution over K."""
        for num_classes in (2, 4):
            framework = self._framework(num_classes)
            self._check_step(framework, self._batch(framework, num_classes), Clock(0, TOTAL))

    def test_every_clock_gives_the_same_losses(self) -> None:
        """Check that losses are finite and have the same names from the first to the last step."""
        framework = self._framework()
        names = [
            list(self._check_step(framework, self._batch(framework, seed=i), clock).losses)
            for i, clock in enumerate(_CLOCKS)
        ]
        assert names[0] == names[1] == names[2], f"the losses' names must not change, got {names}"

    def test_labels_of_one_class(self) -> None:
        """Check that a patch of only background or only foreground gives finite losses."""
        framework = self._framework()
        batch = self._batch(framework)
        names = list(self._check_step(framework, batch, _CLOCKS[1]).losses)
        for value in (0, 1):
            flat = batch_for(framework, batch.image, torch.full_like(batch.label, value))
            step = self._check_step(framework, flat, _CLOCKS[1])
            assert list(step.losses) == names, f"losses {names} expected, got {list(step.losses)}"

    def test_a_row_without_contrast(self) -> None:
        """Check that a patch of one intensity, labeled or not, gives finite losses."""
        framework = self._framework()
        batch = self._batch(framework)
        for row in (0, -1):
            image = batch.image.clone()
            image[row] = 0.5
            self._check_step(framework, batch_for(framework, image, batch.label), _CLOCKS[1])

    def test_one_labeled_row(self) -> None:
        """Check a step with one labeled row, whose label has one row."""
        framework = self._framework()
        batch = self._batch(framework, labeled=1, unlabeled=3)
        assert batch.label.shape[0] == 1
        try:
            self._check_step(framework, batch, _CLOCKS[1])
        except (IndexError, RuntimeError, ValueError) as error:
            raise AssertionError(
                "one labeled row must be enough next to 3 unlabeled, whose labels no batch holds, "
                f"got {error!r}"
            ) from error

    def test_one_unlabeled_row(self) -> None:
        """Check a step with one unlabeled row, as in a small batch or in one of two processes."""
        framework = self._framework()
        for labeled in (1, 2):
            batch = self._batch(framework, labeled=labeled, unlabeled=1)
            try:
                step = framework.training_step(batch, _CLOCKS[1])
            except Exception as error:
                raise AssertionError(
                    f"one unlabeled row must be enough next to {labeled} labeled, got {error!r}"
                ) from error
            check_losses(step, framework)

    def test_labels_belong_to_their_rows(self) -> None:
        """Check that training on an easy task learns the labels, which differ by row."""
        if self._has_its_network:
            return
        framework = self._on_voxels(self.channels, 2)
        batch = batch_for(framework, *quarters(self.shape, self.channels))
        (found,), steps = self._learned(framework, batch)
        assert found > 0.1, (
            "a method must learn an easy task: the intensity shows the class, and each row has "
            "another label. The deployed probability of class 1 inside the labels, less that "
            f"outside, is {found:.2f} after {steps} steps. Are the labels on the right rows?"
        )

    def test_every_class_is_learned(self) -> None:
        """Check that training on an easy task of four classes learns each class by itself.

        A method with a network of its own is left out.
        """
        if self._has_its_network:
            return
        framework = self._on_voxels(4, 4)
        if not any(isinstance(module, Voxelwise) for module in framework.modules()):
            return
        batch = batch_for(framework, *four_quarters(self.shape))
        before = contrasts(framework, batch)
        after, steps = self._learned(framework, batch)
        gains = [b - a for a, b in zip(before, after, strict=True)]
        rounded = {k: round(gain, 2) for k, gain in enumerate(gains, start=1)}
        # Losses with small weights learn slowly, but all classes alike.
        assert min(gains) > min(0.1, 0.25 * max(gains)), (
            "a method must learn every class of an easy task, in which each class is bright in a "
            "channel of its own. The deployed probability of a class inside its labels, less that "
            f"outside, rises by {rounded} in {steps} steps. Are all classes in the losses?"
        )

    def _learned(self, framework: Framework, batch: Batch) -> tuple[list[float], int]:
        """Train on an easy batch; return the contrast of each foreground class and the steps."""
        optimizer = torch.optim.SGD(framework.param_groups(), lr=self.lr, momentum=0.9)
        found: list[float] = []
        for i in range(_EASY):
            clock = Clock(i, _EASY)
            backward(framework, batch, clock)
            optimizer.step()
            framework.after_update(clock)
            if i % 5 == 4 and min(found := contrasts(framework, batch)) > 0.3:
                break
        return found, i + 1

    def test_partly_annotated_labels(self) -> None:
        """Check that labels with one annotated slice, or with no voxel, give finite losses."""
        framework = self._framework()
        batch = self._batch(framework)
        names = list(self._check_step(framework, batch, _CLOCKS[1]).losses)
        for annotated in (slice(self.shape[0] // 2, self.shape[0] // 2 + 1), slice(0)):
            label = torch.full_like(batch.label, IGNORE)
            label[:, annotated] = batch.label[:, annotated]
            known = batch_for(framework, batch.image, label)
            step = self._check_step(framework, known, _CLOCKS[1])
            assert list(step.losses) == names, f"losses {names} expected, got {list(step.losses)}"

    def test_ignored_is_no_class(self) -> None:
        """Check that a label without an annotated voxel costs less than one of any class."""
        framework = self._framework(norm="none", dropout=0.0)
        batch = self._batch(framework)
        found = {}
        for value in (0, 1, IGNORE):
            torch.manual_seed(1)
            with torch.no_grad():
                flat = batch_for(framework, batch.image, torch.full_like(batch.label, value))
                found[value] = float(objective(framework.training_step(flat, _CLOCKS[1])))
        assert found[IGNORE] < min(found[0], found[1]), (
            "voxels whose label is IGNORE must be of no class (use semisam.core.losses); the sum "
            f"of the losses by the label of all voxels is {found}"
        )

    def test_ignored_voxels_do_not_count(self) -> None:
        """Check that the supervised losses do not depend on the outputs at ignored voxels.

        The network maps each voxel by itself, so another image there changes the outputs only
        there. The difference of the losses of two labels is free of the unsupervised losses. A
        method with a network of its own is left to `test_ignored_is_no_class`.
        """
        if self._has_its_network:
            return
        framework = self._on_voxels(self.channels, 2)
        if not any(isinstance(module, Voxelwise) for module in framework.modules()):
            return
        batch = self._batch(framework)
        rows, half = batch.num_labeled, self.shape[0] // 2
        labels = [batch.label.clone(), 1 - batch.label]
        image = batch.image.clone()
        image[:rows, :, :half] += 5.0
        found = []
        for each in (batch.image, image):
            for label in labels:
                label[:, :half] = IGNORE
            sums = []
            for label in labels:
                torch.manual_seed(1)
                with torch.no_grad():
                    step = framework.training_step(batch_for(framework, each, label), _CLOCKS[1])
                sums.append(float(objective(step)))
            found.append(sums[0] - sums[1])
        same = abs(found[0] - found[1]) <= 1e-3 * abs(found[0])
        assert same, (
            "voxels whose label is IGNORE must not count in a loss (use semisam.core.losses); the "
            f"losses of two labels differ by {found[0]}, and by {found[1]} with other outputs there"
        )

    def test_batch_is_left_as_it_was(self) -> None:
        """Check that a step does not change the batch, for example by noise."""
        framework = self._framework()
        batch = self._batch(framework)
        before = copy.deepcopy(batch)
        framework.training_step(batch, _CLOCKS[1])
        same = torch.equal(before.image, batch.image) and torch.equal(before.label, batch.label)
        assert same, "training_step must not change the batch in place"

    def test_step_changes_no_weights(self) -> None:
        """Check that ``training_step`` leaves the weights to the optimizer."""
        framework = self._framework()
        before = {name: p.detach().clone() for name, p in framework.named_parameters()}
        framework.training_step(self._batch(framework), _CLOCKS[1])
        after = dict(framework.named_parameters())
        late = sorted(after.keys() - before.keys())
        assert not late, (
            f"all parameters must exist after the constructor, got {late} from training_step. "
            "The optimizer and a resumed run would not know them"
        )
        changed = [name for name in before if not torch.equal(before[name], after[name])]
        assert not changed, f"training_step must not change weights, got other values of {changed}"

    def test_student_stays_in_training_mode(self) -> None:
        """Check that a step leaves no network with trained weights in evaluation mode."""
        framework = self._framework()
        for when in ("train()", "training_step", "after_update"):
            if when == "training_step":
                backward(framework, self._batch(framework), _CLOCKS[1])
            elif when == "after_update":
                framework.after_update(_CLOCKS[1])
            found = evaluating(framework)
            assert not found, (
                f"networks with trained weights must be in training mode after {when}, got "
                f"evaluation mode of {found}"
            )

    def test_step_does_not_reseed(self) -> None:
        """Check that a step draws on from the generator that the trainer has seeded."""
        framework = self._framework()
        states = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            framework.training_step(self._batch(framework), _CLOCKS[1])
            states.append(torch.get_rng_state())
        assert not torch.equal(*states), (
            "training_step must not seed torch's generator: every step would draw the same numbers"
        )

    def test_no_graph_is_kept(self) -> None:
        """Check that a method holds no tensor of a step that would keep its graph in memory."""
        framework = self._framework()
        train(framework, [self._batch(framework, seed=i) for i in range(2)])
        found = kept_graphs(framework)
        assert not found, f"attributes must hold detached tensors after a step, got {found}"

    def test_teachers_move(self) -> None:
        """Check that a frozen network that is built like the student changes in training."""
        framework = self._framework()
        if not self.teachers_move:
            return
        before = {
            name: [p.detach().clone() for p in teacher.parameters()]
            for name, teacher in teachers(framework).items()
        }
        train(framework, [self._batch(framework, seed=i) for i in range(_MANY)])
        for name, teacher in teachers(framework).items():
            stays = all(map(torch.equal, before[name], teacher.parameters()))
            assert not stays, (
                f"a teacher must move in after_update, got {name} with its first weights after "
                f"{_MANY} steps (a fixed teacher: set teachers_move = False in the test class)"
            )

    def test_disagreement_costs(self) -> None:
        """Check that dropout, which makes predictions disagree, lowers no unlabeled loss below 0.

        No voxel is annotated, so only the unlabeled losses are left.
        """
        if self._has_its_network:
            return
        found = []
        for dropout in (0.0, 0.5):
            framework = self._framework(norm="none", dropout=dropout)
            batch = self._batch(framework)
            batch = batch_for(framework, batch.image, torch.full_like(batch.label, IGNORE))
            with torch.no_grad():
                steps = [framework.training_step(batch, _CLOCKS[-1]) for _ in range(8)]
            found.append(sum(float(objective(step)) for step in steps) / len(steps))
        assert found[1] >= min(0.0, 1.05 * found[0]), (
            "an unlabeled loss must rise where predictions disagree; without any label the sum of "
            f"the losses is {found[0]:.3g}, and {found[1]:.3g} with dropout. Is its sign wrong?"
        )

    def test_sure_predictions_that_agree_cost_least(self) -> None:
        """Check that no unlabeled loss rewards unsure or contradicting predictions.

        No voxel is annotated, and the network is one whose predictions are known: sure and alike
        in every pass, sure and inverted by chance, or unsure. A loss may be lower than 0 only as
        far as it is where all predictions agree.
        """
        if self._has_its_network:
            return
        ways = {
            "agree": (20.0, False),
            "contradict each other": (20.0, True),
            "are unsure": (0, False),
        }
        cost = {way: self._unlabeled_cost(*script) for way, script in ways.items()}
        least = min(0.0, cost["agree"]) - 1e-3 * max(map(abs, cost.values()))
        cheap = [way for way in ways if cost[way] < least]
        assert not cheap, (
            f"an unlabeled loss must not fall where predictions {' or '.join(cheap)}; without any "
            f"label the sum of the losses is {cost}. Is its sign wrong?"
        )

    def test_predictions_are_compared_where_they_belong(self) -> None:
        """Check that predictions that agree at each voxel and row cost little.

        The network predicts the sign of the image, so a prediction of a mirrored image that is not
        mirrored back, or that is compared with another row, contradicts. The cost of an image of
        one class, where that cannot happen, is subtracted. A method with a network of its own is
        left out.
        """
        if self._has_its_network or not self.agreement_is_free:
            return
        framework = self._scripted(20.0, at_random=False)
        if not any(isinstance(module, Scripted) for module in framework.modules()):
            return
        least = self._unlabeled_cost(20.0, False, one_class=True)
        agree, contradict = (self._unlabeled_cost(20.0, chance) - least for chance in (False, True))
        # Other losses, such as adversarial ones, may differ a little between the images.
        compared = contradict > max(1e-6, 0.5 * abs(least))
        assert not compared or agree <= 0.5 * contradict, (
            "an unlabeled loss must compare predictions of the same voxel and row; without any "
            f"label the losses add {agree:.3g} where predictions agree there, and {contradict:.3g} "
            "where they contradict. Is a flip undone, and is the order of the rows kept? (losses "
            "that compare nothing: set agreement_is_free = False in the test class)"
        )

    def _unlabeled_cost(
        self, certainty: float, at_random: bool, *, one_class: bool = False
    ) -> float:
        """Return the mean objective without any label, with scripted predictions."""
        framework = self._scripted(certainty, at_random)
        image, label = quarters(self.shape, self.channels)
        image = image.abs() if one_class else image  # its sign is the prediction
        batch = batch_for(framework, image, torch.full_like(label, IGNORE))
        with torch.no_grad():
            steps = [framework.training_step(batch, _CLOCKS[n % 2 + 1]) for n in range(16)]
        return sum(float(objective(step)) for step in steps) / len(steps)

    def test_a_certain_network_deploys_certain_probabilities(self) -> None:
        """Check that ``forward`` keeps the certainty of the network's logits.

        A method with a network of its own is left out.
        """
        if self._has_its_network:
            return
        framework = self._scripted(20.0, at_random=False).eval()
        if not any(isinstance(module, Scripted) for module in framework.modules()):
            return
        with torch.no_grad():
            found = float(framework(quarters(self.shape, self.channels)[0]).amax(1).mean())
        assert found > 0.9, (
            "forward must be certain where the network is, got probabilities of at most "
            f"{found:.2f}. Is a softmax applied to probabilities?"
        )

    def test_unlabeled_rows_move_the_student(self) -> None:
        """Check that other unlabeled images give another gradient, without BatchNorm."""
        framework = self._framework(norm="none")
        if not framework.uses_unlabeled:
            return
        if self._has_its_network:
            without_noise(framework)
        train(framework, [self._batch(framework, seed=i) for i in range(2)])
        state = copy.deepcopy(framework.state_dict())
        batch, other = self._batch(framework, seed=2), self._batch(framework, seed=3)
        rows = batch.num_labeled
        mixed = torch.cat([batch.image[:rows], other.image[rows:]])
        swapped = batch_for(framework, mixed, batch.label)
        changes = []
        for clock in (Clock(0, TOTAL), Clock(TOTAL // 10, TOTAL), *_CLOCKS[1:]):
            gradients = []
            for each in (batch, swapped):
                framework.load_state_dict(state)
                backward(framework, each, clock)
                gradients.append(flat_gradient(framework))
            difference = torch.linalg.vector_norm(gradients[0] - gradients[1])
            changes.append(float(difference / torch.linalg.vector_norm(gradients[0])))
        assert max(changes[1:]) > 1e-5, (
            "uses_unlabeled is True, so the unlabeled images must change the student's gradient "
            f"after the first step; it changed by {changes} of its norm at 0, 10, 50 and 99 % of "
            "the training"
        )

    def test_only_param_groups_are_trained(self) -> None:
        """Check that a weight changes by the optimizer or in ``after_update``, but not by both."""
        framework = self._framework()
        trained = [p for group in framework.param_groups() for p in group["params"]]
        ids = {id(p) for p in trained}
        own = dict(framework.named_parameters())
        assert len(ids) == len(trained) > 0, "param_groups must hold each parameter once, and some"
        assert ids <= {id(p) for p in own.values()}, "param_groups must hold only own parameters"
        others = {name: p for name, p in own.items() if id(p) not in ids}
        optimizer = torch.optim.SGD(framework.param_groups(), lr=0.1)
        for step, clock in enumerate(_CLOCKS):
            before = {name: p.detach().clone() for name, p in others.items()}
            backward(framework, self._batch(framework, seed=step), clock)
            got = [name for name, p in others.items() if p.grad is not None]
            assert not got, f"only param_groups may get a gradient (teachers none), got {got}"
            moved = any(p.grad is not None and bool(p.grad.any()) for p in trained)
            assert moved, "the losses must have a gradient on param_groups"
            optimizer.step()
            changed = [name for name, p in others.items() if not torch.equal(before[name], p)]
            assert not changed, f"a teacher may change only in after_update, got {changed}"
            weights = {n: p.detach().clone() for n, p in own.items() if id(p) in ids}
            framework.after_update(clock)
            both = [name for name, w in weights.items() if not torch.equal(w, own[name])]
            assert not both, (
                "after_update must change only weights that the optimizer does not train (freeze a "
                f"teacher: semisam.core.ema.frozen_copy), got {both}"
            )

    def test_forward_is_deterministic_in_eval_mode(self) -> None:
        """Check that ``forward`` gives the same distribution each time and keeps the state."""
        for num_classes in (2, 4):
            framework = self._framework(num_classes).eval()
            image = self._batch(framework, num_classes).image
            state = copy.deepcopy(framework.state_dict())
            with torch.no_grad():
                first = framework(image)
                torch.manual_seed(99)
                second = framework(image)
            check_probs(first, (len(image), num_classes, *self.shape), "forward")
            assert torch.equal(first, second), "forward must be deterministic in eval mode"
            after = framework.state_dict()
            kept = all(equal(state[key], after[key]) for key in state)
            assert kept, "forward must not change the state in eval mode"

    def test_deployment_treats_rows_separately(self) -> None:
        """Check that ``forward`` in evaluation mode uses no statistics of the batch."""
        framework = self._framework()
        train(framework, [self._batch(framework, seed=i) for i in range(2)])
        image = self._batch(framework, seed=2).image
        with torch.no_grad():
            together = framework.eval()(image)[:1]
            alone = framework(image[:1])
        error = float((together - alone).abs().max())
        assert error <= 1e-3, (
            "forward in evaluation mode must give a row the same probabilities in a batch and "
            f"separately, got a difference of {error:.3g}: it uses statistics of the batch"
        )

    def test_probs_are_what_forward_deploys(self) -> None:
        """Check that SemiSAM corrects the probabilities that are deployed."""
        if not self.probs_are_deployed:
            return
        framework = self._framework(norm="none", dropout=0.0)
        train(framework, [self._batch(framework, seed=i) for i in range(2)])
        batch = self._batch(framework, seed=2)
        step = without_noise(framework).training_step(batch, _CLOCKS[1])
        with torch.no_grad():
            deployed = framework.eval()(batch.image)
        error = float((step.probs.detach() - deployed).abs().max())
        same = torch.allclose(step.probs.detach(), deployed, atol=1e-4, rtol=1e-3)
        assert same, (
            f"Step.probs must be the map that forward deploys, got a difference of {error:.3g} (of "
            "another network? Set probs_are_deployed = False in the test class if on purpose)"
        )

    def test_state_round_trip(self) -> None:
        """Check that a loaded state gives the same probabilities and the same next losses."""
        framework = self._framework()
        train(framework, [self._batch(framework, seed=i) for i in range(_MANY)])
        other = self._framework(seed=1)
        other.load_state_dict(copy.deepcopy(framework.state_dict()))
        batch = self._batch(framework, seed=_MANY)
        for clock in (Clock(_MANY, TOTAL), _CLOCKS[1]):
            steps = []
            for each in (framework, other):
                torch.manual_seed(5)
                steps.append(each.train().training_step(batch, clock))
            first, second = (
                {name: float(loss.detach()) for name, loss in step.losses.items()} for step in steps
            )
            assert first == second, (
                f"losses must be {first} after a resume at step {_MANY}, got {second}: keep all "
                "state in parameters and buffers"
            )
        with torch.no_grad():
            same = torch.equal(framework.eval()(batch.image), other.eval()(batch.image))
        assert same, "forward must be the same after load_state_dict in a new instance"

    def test_same_seed_same_result(self) -> None:
        """Check that two trainings from one seed end in the same weights, bit for bit."""
        runs = []
        for _ in range(2):
            framework = self._framework()
            losses = train(framework, [self._batch(framework, seed=i) for i in range(3)])
            runs.append((losses, framework.state_dict()))
        assert runs[0][0] == runs[1][0], "the same seed must give the same losses"
        same = all(equal(runs[0][1][key], runs[1][1][key]) for key in runs[0][1])
        assert same, "the same seed must give the same weights"

    def test_autocast(self) -> None:
        """Check that losses and probs stay finite in bfloat16."""
        framework = self._framework()
        batch = self._batch(framework)
        with torch.autocast("cpu", torch.bfloat16):
            step = framework.training_step(batch, _CLOCKS[1])
        check_losses(step, framework)
        check_probs(step.probs, step.probs.shape, "probs under autocast", atol=2e-2)
        objective(step).backward()  # type: ignore[no-untyped-call]
        check_gradients(framework)

    def test_wrapped_with_weight_zero_is_the_bare_method(self) -> None:
        """Check that ``SemiSAM(..., weight=0)`` changes no bit of losses, gradients and weights."""
        bare = self._framework()
        wrapped = SemiSAM(
            self._framework(), FakeBackend(ndim=len(self.shape)), FakePrompter(), weight=0.0
        )
        results = []
        for framework in (bare, wrapped):
            batches = [self._batch(framework, seed=i) for i in range(3)]
            losses = train(framework, batches)
            gradients = [p.grad for group in framework.param_groups() for p in group["params"]]
            results.append((losses, gradients, list(framework.parameters())))
        for ours, theirs in zip(results[0][0], results[1][0], strict=True):
            if "sam" not in ours:
                assert theirs.pop("sam", 0.0) == 0.0, "the term with weight 0 must be 0"
            assert ours == theirs, f"losses must be {ours}, got {theirs}"
        for what, position in (("gradients", 1), ("weights", 2)):
            pairs = zip(results[0][position], results[1][position], strict=True)
            assert all(equal(a, b) for a, b in pairs), f"the {what} must be bit-identical"

    def test_guidance_fits(self) -> None:
        """Check that SemiSAM gets the target for the unlabeled rows, once, and can change it."""
        framework = self._framework()
        if not framework.uses_unlabeled:
            return
        batch, state = self._batch(framework), copy.deepcopy(framework.state_dict())
        seen: list[torch.Tensor] = []
        gradients: list[torch.Tensor] = []

        def guide(target: torch.Tensor) -> torch.Tensor:
            seen.append(target)
            certain = torch.zeros_like(target)  # so that no threshold leaves it out
            certain[:, len(gradients)] = 1  # background, then class 1
            return certain

        for _ in range(2):
            seen.clear()
            framework.load_state_dict(state)
            framework.guide = guide
            backward(framework, batch, _CLOCKS[1])
            framework.guide = None
            assert len(seen) < 2, f"guided must be called once in a step, got {len(seen)} calls"
            gradients.append(flat_gradient(framework))
        for target in seen:
            rows = len(batch.image) - batch.num_labeled
            check_probs(target, (rows, framework.num_classes, *self.shape), "a guided target")
            assert not target.requires_grad, "a guided target must have no gradient: detach it"
            assert not torch.equal(*gradients), (
                "the map that guided returns must change the student's gradient, got equal ones "
                "for background and for class 1 everywhere. Learn from it, not from its argument"
            )

    def _check_gradient_of_probs(self, framework: Framework, unlabeled: torch.Tensor) -> None:
        """Check that the student gets a gradient from the map ``(U, *S)`` of unlabeled rows."""
        trained = [p for group in framework.param_groups() for p in group["params"]]
        if not len(unlabeled):
            return
        found = (
            torch.autograd.grad(unlabeled.square().sum(), trained, allow_unused=True)
            if unlabeled.requires_grad
            else ()
        )
        assert any(g is not None and bool(g.any()) for g in found), (
            "probs of the unlabeled rows must have a gradient, or SemiSAM teaches nothing there. "
            "Do not detach them"
        )

    def _scripted(self, certainty: float, at_random: bool) -> Framework:
        """Return the method on a network whose predictions are known."""
        axes = len(self.shape)
        torch.manual_seed(0)
        build = NetBuilder(
            lambda heads: Scripted(self.channels, heads, axes, certainty, at_random),
            self.channels,
            axes,
        )
        return self.make(build, 2).train()

    def _on_voxels(self, channels: int, num_classes: int) -> Framework:
        """Return the method on a network whose output at a voxel depends on that voxel only."""
        axes = len(self.shape)
        torch.manual_seed(0)
        build = NetBuilder(lambda heads: Voxelwise(channels, heads, axes), channels, axes)
        return self.make(build, num_classes).train()

    @property
    def _has_its_network(self) -> bool:
        return type(self).network is not FrameworkContract.network

    def _framework(
        self,
        num_classes: int = 2,
        *,
        norm: Literal["batch", "none"] = "batch",
        dropout: float = 0.2,
        seed: int = 0,
    ) -> Framework:
        torch.manual_seed(seed)
        axes = len(self.shape)
        if self._has_its_network:
            own = functools.partial(self.network, self.channels)
            build = NetBuilder(own, self.channels, axes)
        else:
            build = tiny_builder(self.channels, axes, norm=norm, dropout=dropout)
        return self.make(build, num_classes).train()

    def _batch(
        self,
        framework: Framework,
        num_classes: int = 2,
        *,
        labeled: int = 2,
        unlabeled: int = 2,
        seed: int = 0,
    ) -> Batch:
        batch = random_batch(
            num_classes,
            labeled=labeled,
            unlabeled=unlabeled,
            channels=self.channels,
            shape=self.shape,
            seed=seed,
        )
        return batch_for(framework, batch.image, batch.label)

    def _check_step(self, framework: Framework, batch: Batch, clock: Clock) -> Step:
        framework.zero_grad()
        step = backward(framework, batch, clock, keep_graph=True)
        check_losses(step, framework)
        check_gradients(framework)
        shape = (len(batch.image), framework.num_classes, *self.shape)
        check_probs(step.probs, shape, "probs")
        assert step.probs.requires_grad, "probs must be differentiable"
        self._check_gradient_of_probs(framework, step.probs[batch.num_labeled :, 0])
        if step.uncertainty is not None:
            u = step.uncertainty
            expected = (len(batch.image), 1, *self.shape)
            assert u.shape == expected, f"uncertainty must be {expected}, got {tuple(u.shape)}"
            inside = bool(((u >= 0) & (u <= 1)).all())
            assert inside, f"uncertainty must be in [0, 1], got up to {float(u.max())}"
            assert not u.requires_grad, "uncertainty must be detached"
        return step
