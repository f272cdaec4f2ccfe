"""The contracts catch what they promise to: deliberately wrong implementations must fail."""

from __future__ import annotations

import copy
import io
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from semisam.core.features import recorded
from semisam.core.framework import Framework, NetBuilder
from semisam.core.losses import dice_loss, mean_squared_difference, supervised_loss
from semisam.core.types import IGNORE, Batch, Clock, Place, Prompt, Step, View
from semisam.data.datasets.dataset import Split
from semisam.plugins import registry
from semisam.testing import (
    BackendContract,
    DatasetContract,
    FakeBackend,
    FakePrompter,
    FrameworkContract,
    NetworkContract,
    PrompterContract,
    random_batch,
    tiny_builder,
)
from semisam.testing.samples import TinyNet


class Toy(Framework):
    """A mean teacher in miniature, right in every respect; its children break one each."""

    def __init__(self, build: NetBuilder, num_classes: int) -> None:
        super().__init__(build, num_classes)
        self.student = build(logits=num_classes)
        self.teacher = build(logits=num_classes).requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        return self.student(image)["logits"].softmax(1)

    def training_step(self, batch: Batch, clock: Clock) -> Step:
        probs = self(batch.image)
        rows = batch.num_labeled
        known = batch.label != IGNORE
        target = nn.functional.one_hot(batch.label * known, self.num_classes).movedim(-1, 1)
        supervised = mean_squared_difference(probs[:rows], target, self.annotated(batch.label))
        return Step({"mse": supervised, "consistency": self.consistency(batch, probs)}, probs)

    def annotated(self, label: Tensor) -> Tensor:
        return label

    def consistency(self, batch: Batch, probs: Tensor) -> Tensor:
        with torch.no_grad():
            taught = self.teacher(batch.image)["logits"].softmax(1)
        rows = batch.num_labeled
        return 0.1 * (probs[rows:] - taught[rows:]).square().mean()

    def after_update(self, clock: Clock) -> None:
        with torch.no_grad():
            for t, s in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                t.lerp_(s, 0.1)


class NoUnlabeledTerm(Toy):
    def consistency(self, batch: Batch, probs: Tensor) -> Tensor:
        return 0.0 * super().consistency(batch, probs)


class DetachedTerm(Toy):
    def consistency(self, batch: Batch, probs: Tensor) -> Tensor:
        return super().consistency(batch, probs.detach())


class NormalisedByItself(Toy):
    """The published SemiSAM+ loss: s / (s + 1e-16), of value 1 and without a gradient."""

    def consistency(self, batch: Batch, probs: Tensor) -> Tensor:
        s = super().consistency(batch, probs)
        return s / (s + 1e-16)


class TrainedTeacher(Toy):
    def __init__(self, build: NetBuilder, num_classes: int) -> None:
        super().__init__(build, num_classes)
        self.teacher.requires_grad_(True)

    def consistency(self, batch: Batch, probs: Tensor) -> Tensor:
        return (probs - self.teacher(batch.image)["logits"].softmax(1)).square().mean()

    def param_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.student.parameters())}]


class MovesTeacherInStep(Toy):
    def training_step(self, batch: Batch, clock: Clock) -> Step:
        self.after_update(clock)
        return super().training_step(batch, clock)


class WantsEveryLabel(Toy):
    def training_step(self, batch: Batch, clock: Clock) -> Step:
        if len(batch.label) != batch.num_labeled or len(batch.image) > 2 * len(batch.label):
            raise IndexError("no label for the unlabeled rows")
        return super().training_step(batch, clock)


class CountsIgnoredAsBackground(Toy):
    def annotated(self, label: Tensor) -> Tensor:
        return torch.zeros_like(label)


class CountsIgnoredInDice(Toy):
    """The denominator of a Dice loss holds every voxel."""

    def training_step(self, batch: Batch, clock: Clock) -> Step:
        step = super().training_step(batch, clock)
        found = dice_loss(step.probs[: batch.num_labeled, 1], batch.label == 1)
        return Step({**step.losses, "dice": found}, step.probs)


class NaNWithoutAnnotation(Toy):
    def training_step(self, batch: Batch, clock: Clock) -> Step:
        step = super().training_step(batch, clock)
        known = (batch.label != IGNORE).float()
        mse = step.losses["mse"] * known.sum() / known.sum()
        return Step({**step.losses, "mse": mse}, step.probs)


class NaNWithoutForeground(Toy):
    def training_step(self, batch: Batch, clock: Clock) -> Step:
        step = super().training_step(batch, clock)
        part = (batch.label > 0).float().sum()
        return Step({**step.losses, "mse": step.losses["mse"] * part / part}, step.probs)


class DividesByTheTimeLeft(Toy):
    def training_step(self, batch: Batch, clock: Clock) -> Step:
        step = super().training_step(batch, clock)
        late = torch.tensor(1.0) / (clock.total - clock.step - 1)
        return Step({**step.losses, "late": late}, step.probs)


class LosesAName(Toy):
    def training_step(self, batch: Batch, clock: Clock) -> Step:
        step = super().training_step(batch, clock)
        kept = {k: v for k, v in step.losses.items() if k == "mse" or clock.step > 0}
        return Step(kept, step.probs)


class Sigmoids(Toy):
    def forward(self, image: Tensor) -> Tensor:
        return self.student(image)["logits"].sigmoid()


class SoftmaxTwice(Toy):
    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image).softmax(1)


class DetachedProbs(Toy):
    def training_step(self, batch: Batch, clock: Clock) -> Step:
        step = super().training_step(batch, clock)
        return Step(step.losses, step.probs.detach())


class DetachesUnlabeledProbs(Toy):
    def training_step(self, batch: Batch, clock: Clock) -> Step:
        step = super().training_step(batch, clock)
        labeled, rest = step.probs[: batch.num_labeled], step.probs[batch.num_labeled :]
        return Step(step.losses, torch.cat([labeled, rest.detach()]))


class GuidesEveryRow(Toy):
    def consistency(self, batch: Batch, probs: Tensor) -> Tensor:
        self.guided(probs.detach())
        return super().consistency(batch, probs)


class GuidesTwice(Toy):
    def consistency(self, batch: Batch, probs: Tensor) -> Tensor:
        for _ in range(2):
            self.guided(probs[batch.num_labeled :].detach())
        return super().consistency(batch, probs)


class DiscardsGuidance(Toy):
    def consistency(self, batch: Batch, probs: Tensor) -> Tensor:
        self.guided(probs[batch.num_labeled :].detach())
        return super().consistency(batch, probs)


class DeploysTheTeacher(Toy):
    def forward(self, image: Tensor) -> Tensor:
        net = self.student if self.training else self.teacher
        return net(image)["logits"].softmax(1)


class DropoutWhenDeployed(Toy):
    def forward(self, image: Tensor) -> Tensor:
        return (self.student(image)["logits"] + torch.randn(())).softmax(1)


class NoiseInPlace(Toy):
    def training_step(self, batch: Batch, clock: Clock) -> Step:
        batch.image.add_(0.1)
        return super().training_step(batch, clock)


class ForgetsItsState(Toy):
    def __init__(self, build: NetBuilder, num_classes: int) -> None:
        super().__init__(build, num_classes)
        self.seen = 0

    def after_update(self, clock: Clock) -> None:
        super().after_update(clock)
        self.seen += 1

    def consistency(self, batch: Batch, probs: Tensor) -> Tensor:
        return (1 + self.seen) * super().consistency(batch, probs)


class UnseededNoise(Toy):
    def consistency(self, batch: Batch, probs: Tensor) -> Tensor:
        return super().consistency(batch, probs) * (1 + random.random())


class TwoClassesOnly(Toy):
    def training_step(self, batch: Batch, clock: Clock) -> Step:
        step = super().training_step(batch, clock)
        return Step(step.losses, step.probs[:, :2])


class RawUncertainty(Toy):
    def training_step(self, batch: Batch, clock: Clock) -> Step:
        step = super().training_step(batch, clock)
        return Step(step.losses, step.probs, uncertainty=2 + step.probs[:, :1].detach())


class VectorLoss(Toy):
    def consistency(self, batch: Batch, probs: Tensor) -> Tensor:
        return super().consistency(batch, probs).reshape(1)


class GradientAndMean(Toy):
    """The teacher is a copy that nobody froze."""

    def __init__(self, build: NetBuilder, num_classes: int) -> None:
        super().__init__(build, num_classes)
        self.teacher = copy.deepcopy(self.student)

    def consistency(self, batch: Batch, probs: Tensor) -> Tensor:
        return (probs - self.teacher(batch.image)["logits"].softmax(1)).square().mean()


class FixedTeacher(Toy):
    def after_update(self, clock: Clock) -> None:
        pass


class DiesAfterTheFirstStep(Toy):
    def training_step(self, batch: Batch, clock: Clock) -> Step:
        step = super().training_step(batch, clock)
        weight = float(clock.step == 0)
        return Step({**step.losses, "consistency": weight * step.losses["consistency"]}, step.probs)


class DiesWithAFlag(Toy):
    first = True

    def consistency(self, batch: Batch, probs: Tensor) -> Tensor:
        weight, self.first = float(self.first), False
        return weight * super().consistency(batch, probs)


class BatchStatistics(Toy):
    def __init__(self, build: NetBuilder, num_classes: int) -> None:
        super().__init__(build, num_classes)
        for module in self.student.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.track_running_stats = False
                module.running_mean = module.running_var = None


class StudentInEvaluationMode(Toy):
    def consistency(self, batch: Batch, probs: Tensor) -> Tensor:
        self.student.eval()
        return super().consistency(batch, self(batch.image))


class NeverTrains(Toy):
    def train(self, mode: bool = True) -> Toy:
        super().train(mode)
        self.student.eval()
        return self


class FlipsTheLabels(Toy):
    def training_step(self, batch: Batch, clock: Clock) -> Step:
        return super().training_step(Batch(batch.image, batch.label.flip(0)), clock)


class UnlabeledFirst(Toy):
    """It takes the labels for those of the last rows."""

    def training_step(self, batch: Batch, clock: Clock) -> Step:
        step = super().training_step(Batch(batch.image.flip(0), batch.label), clock)
        return Step(step.losses, step.probs.flip(0))


class Reseeds(Toy):
    def training_step(self, batch: Batch, clock: Clock) -> Step:
        torch.manual_seed(0)
        return super().training_step(batch, clock)


class QueueFromStepTen(Toy):
    """A memory of past steps that no state dict holds."""

    def __init__(self, build: NetBuilder, num_classes: int) -> None:
        super().__init__(build, num_classes)
        self.queue: list[float] = []

    def consistency(self, batch: Batch, probs: Tensor) -> Tensor:
        self.queue.append(float(probs.detach().mean()))
        return (1 + sum(self.queue[10:])) * super().consistency(batch, probs)


class WrongSign(Toy):
    def consistency(self, batch: Batch, probs: Tensor) -> Tensor:
        return -super().consistency(batch, probs)


class OptimizesItself(Toy):
    def training_step(self, batch: Batch, clock: Clock) -> Step:
        with torch.no_grad():
            for p in self.student.parameters():
                p.mul_(0.999)
        return super().training_step(batch, clock)


class KeepsTheGraph(Toy):
    def consistency(self, batch: Batch, probs: Tensor) -> Tensor:
        self.history = [*getattr(self, "history", []), probs.mean()]
        return super().consistency(batch, probs)


class LogsATensor(Toy):
    def training_step(self, batch: Batch, clock: Clock) -> Step:
        step = super().training_step(batch, clock)
        return Step(step.losses, step.probs, metrics={"certainty": step.probs.detach().max()})


class LogsUnderALossName(Toy):
    def training_step(self, batch: Batch, clock: Clock) -> Step:
        step = super().training_step(batch, clock)
        return Step(step.losses, step.probs, metrics={"consistency": 0.5})


class TakesTheNameOfTheSum(Toy):
    def training_step(self, batch: Batch, clock: Clock) -> Step:
        step = super().training_step(batch, clock)
        return Step({"mse": step.losses["mse"], "loss": step.losses["consistency"]}, step.probs)


class TakesANameOfTheBranch(Toy):
    def training_step(self, batch: Batch, clock: Clock) -> Step:
        step = super().training_step(batch, clock)
        return Step({"mse": step.losses["mse"], "sam_loss": step.losses["consistency"]}, step.probs)


class InfiniteSum(Toy):
    """Each loss is finite."""

    def training_step(self, batch: Batch, clock: Clock) -> Step:
        step = super().training_step(batch, clock)
        large = {name: 3e38 * loss / loss.detach() for name, loss in step.losses.items()}
        return Step(large, step.probs)


class MergesClasses(Toy):
    def training_step(self, batch: Batch, clock: Clock) -> Step:
        merged = torch.where(batch.label == IGNORE, IGNORE, (batch.label > 0).long())
        return super().training_step(Batch(batch.image, merged), clock)


class DropsTheLastClass(Toy):
    def training_step(self, batch: Batch, clock: Clock) -> Step:
        last = (batch.label == self.num_classes - 1) & (batch.label > 1)
        return super().training_step(Batch(batch.image, batch.label.masked_fill(last, 0)), clock)


class ForgetsToFlipBack(Toy):
    def consistency(self, batch: Batch, probs: Tensor) -> Tensor:
        return super().consistency(Batch(batch.image.flip(2), batch.label), probs)


class ComparesOtherRows(Toy):
    def consistency(self, batch: Batch, probs: Tensor) -> Tensor:
        rows = batch.num_labeled
        image = torch.cat([batch.image[:rows], batch.image[rows:].roll(1, 0)])
        return super().consistency(Batch(image, batch.label), probs)


class GraphInAHelper(Toy):
    """The list is in a module that is not a method."""

    def __init__(self, build: NetBuilder, num_classes: int) -> None:
        super().__init__(build, num_classes)
        self.memory = nn.Module()

    def consistency(self, batch: Batch, probs: Tensor) -> Tensor:
        self.memory.items = [probs.mean()]
        return super().consistency(batch, probs)


class NaNWithoutContrast(Toy):
    def consistency(self, batch: Batch, probs: Tensor) -> Tensor:
        axes = tuple(range(1, batch.image.ndim))
        deviation, mean = torch.std_mean(batch.image, axes, keepdim=True)
        return super().consistency(Batch((batch.image - mean) / deviation, batch.label), probs)


class MakesALayerLate(Toy):
    def __init__(self, build: NetBuilder, num_classes: int) -> None:
        super().__init__(build, num_classes)
        self.late: Any = None

    def consistency(self, batch: Batch, probs: Tensor) -> Tensor:
        self.late = self.late or nn.Linear(self.num_classes, 1)
        return super().consistency(batch, self.late(probs.movedim(1, -1)).sigmoid().movedim(-1, 1))


class MixesPairs(Toy):
    def consistency(self, batch: Batch, probs: Tensor) -> Tensor:
        first, second = batch.image[batch.num_labeled :].chunk(2)
        return super().consistency(batch, probs) + 0 * (first + second).sum()


class OwnNetwork(Framework):
    """A right method that builds its own network, part of which is fixed."""

    def __init__(self, build: NetBuilder, num_classes: int, channels: int = 1) -> None:
        super().__init__(build, num_classes)
        conv = nn.utils.parametrizations.weight_norm(nn.Conv3d(channels, 6, 3, padding=1))
        self.encoder = nn.Sequential(conv, nn.BatchNorm3d(6), nn.LeakyReLU(), nn.Dropout3d(0.1))
        self.fixed = nn.Conv3d(6, 6, 1).requires_grad_(False)
        self.place = nn.Parameter(torch.zeros(1, 6, 1, 1, 1), requires_grad=False)
        self.heads = nn.ModuleList([nn.Conv3d(6, num_classes, 1) for _ in range(2)])

    def outputs(self, image: Tensor) -> list[Tensor]:
        features = self.encoder(image)
        features = features + self.fixed(features) + self.place
        return [head(features).softmax(1) for head in self.heads]

    def forward(self, image: Tensor) -> Tensor:
        return self.outputs(image)[0]

    def training_step(self, batch: Batch, clock: Clock) -> Step:
        one, two = self.outputs(batch.image)
        rows, loss = batch.num_labeled, torch.zeros(())
        for probs in (one, two):
            logits = probs[:rows].clamp(min=1e-6).log()
            ce, dice = supervised_loss(logits, probs[:rows], batch.label)
            loss = loss + ce + dice
        similarity = -nn.functional.cosine_similarity(one[rows:], two[rows:]).mean()
        return Step({"supervised": loss, "similarity": 0.1 * similarity}, one)


class SharedPart(Toy):
    """Two networks that share a part."""

    def __init__(self, build: NetBuilder, num_classes: int) -> None:
        super().__init__(build, num_classes)
        self.teacher = build(logits=num_classes)
        self.teacher.body = self.student.body

    def consistency(self, batch: Batch, probs: Tensor) -> Tensor:
        other = self.teacher(batch.image)["logits"].softmax(1)
        return 0.1 * (probs - other).square().mean()

    def after_update(self, clock: Clock) -> None:
        pass


class FromFeatures(Toy):
    """Consistency of features by name."""

    def consistency(self, batch: Batch, probs: Tensor) -> Tensor:
        found = []
        for noise in (0.0, 0.1):
            with recorded(self.student, "body") as features:
                self.student(batch.image + noise * torch.randn_like(batch.image))
            found.append(features["body"][batch.num_labeled :])
        return 0.1 * mean_squared_difference(*found)


class NamedParts(TinyNet):
    """A network with a part that no other network has."""

    def __init__(self, in_channels: int, heads: Mapping[str, int]) -> None:
        super().__init__(in_channels, dict(heads))
        self.block_five = self.body


class FromBlockFive(FromFeatures):
    networks = ("named-parts",)

    def __init__(self, build: NetBuilder, num_classes: int) -> None:
        super().__init__(build, num_classes)
        self.student.get_submodule("block_five")


class WantsPlaces(Toy):
    """Padding does not count, and each case has its own factor."""

    wants_places = True

    def consistency(self, batch: Batch, probs: Tensor) -> Tensor:
        assert batch.places is not None and batch.inside is not None, "places is not None"
        with torch.no_grad():
            taught = self.teacher(batch.image)["logits"].softmax(1)
        rows = range(batch.num_labeled, len(probs))
        factors = [1.0 + len(batch.places[row].case) for row in rows]
        terms = [(probs[r] - taught[r]).square()[:, batch.inside[r]].mean() for r in rows]
        return 0.1 * sum(f * term for f, term in zip(factors, terms, strict=True)) / len(rows)


class TakesPlacesUnasked(WantsPlaces):
    wants_places = False


class TestWantsPlaces(FrameworkContract):
    def make(self, build: NetBuilder, num_classes: int) -> Framework:
        return WantsPlaces(build, num_classes)


class TestSharedPart(FrameworkContract):
    def make(self, build: NetBuilder, num_classes: int) -> Framework:
        return SharedPart(tiny_builder(self.channels), num_classes)  # it needs parts of its network


class TestFromFeatures(FrameworkContract):
    def make(self, build: NetBuilder, num_classes: int) -> Framework:
        return FromFeatures(
            tiny_builder(self.channels), num_classes
        )  # it needs parts of its network


class TestFromBlockFive(FrameworkContract):
    def make(self, build: NetBuilder, num_classes: int) -> Framework:
        return FromBlockFive(build, num_classes)

    def network(self, in_channels: int, heads: Mapping[str, int]) -> nn.Module:
        return NamedParts(in_channels, heads)


class TestOwnNetwork(FrameworkContract):
    def make(self, build: NetBuilder, num_classes: int) -> Framework:
        return OwnNetwork(build, num_classes)


class TestToy(FrameworkContract):
    def make(self, build: NetBuilder, num_classes: int) -> Framework:
        return Toy(build, num_classes)


class TestToyOnPlanes(TestToy):
    shape = (14, 10)
    channels = 2


class TestFakeBackend(BackendContract):
    def make(self) -> FakeBackend:
        return FakeBackend()


class TestFakeBackendOnPlanes(BackendContract):
    def make(self) -> FakeBackend:
        return FakeBackend(ndim=2)


class TestFakePrompter(PrompterContract):
    def make(self) -> FakePrompter:
        return FakePrompter()


class TestTinyNet(NetworkContract):
    shape = (7, 5, 6)
    decoders = 3

    def make(self, in_channels: int, heads: Mapping[str, int]) -> nn.Module:
        return TinyNet(in_channels, dict(heads))


def sentences() -> dict[str, str]:
    """Return the sentence that each broken plugin gets, from the table of the documentation."""
    page = Path(__file__).resolve().parents[1] / "docs" / "broken-plugins.md"
    rows = re.findall(r"^\| `(\w+)` \| .*? \| (.*) \|$", page.read_text("utf-8"), re.MULTILINE)
    return dict(rows)


SENTENCES = sentences()


def check_fails(contract: object, expected: str, sentence: str) -> None:
    """Require that the expected test fails with a sentence, whose "..." stands for any figures."""
    with pytest.raises(AssertionError) as caught:
        getattr(contract, expected)()
    parts = map(re.escape, sentence.split("..."))
    got = " ".join(str(caught.value).split())
    assert re.fullmatch(".+".join(parts), got), f"got: {got}"


WRONG_METHODS = [
    (GradientAndMean, "test_only_param_groups_are_trained"),
    (FixedTeacher, "test_teachers_move"),
    (DiesAfterTheFirstStep, "test_unlabeled_rows_move_the_student"),
    (DiesWithAFlag, "test_unlabeled_rows_move_the_student"),
    (BatchStatistics, "test_deployment_treats_rows_separately"),
    (StudentInEvaluationMode, "test_student_stays_in_training_mode"),
    (NeverTrains, "test_student_stays_in_training_mode"),
    (FlipsTheLabels, "test_labels_belong_to_their_rows"),
    (UnlabeledFirst, "test_labels_belong_to_their_rows"),
    (Reseeds, "test_step_does_not_reseed"),
    (QueueFromStepTen, "test_state_round_trip"),
    (WrongSign, "test_disagreement_costs"),
    (OptimizesItself, "test_step_changes_no_weights"),
    (KeepsTheGraph, "test_no_graph_is_kept"),
    (LogsATensor, "test_step_on_two_and_four_classes"),
    (LogsUnderALossName, "test_step_on_two_and_four_classes"),
    (TakesTheNameOfTheSum, "test_step_on_two_and_four_classes"),
    (TakesANameOfTheBranch, "test_step_on_two_and_four_classes"),
    (InfiniteSum, "test_step_on_two_and_four_classes"),
    (MergesClasses, "test_every_class_is_learned"),
    (DropsTheLastClass, "test_every_class_is_learned"),
    (ForgetsToFlipBack, "test_predictions_are_compared_where_they_belong"),
    (ComparesOtherRows, "test_predictions_are_compared_where_they_belong"),
    (GraphInAHelper, "test_no_graph_is_kept"),
    (NaNWithoutContrast, "test_a_row_without_contrast"),
    (MakesALayerLate, "test_step_changes_no_weights"),
    (MixesPairs, "test_one_unlabeled_row"),
    (NoUnlabeledTerm, "test_unlabeled_rows_move_the_student"),
    (DetachedTerm, "test_unlabeled_rows_move_the_student"),
    (NormalisedByItself, "test_unlabeled_rows_move_the_student"),
    (TrainedTeacher, "test_only_param_groups_are_trained"),
    (MovesTeacherInStep, "test_only_param_groups_are_trained"),
    (WantsEveryLabel, "test_one_labeled_row"),
    (CountsIgnoredAsBackground, "test_ignored_is_no_class"),
    (CountsIgnoredInDice, "test_ignored_voxels_do_not_count"),
    (NaNWithoutAnnotation, "test_partly_annotated_labels"),
    (NaNWithoutForeground, "test_labels_of_one_class"),
    (DividesByTheTimeLeft, "test_every_clock_gives_the_same_losses"),
    (LosesAName, "test_every_clock_gives_the_same_losses"),
    (Sigmoids, "test_step_on_two_and_four_classes"),
    (SoftmaxTwice, "test_a_certain_network_deploys_certain_probabilities"),
    (DetachedProbs, "test_step_on_two_and_four_classes"),
    (DetachesUnlabeledProbs, "test_step_on_two_and_four_classes"),
    (GuidesEveryRow, "test_guidance_fits"),
    (GuidesTwice, "test_guidance_fits"),
    (DiscardsGuidance, "test_guidance_fits"),
    (TwoClassesOnly, "test_step_on_two_and_four_classes"),
    (RawUncertainty, "test_step_on_two_and_four_classes"),
    (VectorLoss, "test_step_on_two_and_four_classes"),
    (DeploysTheTeacher, "test_probs_are_what_forward_deploys"),
    (DropoutWhenDeployed, "test_forward_is_deterministic_in_eval_mode"),
    (NoiseInPlace, "test_batch_is_left_as_it_was"),
    (ForgetsItsState, "test_state_round_trip"),
    (UnseededNoise, "test_same_seed_same_result"),
]


@pytest.mark.parametrize(("wrong", "expected"), WRONG_METHODS)
def test_wrong_methods_are_told_their_fault(wrong: type[Framework], expected: str):
    class Contract(FrameworkContract):
        def make(self, build: NetBuilder, num_classes: int) -> Framework:
            return wrong(build, num_classes)

    check_fails(Contract(), expected, SENTENCES[wrong.__name__])


def test_a_method_that_does_not_want_places_gets_none():
    class Contract(FrameworkContract):
        def make(self, build: NetBuilder, num_classes: int) -> Framework:
            return TakesPlacesUnasked(build, num_classes)

    with pytest.raises(AssertionError, match="places is not None"):
        Contract().test_step_on_two_and_four_classes()


class Similarity(Toy):
    """A right loss that is below 0."""

    def consistency(self, batch: Batch, probs: Tensor) -> Tensor:
        with torch.no_grad():
            taught = self.teacher(batch.image)["logits"].softmax(1)
        rows = batch.num_labeled
        return -0.1 * nn.functional.cosine_similarity(probs[rows:], taught[rows:]).mean()


def test_a_loss_below_0_is_no_fault_by_itself():
    class Contract(FrameworkContract):
        def make(self, build: NetBuilder, num_classes: int) -> Framework:
            return Similarity(build, num_classes)

    Contract().test_sure_predictions_that_agree_cost_least()
    Contract().test_predictions_are_compared_where_they_belong()
    Contract().test_disagreement_costs()


class Penalty(Toy):
    """A right method with a further loss that compares nothing and is large."""

    def consistency(self, batch: Batch, probs: Tensor) -> Tensor:
        return super().consistency(batch, probs) + 1.0


class Weighted(Toy):
    """A right method whose losses have a small weight, so that it learns slowly."""

    def training_step(self, batch: Batch, clock: Clock) -> Step:
        step = super().training_step(batch, clock)
        return Step({name: 3e-3 * loss for name, loss in step.losses.items()}, step.probs)


class Adversarial(Toy):
    """A right method whose unlabeled loss compares no predictions."""

    def __init__(self, build: NetBuilder, num_classes: int) -> None:
        super().__init__(build, num_classes)
        last = nn.Conv3d(8, 1, 1)
        first = nn.Conv3d(num_classes + build.channels, 8, 3, padding=1)
        self.critic = nn.Sequential(first, nn.ReLU(), nn.AdaptiveAvgPool3d(1), last)

    def consistency(self, batch: Batch, probs: Tensor) -> Tensor:
        found = self.critic(torch.cat([probs, batch.image], 1)[batch.num_labeled :])
        return 0.1 * nn.functional.softplus(-found).mean()


@pytest.mark.parametrize("right", [Penalty, Weighted, Adversarial])
def test_the_size_or_kind_of_a_loss_is_no_fault(right: type[Framework]):
    class Contract(FrameworkContract):
        def make(self, build: NetBuilder, num_classes: int) -> Framework:
            return right(build, num_classes)

    Contract().test_predictions_are_compared_where_they_belong()
    Contract().test_every_class_is_learned()


class WeightNorm(Toy):
    """The older weight norm of torch keeps a weight that it has computed."""

    def __init__(self, build: NetBuilder, num_classes: int) -> None:
        super().__init__(build, num_classes)
        nn.utils.weight_norm(self.student.body[0])


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_computed_weight_is_no_kept_graph():
    class Contract(FrameworkContract):
        def make(self, build: NetBuilder, num_classes: int) -> Framework:
            toy = WeightNorm(tiny_builder(self.channels), num_classes)
            toy.after_update = lambda clock: None
            return toy

    Contract().test_no_graph_is_kept()


UNLABELED_TERMS = {
    "mt": ("consistency",),
    "ua-mt": ("consistency",),
    "dtc": ("consistency",),
    "dtml": ("consistency",),
    "ent-mini": ("entropy",),
    "cps": ("consistency",),
    "mc-net": ("consistency",),
    "fixmatch": ("strong_ce", "strong_dice"),
}


@pytest.mark.parametrize("name", UNLABELED_TERMS)
def test_an_inverted_unlabeled_loss_of_any_method_is_named(name: str):
    method: Any = registry.load("framework", name)

    class Inverted(method):
        def training_step(self, batch: Batch, clock: Clock) -> Step:
            step = super().training_step(batch, clock)
            signs = {term: -step.losses[term] for term in UNLABELED_TERMS[name]}
            return Step({**step.losses, **signs}, step.probs)

    class Contract(FrameworkContract):
        def make(self, build: NetBuilder, num_classes: int) -> Framework:
            return Inverted(build, num_classes)

    with pytest.raises(AssertionError, match="Is its sign wrong"):
        Contract().test_sure_predictions_that_agree_cost_least()


def test_a_row_that_only_batch_norm_sees_is_no_unlabeled_term():
    torch.manual_seed(0)
    framework = NoUnlabeledTerm(tiny_builder(norm="batch"), 2)
    batch, other = random_batch(seed=0), random_batch(seed=1)
    gradients = []
    for unlabeled in (batch.image[2:], other.image[2:]):
        framework.zero_grad()
        swapped = Batch(torch.cat([batch.image[:2], unlabeled]), batch.label)
        torch.manual_seed(0)
        framework.training_step(swapped, Clock(0, 10)).losses["mse"].backward()
        gradients.append(framework.student.body[0].weight.grad.clone())
    assert not torch.allclose(*gradients)  # so a comparison with BatchNorm would let it pass


class KeepsTheLastMask(FakeBackend):
    """The published fault: the next image starts from the mask of the one before."""

    last: Tensor | None = None

    def segment(self, embedding: Tensor, prompt: Prompt) -> Tensor:
        logits = super().segment(embedding, prompt)
        if self.last is not None and self.last.shape == logits.shape:
            logits = logits + 0.1 * self.last
        self.last = logits
        return logits


class KeepsThePrompt(KeepsTheLastMask):
    """The same within one image."""


class KeepsTheImage(FakeBackend):
    """The embedding is a handle to what the backend saw last, as in SAM's predictor."""

    def encode(self, image: Tensor) -> Tensor:
        self.current = super().encode(image)
        return torch.zeros(())

    def segment(self, embedding: Tensor, prompt: Prompt) -> Tensor:
        return super().segment(self.current, prompt)


class ModuleBackend(nn.Module):
    ndim = 3
    accepts = frozenset({"points"})
    encode = FakeBackend.encode
    segment = FakeBackend.segment


class TrainModeBackend(FakeBackend):
    def segment(self, embedding: Tensor, prompt: Prompt) -> Tensor:
        return nn.functional.dropout(super().segment(embedding, prompt), 0.5)


class LowResolution(FakeBackend):
    def segment(self, embedding: Tensor, prompt: Prompt) -> Tensor:
        return super().segment(embedding, prompt)[::2, ::2, ::2]


class ScalesByContrast(FakeBackend):
    def encode(self, image: Tensor) -> Tensor:
        return super().encode(image) / image.std()


class RejectsBoxes(FakeBackend):
    def segment(self, embedding: Tensor, prompt: Prompt) -> Tensor:
        if prompt.box is not None:
            raise ValueError("no boxes")
        return super().segment(embedding, prompt)


class AcceptsText(FakeBackend):
    accepts = frozenset({"points", "text"})


class DoublePrecision(FakeBackend):
    def segment(self, embedding: Tensor, prompt: Prompt) -> Tensor:
        return super().segment(embedding, prompt).double()


class ShiftsPoints(FakeBackend):
    def segment(self, embedding: Tensor, prompt: Prompt) -> Tensor:
        if prompt.points is not None:
            prompt.points.clamp_(max=5)
        return super().segment(embedding, prompt)


class Session(FakeBackend):
    """A right backend with a session on the image, to which it sends only new clicks."""

    accepts = frozenset({"points"})
    wants_place = True

    def encode(self, image: Tensor, place: Place | None) -> Any:
        spacing = (1.0,) * self.ndim if place is None else place.spacing
        return SimpleNamespace(image=super().encode(image), spacing=spacing, last=None, found=None)

    def segment(self, embedding: Any, prompt: Prompt) -> Tensor:
        if prompt.last is not embedding.last or prompt.last is None:
            self.begin(embedding, prompt)
        embedding.found = super().segment(embedding.found, prompt.added())
        embedding.last = prompt
        return embedding.found

    def begin(self, embedding: Any, prompt: Prompt) -> None:
        embedding.last, embedding.found = None, embedding.image
        if prompt.last is not None:
            self.segment(embedding, prompt.last)


class NeverBeginsAgain(Session):
    def begin(self, embedding: Any, prompt: Prompt) -> None:
        if embedding.last is None or prompt.last is None:
            super().begin(embedding, prompt)


class NeedsAPlace(Session):
    def encode(self, image: Tensor, place: Place | None) -> Any:
        return super().encode(image / place.spacing[0], place)  # type: ignore[union-attr]


class Scribbles(FakeBackend):
    """A right backend with a kind of prompt of its own."""

    accepts = frozenset({"scribble"})

    def segment(self, embedding: Tensor, prompt: Prompt) -> Tensor:
        return embedding + 4.0 * prompt.more["scribble"]


class IgnoresTheScribble(Scribbles):
    def segment(self, embedding: Tensor, prompt: Prompt) -> Tensor:
        return embedding.clone()


class OfScribbles(BackendContract):
    def make(self) -> Any:
        return Scribbles()

    def example(self, kind: str, box: tuple[slice, ...], shape: tuple[int, ...]) -> Tensor:
        drawn = torch.zeros(shape)
        drawn[box] = 1.0
        return drawn


class TestScribbles(OfScribbles):
    pass


class TestSession(BackendContract):
    def make(self) -> Any:
        return Session()


class Probabilities(FakeBackend):
    def segment(self, embedding: Tensor, prompt: Prompt) -> Tensor:
        return super().segment(embedding, prompt).sigmoid()


class InvertedSign(FakeBackend):
    def segment(self, embedding: Tensor, prompt: Prompt) -> Tensor:
        return -super().segment(embedding, prompt)


class IgnoresThePrompt(FakeBackend):
    def segment(self, embedding: Tensor, prompt: Prompt) -> Tensor:
        return embedding.clone()


class SwapsAxes(FakeBackend):
    """(x, y, z), as many libraries have it."""

    def segment(self, embedding: Tensor, prompt: Prompt) -> Tensor:
        points = None if prompt.points is None else prompt.points.flip(1)
        return super().segment(embedding, Prompt(points, prompt.labels, prompt.box, prompt.mask))


class SwapsAxesOfABox(FakeBackend):
    def segment(self, embedding: Tensor, prompt: Prompt) -> Tensor:
        box = None if prompt.box is None else prompt.box.roll(1, 1)
        return super().segment(embedding, Prompt(prompt.points, prompt.labels, box, prompt.mask))


class EveryClickIsPositive(FakeBackend):
    def segment(self, embedding: Tensor, prompt: Prompt) -> Tensor:
        labels = None if prompt.labels is None else torch.ones_like(prompt.labels)
        return super().segment(embedding, Prompt(prompt.points, labels, prompt.box, prompt.mask))


class AlwaysPositive(FakeBackend):
    def segment(self, embedding: Tensor, prompt: Prompt) -> Tensor:
        return super().segment(embedding, prompt) + 50


class CachesTheCase(FakeBackend):
    """An embedding that is kept by case, although patches of a case differ."""

    wants_place = True

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[str, Tensor] = {}

    def encode(self, image: Tensor, place: Place | None) -> Tensor:  # type: ignore[override]
        if place is None:
            return super().encode(image)
        return self.known.setdefault(f"{place.case} {image.shape}", super().encode(image))


class AdaptsForNothing(FakeBackend):
    def adapt(self, *args: Any, **options: Any) -> None:
        pass


class ScalesAProbability(FakeBackend):
    def segment(self, embedding: Tensor, prompt: Prompt) -> Tensor:
        return 2 * super().segment(embedding, prompt).sigmoid() - 1


class MultipliesLogits(FakeBackend):
    def segment(self, embedding: Tensor, prompt: Prompt) -> Tensor:
        return 1000 * super().segment(embedding, prompt)


class InclusiveBox(FakeBackend):
    def segment(self, embedding: Tensor, prompt: Prompt) -> Tensor:
        box = None if prompt.box is None else prompt.box + torch.tensor([[0], [1]])
        return super().segment(embedding, Prompt(prompt.points, prompt.labels, box, prompt.mask))


WRONG_BACKENDS = [
    (Probabilities, "test_the_object_of_the_prompt_is_positive"),
    (InvertedSign, "test_the_object_of_the_prompt_is_positive"),
    (IgnoresThePrompt, "test_every_prompt_matters"),
    (SwapsAxes, "test_the_object_of_the_prompt_is_positive"),
    (SwapsAxesOfABox, "test_the_object_of_the_prompt_is_positive"),
    (EveryClickIsPositive, "test_a_negative_click_is_no_positive_one"),
    (AlwaysPositive, "test_the_object_of_the_prompt_is_positive"),
    (CachesTheCase, "test_no_state_between_patches_of_a_case"),
    (AdaptsForNothing, "test_declares_what_it_is"),
    (ScalesAProbability, "test_logits_have_the_scale_of_logits"),
    (MultipliesLogits, "test_logits_have_the_scale_of_logits"),
    (InclusiveBox, "test_a_box_ends_before_its_second_corner"),
    (AcceptsText, "test_declares_what_it_is"),
    (NeverBeginsAgain, "test_a_dialogue_depends_on_its_own_prompts"),
    (NeedsAPlace, "test_the_place_may_be_unknown"),
    (KeepsTheLastMask, "test_no_state_between_images"),
    (KeepsThePrompt, "test_no_state_between_prompts"),
    (KeepsTheImage, "test_no_state_between_images"),
    (ModuleBackend, "test_declares_what_it_is"),
    (TrainModeBackend, "test_deterministic_and_without_trace"),
    (ShiftsPoints, "test_deterministic_and_without_trace"),
    (LowResolution, "test_odd_shape"),
    (ScalesByContrast, "test_constant_image"),
    (RejectsBoxes, "test_every_accepted_prompt"),
    (DoublePrecision, "test_every_accepted_prompt"),
    (IgnoresTheScribble, "test_every_prompt_matters"),
]


@pytest.mark.parametrize(("wrong", "expected"), WRONG_BACKENDS)
def test_wrong_backends_are_told_their_fault(wrong: type[Any], expected: str):
    class Contract(OfScribbles if issubclass(wrong, Scribbles) else BackendContract):  # type: ignore[misc]
        def make(self) -> Any:
            return wrong()

    check_fails(Contract(), expected, SENTENCES[wrong.__name__])


class GlobalRng(FakePrompter):
    def __call__(self, view: View, rng: torch.Generator) -> Prompt | None:
        return super().__call__(view, torch.default_generator)


class NumpyRng(FakePrompter):
    def __call__(self, view: View, rng: torch.Generator) -> Prompt | None:
        np.random.rand()
        return super().__call__(view, rng)


class AsksAnyway(FakePrompter):
    def __call__(self, view: View, rng: torch.Generator) -> Prompt | None:
        centre = torch.tensor([[size // 2 for size in view.prob.shape]])
        return Prompt(points=centre, labels=torch.ones(1, dtype=torch.int64))


class InvertedMask(FakePrompter):
    emits = frozenset({"mask"})

    def __call__(self, view: View, rng: torch.Generator) -> Prompt | None:
        return Prompt(mask=1 - view.prob) if bool((view.prob > 0.5).any()) else None


class BoxOfTheBackground(FakePrompter):
    emits = frozenset({"box"})

    def __call__(self, view: View, rng: torch.Generator) -> Prompt | None:
        if not bool((view.prob > 0.5).any()):
            return None
        outside = (view.prob < 0.5).nonzero()
        if not len(outside):
            return None
        return Prompt(box=torch.stack([outside.amin(0), outside.amax(0) + 1]))


class NeverAsks(FakePrompter):
    def __call__(self, view: View, rng: torch.Generator) -> Prompt | None:
        return None


class Reversed(FakePrompter):
    """(z, y, x) where the array has (x, y, z)."""

    def __call__(self, view: View, rng: torch.Generator) -> Prompt | None:
        prompt = super().__call__(view, rng)
        return prompt and Prompt(points=prompt.points.flip(1), labels=prompt.labels)


class NoLabels(FakePrompter):
    def __call__(self, view: View, rng: torch.Generator) -> Prompt | None:
        prompt = super().__call__(view, rng)
        return prompt and Prompt(points=prompt.points)


class ClosedBox(FakePrompter):
    """The last voxel in place of the one past it: empty for a single voxel."""

    emits = frozenset({"box"})

    def __call__(self, view: View, rng: torch.Generator) -> Prompt | None:
        index = (view.prob > 0.5).nonzero()
        return Prompt(box=torch.stack([index.amin(0), index.amax(0)])) if len(index) else None


class OutsideBox(ClosedBox):
    def __call__(self, view: View, rng: torch.Generator) -> Prompt | None:
        prompt = super().__call__(view, rng)
        return prompt and Prompt(box=prompt.box + torch.tensor([[-3], [3]]))


class LogitMask(FakePrompter):
    emits = frozenset({"mask"})

    def __call__(self, view: View, rng: torch.Generator) -> Prompt | None:
        return Prompt(mask=view.prob.logit()) if bool((view.prob > 0.5).any()) else None


class EmitsMore(FakePrompter):
    def __call__(self, view: View, rng: torch.Generator) -> Prompt | None:
        prompt = super().__call__(view, rng)
        return prompt and Prompt(prompt.points, prompt.labels, mask=view.prob.clone())


class Remembers(FakePrompter):
    calls = 0

    def __call__(self, view: View, rng: torch.Generator) -> Prompt | None:
        self.calls += 1
        for _ in range(self.calls):
            prompt = super().__call__(view, rng)
        return prompt


class ThresholdsInPlace(FakePrompter):
    def __call__(self, view: View, rng: torch.Generator) -> Prompt | None:
        view.prob[view.prob < 0.5] = 0
        return super().__call__(view, rng)


class FixedClick(FakePrompter):
    def __call__(self, view: View, rng: torch.Generator) -> Prompt | None:
        middle = torch.tensor([[size // 2 for size in view.prob.shape]])
        empty = not bool((view.prob > 0.5).any())
        return None if empty else Prompt(middle, torch.ones(1, dtype=torch.int64))


class ClicksTheBackground(FakePrompter):
    def __call__(self, view: View, rng: torch.Generator) -> Prompt | None:
        empty = not bool((view.prob > 0.5).any())
        return None if empty else super().__call__(View(1 - view.prob, view.uncertainty), rng)


class SwapsItsLabels(FakePrompter):
    def __call__(self, view: View, rng: torch.Generator) -> Prompt | None:
        prompt = super().__call__(view, rng)
        return prompt and Prompt(prompt.points, 1 - prompt.labels)


class Words(FakePrompter):
    """A right prompter with a kind of prompt of its own, which needs no place."""

    emits = frozenset({"text"})

    def __call__(self, view: View, rng: torch.Generator) -> Prompt | None:
        empty = not bool((view.prob > 0.5).any())
        size = "large" if float(view.prob.mean()) > 0.3 else "small"
        return None if empty else Prompt(more={"text": f"{size} {view.class_name}"})


class NeverSaysIt(FakePrompter):
    emits = frozenset({"points", "text"})


class SaysMore(Words):
    emits = frozenset({"points"})


class TestWords(PrompterContract):
    def make(self) -> Words:
        return Words()

    def test_prompts_follow_the_proposal(self) -> None:
        """A name is the same for all places."""


WRONG_PROMPTERS = [
    (NeverSaysIt, "test_every_declared_kind_is_made"),
    (SaysMore, "test_prompts_are_valid"),
    (FixedClick, "test_prompts_follow_the_proposal"),
    (ClicksTheBackground, "test_clicks_lie_on_their_class"),
    (SwapsItsLabels, "test_clicks_lie_on_their_class"),
    (InvertedMask, "test_masks_and_boxes_show_the_object"),
    (BoxOfTheBackground, "test_masks_and_boxes_show_the_object"),
    (GlobalRng, "test_draws_from_its_generator_alone"),
    (NumpyRng, "test_draws_from_its_generator_alone"),
    (AsksAnyway, "test_nothing_on_an_empty_proposal"),
    (NeverAsks, "test_makes_a_prompt_for_a_sure_proposal"),
    (Reversed, "test_prompts_are_valid"),
    (NoLabels, "test_prompts_are_valid"),
    (ClosedBox, "test_prompts_are_valid"),
    (OutsideBox, "test_prompts_are_valid"),
    (LogitMask, "test_prompts_are_valid"),
    (EmitsMore, "test_prompts_are_valid"),
    (Remembers, "test_same_generator_same_prompt"),
    (ThresholdsInPlace, "test_view_is_left_as_it_was"),
]


@pytest.mark.parametrize(("wrong", "expected"), WRONG_PROMPTERS)
def test_wrong_prompters_are_told_their_fault(wrong: type[Any], expected: str):
    class Contract(PrompterContract):
        def make(self) -> Any:
            return wrong()

    check_fails(Contract(), expected, SENTENCES[wrong.__name__])


class HalfPrecision(TinyNet):
    def forward(self, image: Tensor) -> dict[str, Tensor]:
        x = self.body(image)
        return {name: head(x) for name, head in self.heads.items()}


class Softmax(TinyNet):
    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {name: head.softmax(1) for name, head in super().forward(image).items()}


class UnusedLayer(TinyNet):
    def __init__(self, in_channels: int, heads: dict[str, int]) -> None:
        super().__init__(in_channels, heads)
        self.spare = nn.Conv3d(1, 1, 1)


class HiddenState(TinyNet):
    def __init__(self, in_channels: int, heads: dict[str, int]) -> None:
        super().__init__(in_channels, heads)
        self.scale = torch.rand(())

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {name: self.scale * head for name, head in super().forward(image).items()}


class MixesRows(TinyNet):
    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return super().forward(image - image.mean())


class OneHead(TinyNet):
    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"logits": super().forward(image)["logits"]}


class Halves(TinyNet):
    """It works at half the resolution, so sizes must be even."""

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        found = super().forward(nn.functional.avg_pool3d(image, 2))
        return {
            name: nn.functional.interpolate(head, scale_factor=2) for name, head in found.items()
        }


class Quarters(Halves):
    stride = 2

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        found = super().forward(nn.functional.avg_pool3d(image, 2))
        return {
            name: nn.functional.interpolate(head, scale_factor=2) for name, head in found.items()
        }


class StrideOfEachAxis(TinyNet):
    stride = (1, 1, 1)


class ForPlanes(TinyNet):
    axes = (2,)


class ActivatedSdf(TinyNet):
    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {
            name: head.tanh() if name == "sdf" else head
            for name, head in super().forward(image).items()
        }


class ListsItsParameters(TinyNet):
    def param_groups(self) -> list[Any]:
        return list(self.parameters())


class GroupsAParameterTwice(TinyNet):
    def param_groups(self) -> list[Any]:
        return [{"params": list(self.parameters()), "lr_scale": scale} for scale in (1.0, 0.1)]


class OneDecoder(TinyNet):
    """It takes the head of a second decoder for one more of the first."""

    def __init__(self, in_channels: int, heads: dict[str, int]) -> None:
        super().__init__(
            in_channels, {name.replace("_decoder", "_"): c for name, c in heads.items()}
        )
        self.names = list(heads)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.names, super().forward(image).values(), strict=True))


class OneDecoderTwice(OneDecoder):
    """The test class says that there are two."""


class ClampsTheImage(TinyNet):
    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return super().forward(image.clamp_(-1, 1))


class DrawsFromPython(TinyNet):
    def forward(self, image: Tensor) -> dict[str, Tensor]:
        scale = 1 + random.random() if self.training else 1
        return super().forward(scale * image)


class OwnGenerator(TinyNet):
    def __init__(self, in_channels: int, heads: dict[str, int]) -> None:
        super().__init__(in_channels, heads)
        self.rng = torch.Generator().manual_seed(0)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        scale = torch.rand((), generator=self.rng) if self.training else 1
        return super().forward(scale * image)


class SeedsInForward(TinyNet):
    def forward(self, image: Tensor) -> dict[str, Tensor]:
        torch.manual_seed(0)
        return super().forward(image)


class SeedsInItsConstructor(TinyNet):
    def __init__(self, in_channels: int, heads: dict[str, int]) -> None:
        torch.manual_seed(0)
        super().__init__(in_channels, heads)


class KeepsItsOutput(TinyNet):
    def forward(self, image: Tensor) -> dict[str, Tensor]:
        self.found = super().forward(image)
        return self.found


WRONG_NETWORKS = [
    (ClampsTheImage, "test_training_leaves_no_trace"),
    (DrawsFromPython, "test_training_passes_repeat"),
    (OwnGenerator, "test_training_passes_repeat"),
    (SeedsInForward, "test_training_leaves_no_trace"),
    (SeedsInItsConstructor, "test_training_leaves_no_trace"),
    (KeepsItsOutput, "test_training_leaves_no_trace"),
    (ListsItsParameters, "test_param_groups_hold_each_parameter_once"),
    (GroupsAParameterTwice, "test_param_groups_hold_each_parameter_once"),
    (OneDecoder, "test_a_decoder_that_is_not_there_is_refused"),
    (OneDecoderTwice, "test_heads_of_several_decoders"),
    (Halves, "test_stride_is_enough"),
    (Quarters, "test_stride_is_enough"),
    (StrideOfEachAxis, "test_stride_is_enough"),
    (ForPlanes, "test_stride_is_enough"),
    (ActivatedSdf, "test_heads_are_raw"),
    (HalfPrecision, "test_float32_under_autocast"),
    (Softmax, "test_named_heads"),
    (OneHead, "test_named_heads"),
    (UnusedLayer, "test_gradient_reaches_every_parameter"),
    (HiddenState, "test_state_round_trip"),
    (MixesRows, "test_eval_mode_is_deterministic_and_rowwise"),
]


@pytest.mark.parametrize(("wrong", "expected"), WRONG_NETWORKS)
def test_wrong_networks_are_told_their_fault(wrong: type[TinyNet], expected: str):
    class Contract(NetworkContract):
        shape = (16, 8, 12)
        decoders = 2 if wrong is OneDecoderTwice else 1

        def make(self, in_channels: int, heads: Mapping[str, int]) -> nn.Module:
            return wrong(in_channels, dict(heads))

    check_fails(Contract(), expected, SENTENCES[wrong.__name__])


class ToyDataset:
    """Two training cases and one for the test, in memory."""

    name = "toy"
    num_classes = 2
    channels = 1
    class_names = ("background", "blob")
    train: tuple[str, ...] = ("a", "b")
    test: tuple[str, ...] = ("c",)
    sign = 1  # of the label

    def split(self) -> Split:
        return Split(self.train, self.test)

    def image(self, case: str) -> Any:
        rng = np.random.default_rng(ord(case))
        array = rng.standard_normal((1, 4, 5, 6)).astype(np.float32)
        return SimpleNamespace(array=array, geometry=SimpleNamespace(spacing=(1.0, 1.0, 2.0)))

    def label(self, case: str) -> Any:
        return (self.sign * ToyDataset.image(self, case).array[0] > 1).astype(np.uint8)

    def has_label(self, case: str) -> bool:
        return True

    def source(self, case: str) -> str:
        return f"{case}.h5"


class TestToyDataset(DatasetContract):
    def make(self) -> Any:
        return ToyDataset()


class Overlapping(ToyDataset):
    test = ("b", "c")


class DoubleImages(ToyDataset):
    def image(self, case: str) -> Any:
        image = super().image(case)
        image.array = image.array.astype(np.float64)
        return image


class OtherGrid(ToyDataset):
    def label(self, case: str) -> Any:
        return super().label(case)[:-1]


class Label255(ToyDataset):
    def label(self, case: str) -> Any:
        return 255 * super().label(case)


class Augmented(ToyDataset):
    def image(self, case: str) -> Any:
        image = super().image(case)
        image.array += np.float32(np.random.rand())
        return image


class Cached(ToyDataset):
    cache: Any = None

    def image(self, case: str) -> Any:
        self.cache = self.cache or super().image(case)
        return self.cache


class UnlabeledTest(ToyDataset):
    def has_label(self, case: str) -> bool:
        return case in self.train


class UnnamedBackground(ToyDataset):
    class_names = ("blob",)


class NamesTwoChannels(ToyDataset):
    channel_names = ("T1", "T2")


class AddsTheLabel(ToyDataset):
    def image(self, case: str) -> Any:
        image = super().image(case)
        image.array += self.label(case)
        return image

    def label(self, case: str) -> Any:
        return (super().image(case).array[0] > 1).astype(np.uint8)


class CropsAroundTheFile(ToyDataset):
    """It reads the label's file by another road than its own method."""

    def image(self, case: str) -> Any:
        image = super().image(case)
        image.array *= 1 + self.sign * 0.1
        return image


class SortsByItsLabels(ToyDataset):
    def split(self) -> Split:
        return Split(tuple(sorted(self.train, key=lambda c: self.label(c).sum())), self.test)


class SortsByTheFiles(ToyDataset):
    """It reads the labels' files by another road than its own method."""

    def split(self) -> Split:
        return Split(self.train[:: self.sign], self.test)


class NamesOnlyTheImage(ToyDataset):
    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        for case in (*self.train, *self.test):
            (self.folder / f"{case}-image.npy").write_text(case)

    def files(self, case: str) -> tuple[Path, ...]:
        return (self.folder / f"{case}-image.npy",)


class NamesBoth(NamesOnlyTheImage):
    """A right dataset of files, also where the files are in a folder."""

    def files(self, case: str) -> tuple[Path, ...]:
        label = self.folder / case
        label.mkdir(exist_ok=True)
        (label / "label.npy").write_text(str(self.sign))
        return (*super().files(case), label)


class TestNamesBoth(DatasetContract):
    def make(self) -> Any:
        return NamesBoth()

    def make_with_other_labels(self) -> Any:
        other = NamesBoth()
        other.sign = -1
        return other


class MirroredLabel(ToyDataset):
    def label(self, case: str) -> Any:
        return super().label(case)[:, ::-1]


class SwapsAxesOfALabel(ToyDataset):
    """A label (y, x, z) of square images, as a library of pictures returns it."""

    def image(self, case: str) -> Any:
        array = np.random.default_rng(ord(case)).standard_normal((1, 5, 5, 6), np.float32)
        return SimpleNamespace(array=array, geometry=SimpleNamespace(spacing=(1.0, 1.0, 2.0)))

    def label(self, case: str) -> Any:
        return (self.image(case).array[0] > 1).astype(np.uint8).swapaxes(0, 1)


class Nameless(ToyDataset):
    name = ""


class RawUnits(ToyDataset):
    def image(self, case: str) -> Any:
        image = super().image(case)
        image.array = 1000 * image.array - 200
        return image


class ReadsEverything(ToyDataset):
    def __init__(self) -> None:
        self.means = [self.image(case).array.mean() for case in (*self.train, *self.test)]


class LoadsEveryFile(ToyDataset):
    def __init__(self) -> None:
        for case in (*self.train, *self.test):
            file = io.BytesIO()
            np.save(file, self.image(case).array)
            file.seek(0)
            np.load(file)


WRONG_DATASETS = [
    (AddsTheLabel, "test_images_are_free_of_labels"),
    (CropsAroundTheFile, "test_images_are_free_of_labels"),
    (SortsByItsLabels, "test_the_split_is_free_of_labels"),
    (SortsByTheFiles, "test_the_split_is_free_of_labels"),
    (NamesOnlyTheImage, "test_files_hold_the_label"),
    (MirroredLabel, "test_labels_fit_their_images"),
    (SwapsAxesOfALabel, "test_labels_fit_their_images"),
    (Nameless, "test_declares_classes_and_channels"),
    (RawUnits, "test_images_are_normalised"),
    (ReadsEverything, "test_constructor_reads_no_volume"),
    (LoadsEveryFile, "test_constructor_reads_no_volume"),
    (Overlapping, "test_split"),
    (DoubleImages, "test_images"),
    (OtherGrid, "test_labels"),
    (Label255, "test_labels"),
    (UnlabeledTest, "test_labels"),
    (Augmented, "test_reading_is_deterministic"),
    (Cached, "test_what_is_read_is_a_copy"),
    (UnnamedBackground, "test_declares_classes_and_channels"),
    (NamesTwoChannels, "test_declares_classes_and_channels"),
]


@pytest.mark.parametrize(("wrong", "expected"), WRONG_DATASETS)
def test_wrong_datasets_are_told_their_fault(wrong: type[Any], expected: str):
    class Contract(DatasetContract):
        def make(self) -> Any:
            return wrong()

        def make_with_other_labels(self) -> Any:
            other = wrong()
            other.sign = -1
            return other

    check_fails(Contract(), expected, SENTENCES[wrong.__name__])


def test_the_page_has_every_broken_plugin():
    groups = (WRONG_METHODS, WRONG_BACKENDS, WRONG_PROMPTERS, WRONG_NETWORKS, WRONG_DATASETS)
    assert {wrong.__name__ for group in groups for wrong, _ in group} == set(SENTENCES)


def test_importing_the_contracts_needs_no_pytest():
    code = "import sys; sys.modules['pytest'] = None; import semisam.testing"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_batches_hold_every_class_and_no_hidden_label():
    batch = random_batch(4, labeled=1, unlabeled=3)
    assert batch.label.unique().tolist() == [0, 1, 2, 3]
    assert batch.label.untyped_storage().nbytes() == batch.label.numel() * 8
    assert torch.equal(batch.image, random_batch(4, labeled=1, unlabeled=3).image)
    assert batch.image.shape == (4, 1, 8, 12, 10)
