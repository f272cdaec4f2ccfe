"""The contract of a method, as tests."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from semisam.core.framework import Framework, NetBuilder
from semisam.core.types import IGNORE, Batch, Clock, Step
from semisam.testing.backend import FakeBackend
from semisam.testing.prompter import FakePrompter
from semisam.testing.samples import random_batch, tiny_builder

_TOTAL = 100
_CLOCKS = (Clock(0, _TOTAL), Clock(_TOTAL // 2, _TOTAL), Clock(_TOTAL - 1, _TOTAL))


class FrameworkContract:
    """Tests of a method. Subclass it and define ``make``.

    Attributes:
        shape: spatial shape ``*S`` of the patches, not a cube.
        channels: image channels ``C``.
        probs_are_deployed: ``Step.probs`` equals the result of ``forward`` without dropout and
            normalisation; False for a method whose student has a perturbed input.
    """

    shape: ClassVar[tuple[int, ...]] = (8, 12, 10)
    channels: ClassVar[int] = 1
    probs_are_deployed: ClassVar[bool] = True

    def make(self, build: NetBuilder, num_classes: int) -> Framework:
        """Return the method under test, with default options."""
        raise NotImplementedError("define make(self, build, num_classes)")

    def test_step_on_two_and_four_classes(self) -> None:
        """Check that losses are finite scalars with a gradient and probs a distribution over K."""
        for num_classes in (2, 4):
            framework = self._framework(num_classes)
            self._check_step(framework, self._batch(framework, num_classes), Clock(0, _TOTAL))

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
            flat = Batch(batch.image, torch.full_like(batch.label, value))
            step = self._check_step(framework, flat, _CLOCKS[1])
            assert list(step.losses) == names, f"losses {names} expected, got {list(step.losses)}"

    def test_one_labeled_row(self) -> None:
        """Check a step with one labeled row, whose label has one row."""
        framework = self._framework()
        batch = self._batch(framework, labeled=1, unlabeled=3)
        assert batch.label.shape[0] == 1
        self._check_step(framework, batch, _CLOCKS[1])

    def test_partly_annotated_labels(self) -> None:
        """Check that labels with one annotated slice, or with no voxel, give finite losses."""
        framework = self._framework()
        batch = self._batch(framework)
        names = list(self._check_step(framework, batch, _CLOCKS[1]).losses)
        for annotated in (slice(self.shape[0] // 2, self.shape[0] // 2 + 1), slice(0)):
            label = torch.full_like(batch.label, IGNORE)
            label[:, annotated] = batch.label[:, annotated]
            step = self._check_step(framework, Batch(batch.image, label), _CLOCKS[1])
            assert list(step.losses) == names, f"losses {names} expected, got {list(step.losses)}"

    def test_ignored_is_no_class(self) -> None:
        """Check that a label without an annotated voxel costs less than one of any class."""
        framework = self._framework(norm="none", dropout=0.0)
        batch = self._batch(framework)
        found = {}
        for value in (0, 1, IGNORE):
            torch.manual_seed(1)
            with torch.no_grad():
                flat = Batch(batch.image, torch.full_like(batch.label, value))
                found[value] = float(_objective(framework.training_step(flat, _CLOCKS[1])))
        assert found[IGNORE] < min(found[0], found[1]), (
            "voxels whose label is IGNORE must be of no class (use semisam.core.losses); the sum "
            f"of the losses by the label of all voxels is {found}"
        )

    def test_ignored_voxels_do_not_count(self) -> None:
        """Check that the supervised losses do not depend on the outputs at ignored voxels.

        The network maps each voxel by itself, so another image there changes the outputs only
        there. The difference of the losses of two labels is free of the unsupervised losses.
        """
        torch.manual_seed(0)
        framework = self.make(self._build_voxelwise, 2).train()
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
                    step = framework.training_step(Batch(each, label), _CLOCKS[1])
                sums.append(float(_objective(step)))
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

    def test_unlabeled_rows_move_the_student(self) -> None:
        """Check that other unlabeled images give another gradient, without BatchNorm."""
        framework = self._framework(norm="none")
        if not framework.uses_unlabeled:
            return
        _train(framework, [self._batch(framework, seed=i) for i in range(2)])
        state = copy.deepcopy(framework.state_dict())
        batch, other = self._batch(framework, seed=2), self._batch(framework, seed=3)
        rows = batch.num_labeled
        swapped = Batch(torch.cat([batch.image[:rows], other.image[rows:]]), batch.label)
        changes = []
        for clock in _CLOCKS:
            gradients = []
            for each in (batch, swapped):
                framework.load_state_dict(state)
                _backward(framework, each, clock)
                gradients.append(_flat_gradient(framework))
            difference = torch.linalg.vector_norm(gradients[0] - gradients[1])
            changes.append(float(difference / torch.linalg.vector_norm(gradients[0])))
        assert max(changes) > 1e-5, (
            "uses_unlabeled is True, so the unlabeled images must change the student's gradient; "
            f"it changed by {changes} of its norm at the first, middle and last step"
        )

    def test_only_param_groups_are_trained(self) -> None:
        """Check that a teacher gets no gradient and changes only in ``after_update``."""
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
            _backward(framework, self._batch(framework, seed=step), clock)
            got = [name for name, p in others.items() if p.grad is not None]
            assert not got, f"only param_groups may get a gradient (teachers none), got {got}"
            moved = any(p.grad is not None and bool(p.grad.any()) for p in trained)
            assert moved, "the losses must have a gradient on param_groups"
            optimizer.step()
            changed = [name for name, p in others.items() if not torch.equal(before[name], p)]
            assert not changed, f"a teacher may change only in after_update, got {changed}"
            framework.after_update(clock)

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
            _check_probs(first, (len(image), num_classes, *self.shape), "forward")
            assert torch.equal(first, second), "forward must be deterministic in eval mode"
            after = framework.state_dict()
            kept = all(_same(state[key], after[key]) for key in state)
            assert kept, "forward must not change the state in eval mode"

    def test_probs_are_what_forward_deploys(self) -> None:
        """Check that SemiSAM corrects the probabilities that are deployed."""
        if not self.probs_are_deployed:
            return
        framework = self._framework(norm="none", dropout=0.0)
        _train(framework, [self._batch(framework, seed=i) for i in range(2)])
        batch = self._batch(framework, seed=2)
        step = framework.training_step(batch, _CLOCKS[1])
        with torch.no_grad():
            deployed = framework.eval()(batch.image)
        torch.testing.assert_close(step.probs.detach(), deployed, atol=1e-4, rtol=1e-3)

    def test_state_round_trip(self) -> None:
        """Check that a loaded state gives the same probabilities and the same next losses."""
        framework = self._framework()
        _train(framework, [self._batch(framework, seed=i) for i in range(3)])
        other = self._framework(seed=1)
        other.load_state_dict(copy.deepcopy(framework.state_dict()))
        batch = self._batch(framework, seed=3)
        steps = []
        for each in (framework, other):
            torch.manual_seed(5)
            steps.append(each.train().training_step(batch, _CLOCKS[1]))
        first, second = (
            {name: float(loss.detach()) for name, loss in step.losses.items()} for step in steps
        )
        assert first == second, f"losses must be {first} after a resume, got {second}"
        with torch.no_grad():
            same = torch.equal(framework.eval()(batch.image), other.eval()(batch.image))
        assert same, "forward must be the same after load_state_dict in a new instance"

    def test_same_seed_same_result(self) -> None:
        """Check that two trainings from one seed end in the same weights, bit for bit."""
        runs = []
        for _ in range(2):
            framework = self._framework()
            losses = _train(framework, [self._batch(framework, seed=i) for i in range(3)])
            runs.append((losses, framework.state_dict()))
        assert runs[0][0] == runs[1][0], "the same seed must give the same losses"
        same = all(_same(runs[0][1][key], runs[1][1][key]) for key in runs[0][1])
        assert same, "the same seed must give the same weights"

    def test_autocast(self) -> None:
        """Check that losses and probs stay finite in bfloat16."""
        framework = self._framework()
        batch = self._batch(framework)
        with torch.autocast("cpu", torch.bfloat16):
            step = framework.training_step(batch, _CLOCKS[1])
        _check_losses(step)
        _check_probs(step.probs, step.probs.shape, "probs under autocast", atol=2e-2)
        _objective(step).backward()  # type: ignore[no-untyped-call]
        _check_gradients(framework)

    def test_wrapped_with_weight_zero_is_the_bare_method(self) -> None:
        """Check that ``SemiSAM(..., weight=0)`` changes no bit of losses, gradients and weights."""
        from semisam.frameworks.semisam import SemiSAM

        bare = self._framework()
        wrapped = SemiSAM(
            self._framework(), FakeBackend(ndim=len(self.shape)), FakePrompter(), weight=0.0
        )
        results = []
        for framework in (bare, wrapped):
            batches = [self._batch(framework, seed=i) for i in range(3)]
            losses = _train(framework, batches)
            gradients = [p.grad for group in framework.param_groups() for p in group["params"]]
            results.append((losses, gradients, list(framework.parameters())))
        for ours, theirs in zip(results[0][0], results[1][0], strict=True):
            if "sam" not in ours:
                assert theirs.pop("sam", 0.0) == 0.0, "the term with weight 0 must be 0"
            assert ours == theirs, f"losses must be {ours}, got {theirs}"
        for what, position in (("gradients", 1), ("weights", 2)):
            pairs = zip(results[0][position], results[1][position], strict=True)
            assert all(_same(a, b) for a, b in pairs), f"the {what} must be bit-identical"

    def _build_voxelwise(self, **heads: int) -> nn.Module:
        return _Voxelwise(self.channels, heads, len(self.shape))

    def _framework(
        self, num_classes: int = 2, *, norm: str = "batch", dropout: float = 0.2, seed: int = 0
    ) -> Framework:
        torch.manual_seed(seed)
        build = tiny_builder(
            self.channels,
            len(self.shape),
            norm="batch" if norm == "batch" else "none",
            dropout=dropout,
        )
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
        if framework.uses_unlabeled:
            return batch
        return Batch(batch.image[:labeled], batch.label)  # as the trainer's batch

    def _check_step(self, framework: Framework, batch: Batch, clock: Clock) -> Step:
        framework.zero_grad()
        step = _backward(framework, batch, clock)
        _check_losses(step)
        _check_gradients(framework)
        shape = (len(batch.image), framework.num_classes, *self.shape)
        _check_probs(step.probs, shape, "probs")
        assert step.probs.requires_grad, "probs must be differentiable"
        if step.uncertainty is not None:
            u = step.uncertainty
            expected = (len(batch.image), 1, *self.shape)
            assert u.shape == expected, f"uncertainty must be {expected}, got {tuple(u.shape)}"
            inside = bool(((u >= 0) & (u <= 1)).all())
            assert inside, f"uncertainty must be in [0, 1], got up to {float(u.max())}"
            assert not u.requires_grad, "uncertainty must be detached"
        return step


class _Voxelwise(nn.Module):
    """A network whose output at a voxel depends on that voxel only."""

    def __init__(self, in_channels: int, heads: Mapping[str, int], ndim: int) -> None:
        super().__init__()
        conv = nn.Conv3d if ndim == 3 else nn.Conv2d
        self.heads = nn.ModuleDict({name: conv(in_channels, c, 1) for name, c in heads.items()})

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Return each head's ``(B, c, *S)``."""
        return {name: head(image).float() for name, head in self.heads.items()}


def _objective(step: Step) -> Tensor:
    return torch.stack([loss.float() for loss in step.losses.values()]).sum()


def _backward(framework: Framework, batch: Batch, clock: Clock) -> Step:
    torch.manual_seed(1000 + clock.step)  # the trainer also seeds every step
    framework.zero_grad()
    step = framework.training_step(batch, clock)
    _objective(step).backward()  # type: ignore[no-untyped-call]
    return step


def _train(framework: Framework, batches: Iterable[Batch]) -> list[dict[str, float]]:
    optimizer = torch.optim.SGD(framework.param_groups(), lr=0.01, momentum=0.9)
    losses = []
    for i, batch in enumerate(batches):
        clock = Clock(i, _TOTAL)
        step = _backward(framework, batch, clock)
        losses.append({name: float(loss.detach()) for name, loss in step.losses.items()})
        optimizer.step()
        framework.after_update(clock)
    return losses


def _check_losses(step: Step) -> None:
    assert step.losses, "a step must have a loss"
    for name, loss in step.losses.items():
        assert loss.ndim == 0, f"loss {name!r} must be a scalar, got shape {tuple(loss.shape)}"
        assert bool(torch.isfinite(loss)), f"loss {name!r} must be finite, got {loss.item()}"
    assert _objective(step).requires_grad, "the losses must have a gradient"


def _check_gradients(framework: Framework) -> None:
    bad = [
        name
        for name, p in framework.named_parameters()
        if p.grad is not None and not bool(torch.isfinite(p.grad).all())
    ]
    assert not bad, f"gradients must be finite, got NaN or infinity on {bad}"


def _check_probs(probs: Tensor, shape: tuple[int, ...], what: str, atol: float = 1e-4) -> None:
    assert tuple(probs.shape) == tuple(shape), f"{what} must be {shape}, got {tuple(probs.shape)}"
    p = probs.detach().float()
    assert bool(torch.isfinite(p).all()), f"{what} must be finite"
    inside = float(p.min()) >= -atol and float(p.max()) <= 1 + atol
    assert inside, f"{what} must be in [0, 1], got [{float(p.min())}, {float(p.max())}]"
    total = p.sum(1)
    error = float((total - 1).abs().max())
    assert error <= atol * shape[1], f"{what} must sum to 1 over the classes, off by {error}"


def _flat_gradient(framework: Framework) -> Tensor:
    parameters = [p for group in framework.param_groups() for p in group["params"]]
    return torch.cat(
        [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters]
    )


def _same(a: object, b: object) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    return a is b or a == b
