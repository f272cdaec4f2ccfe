"""One loop: what it sums, what it logs, and that nothing is lost when it is stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import signal
from pathlib import Path

import pytest
import torch

from semisam.core.errors import InputError, PluginError, SemisamWarning
from semisam.core.layout import CHECKPOINT, LOG, PREVIOUS
from semisam.core.types import Clock
from semisam.frameworks.mean_teacher import MeanTeacher
from semisam.frameworks.semisam import SemiSAM
from semisam.frameworks.supervised import Supervised
from semisam.prompters.uncertainty_points import UncertaintyPoints
from semisam.testing import FakeBackend, random_batch, tiny_builder
from semisam.testing.samples import TinyNet
from semisam.training.trainer import Diverged, Interrupted, TimeOver, Trainer, TrainingPlan
from semisam.training.validation import Validation

PLAN = TrainingPlan(iterations=7, checkpoint_every=2, lr_step=3, precision="fp32", seed=4)


class Batches:
    def batch(self, step):
        return random_batch(shape=(6, 8, 4), seed=step)


def _trainer(folder, plan=PLAN, framework=None):
    torch.manual_seed(0)
    inner = framework or SemiSAM(
        MeanTeacher(tiny_builder(), 2), FakeBackend(), UncertaintyPoints(max_uncertainty=1.0)
    )
    return Trainer(inner, Batches(), plan, folder)


def _state(trainer):
    momentum = trainer.optimizer.state_dict()["state"]
    return dict(trainer.framework.state_dict()) | {
        f"momentum {k}": v["momentum_buffer"] for k, v in momentum.items()
    }


def _equal(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[k], other[k]) for k in one)


class Killed(BaseException):
    """Stands for a death that no code sees coming."""


def _figures(folder):
    lines = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "sam_seconds"} for line in lines]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("killed_after", range(1, 7))
def test_killed_after_any_step_and_started_again_is_as_never_killed(
    tmp_path, killed_after, precision
):
    plan = TrainingPlan(iterations=7, checkpoint_every=2, lr_step=3, precision=precision, seed=4)
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole = _trainer(tmp_path / "whole", plan)
    whole.fit()

    def die(done, figures):
        if done == killed_after:
            raise Killed

    with pytest.raises(Killed):
        _trainer(tmp_path / "killed", plan).fit(die)
    torch.manual_seed(99)  # the global state of the new process is another one
    again = _trainer(tmp_path / "killed", plan)
    again.fit()
    assert _equal(_state(whole), _state(again))
    assert _figures(tmp_path / "whole") == _figures(tmp_path / "killed")


def test_the_method_moves_its_teacher_after_every_optimizer_step(tmp_path):
    seen = []

    class Recorder(Supervised):
        def after_update(self, clock):
            seen.append((clock, torch.cat([p.detach().flatten() for p in self.parameters()])))

    torch.manual_seed(0)
    framework = Recorder(tiny_builder(), 2)
    before = torch.cat([p.detach().flatten() for p in framework.parameters()])
    _trainer(tmp_path, framework=framework).fit()
    assert [clock for clock, _ in seen] == [Clock(step, 7) for step in range(7)]
    weights = [before, *(each for _, each in seen)]
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(weights))
    after = torch.cat([p.detach().flatten() for p in framework.parameters()])
    assert torch.equal(weights[-1], after)


@pytest.mark.parametrize("moment", ["before", "written", "renamed"])
def test_killed_while_a_checkpoint_is_written(tmp_path, monkeypatch, moment):
    (tmp_path / "whole").mkdir()
    whole = _trainer(tmp_path / "whole")
    whole.fit()
    folder = tmp_path / "killed"
    folder.mkdir()
    save, count = torch.save, 0

    def torn(state, file):
        nonlocal count
        count += 1
        if count < 3:
            save(state, file)
            return
        if moment == "written":
            save(state, file)
        elif moment == "renamed":
            # As if the disk had lost the end of the file after the rename.
            save(state, file)
            file.flush()
            data = Path(file.name).read_bytes()
            (folder / CHECKPOINT).write_bytes(data[: len(data) // 2])
        raise Killed

    monkeypatch.setattr(torch, "save", torn)
    with pytest.raises(Killed):
        _trainer(folder).fit()
    monkeypatch.undo()
    assert (folder / CHECKPOINT).exists() and (folder / PREVIOUS).exists()
    again = _trainer(folder)
    told = pytest.warns(SemisamWarning, match="the newest checkpoint cannot be read")
    with told if moment == "renamed" else contextlib.nullcontext():
        again.fit()
    assert _equal(_state(whole), _state(again))
    assert not list(folder.glob(".*.tmp"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_finishes_the_step_saves_and_resumes(tmp_path, number, capfd):
    (tmp_path / "whole").mkdir()
    (tmp_path / "stopped").mkdir()
    whole = _trainer(tmp_path / "whole")
    whole.fit()
    said = []

    class Interrupting(Batches):
        def batch(self, step):
            if step == 3:
                os.kill(os.getpid(), number)
                said.append(capfd.readouterr().err)
            return super().batch(step)

    stopped = _trainer(tmp_path / "stopped")
    stopped._batches = Interrupting()
    with pytest.raises(Interrupted, match="after 4 iterations"):
        stopped.fit()
    # At once, and not when the step is over. SIGTERM comes from a program.
    assert [bool(text) for text in said] == [number == signal.SIGINT]
    assert "Stopping" in said[0] or number != signal.SIGINT
    again = _trainer(tmp_path / "stopped")
    again.fit()
    assert _equal(_state(whole), _state(again))


def test_a_grids_two_signals_are_one_wish_to_stop(tmp_path):
    """Ctrl-C reaches the run from the terminal, then SIGTERM from the grid: both wait."""

    class Interrupting(Batches):
        def batch(self, step):
            if step == 3:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGTERM)
            return super().batch(step)

    trainer = _trainer(tmp_path)
    trainer._batches = Interrupting()
    with pytest.raises(Interrupted, match="after 4 iterations"):
        trainer.fit()
    assert (tmp_path / CHECKPOINT).exists()


def test_a_second_ctrl_c_stops_at_once(tmp_path):
    class Interrupting(Batches):
        def batch(self, step):
            if step == 3:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)
            return super().batch(step)

    trainer = _trainer(tmp_path)
    trainer._batches = Interrupting()
    # A shell that starts the tests in the background has the signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            trainer.fit()
    finally:
        signal.signal(signal.SIGINT, before)


def test_figures_that_some_steps_lack_are_averaged_over_those_that_have_them(tmp_path):
    trainer = _trainer(tmp_path)
    for figures in ({"loss": 1.0, "rare": 4.0}, {"loss": 2.0}, {"loss": 6.0, "rare": 2.0}):
        trainer._add(figures)
    trainer.save(3)
    again = _trainer(tmp_path)
    again._resume()
    again._add({"loss": 3.0})
    assert again._means() == {"loss": 3.0, "rare": 3.0}


def test_the_objective_is_the_sum_of_what_is_logged(tmp_path):
    _trainer(tmp_path).fit()
    for line in _figures(tmp_path):
        parts = [line[k] for k in ("ce", "dice", "consistency", "sam")]
        assert line["loss"] == pytest.approx(sum(parts), rel=1e-5)


def test_the_step_is_sgd_as_published(tmp_path):
    plan = TrainingPlan(iterations=2, lr=0.1, momentum=0.9, weight_decay=1e-2, precision="fp32")
    torch.manual_seed(0)
    framework = Supervised(tiny_builder(norm="none", dropout=0.0), 2)
    torch.manual_seed(0)
    by_hand = Supervised(tiny_builder(norm="none", dropout=0.0), 2)
    Trainer(framework, Batches(), plan, tmp_path).fit()
    velocity = [torch.zeros_like(p) for p in by_hand.parameters()]
    for step in range(2):
        by_hand.zero_grad()
        losses = by_hand.training_step(Batches().batch(step), Clock(step, 2)).losses
        sum(losses.values()).backward()
        with torch.no_grad():
            for p, v in zip(by_hand.parameters(), velocity, strict=True):
                gradient = p.grad + 1e-2 * p
                v.mul_(0.9).add_(gradient)
                p.sub_(0.1 * v)
    for ours, want in zip(framework.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(ours, want, rtol=1e-5, atol=1e-6)


def test_clipping_bounds_the_update(tmp_path):
    plan = TrainingPlan(
        iterations=1, lr=1.0, momentum=0.0, weight_decay=0.0, clip=1e-3, precision="fp32"
    )
    torch.manual_seed(0)
    framework = Supervised(tiny_builder(), 2)
    before = [p.detach().clone() for p in framework.parameters()]
    Trainer(framework, Batches(), plan, tmp_path).fit()
    moved = [(p - b).square().sum() for p, b in zip(framework.parameters(), before, strict=True)]
    assert float(sum(moved)) ** 0.5 <= 1e-3 * 1.001


def test_a_diverged_loss_stops_with_a_sentence(tmp_path):
    class Exploding(Batches):
        def batch(self, step):
            batch = super().batch(step)
            batch.image[0, 0, 0] = float("inf")
            return batch

    trainer = _trainer(tmp_path)
    trainer._batches = Exploding()
    with pytest.raises(Diverged, match="Lower the learning rate"):
        trainer.fit()


@pytest.mark.parametrize("name", ["loss", "lr", "sam"])
def test_a_loss_with_a_name_of_the_log_is_refused_before_a_step(tmp_path, name):
    class Named(Supervised):
        def training_step(self, batch, clock):
            step = super().training_step(batch, clock)
            return dataclasses.replace(step, losses={name: sum(step.losses.values())})

    torch.manual_seed(0)
    framework = Named(tiny_builder(), 2)
    before = {key: value.clone() for key, value in framework.state_dict().items()}
    with pytest.raises(PluginError, match=f"the name of a loss .* got '{name}' of method Named"):
        Trainer(framework, Batches(), PLAN, tmp_path).fit()
    weights = [key for key, _ in framework.named_parameters()]
    assert all(torch.equal(before[key], framework.state_dict()[key]) for key in weights)


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    _trainer(tmp_path).fit()
    with pytest.raises(InputError, match=r"got others \(lr 0.01, now 0.02\)"):
        _trainer(tmp_path, dataclasses.replace(PLAN, lr=0.02)).fit()


OTHER = {
    "iterations": 8, "lr": 0.02, "lr_step": 4, "optimizer": "adamw", "schedule": "poly",
    "momentum": 0.8, "weight_decay": 1e-3, "averaged": 0.5, "clip": 0.5, "precision": "bf16",
    "seed": 5, "parts": 2, "norm_batches": 1, "validation": Validation(every=2),
}  # fmt: skip
FREE = {"device", "checkpoint_every"}
"""A run may resume on another device, with other intervals between checkpoints."""


@pytest.mark.parametrize("name", sorted({f.name for f in dataclasses.fields(TrainingPlan)} - FREE))
def test_a_checkpoint_is_continued_with_its_own_plan_only(tmp_path, name):
    _trainer(tmp_path).save(3)
    with pytest.raises(InputError, match=rf"got others \({name} "):
        _trainer(tmp_path, dataclasses.replace(PLAN, **{name: OTHER[name]}))._resume()


def test_checkpoints_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / CHECKPOINT).write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match=r"a checkpoint must be readable, got checkpoint.pt"):
        _trainer(tmp_path).fit()


def test_training_leaves_the_callers_random_state_alone(tmp_path):
    trainer = _trainer(tmp_path)
    torch.manual_seed(11)
    want = torch.rand(1)
    torch.manual_seed(11)
    trainer.fit()
    assert torch.equal(torch.rand(1), want)


def test_weights_of_three_dimensional_convolutions_are_channels_last(tmp_path):
    trainer = _trainer(tmp_path)
    weights = [p for p in trainer.framework.parameters() if p.ndim == 5 and p.shape[1] > 1]
    assert weights
    assert all(w.is_contiguous(memory_format=torch.channels_last_3d) for w in weights)


MODERN = dataclasses.replace(
    PLAN, optimizer="adamw", schedule="fall", averaged=0.5, lr=1e-3, weight_decay=0.02
)


def _supervised():
    torch.manual_seed(1)
    return Supervised(tiny_builder(), 2)


def test_averaged_weights_are_those_of_a_plain_loop_and_survive_a_kill(tmp_path):
    (tmp_path / "whole").mkdir()
    whole = _trainer(tmp_path / "whole", MODERN, _supervised())
    means = [p.detach().clone() for p in whole.framework.parameters()]
    steps = []
    whole._deploy_average = lambda deploy=whole._deploy_average: (
        steps.append([p.detach().clone() for p in whole.framework.parameters()]),
        deploy(),
    )
    step = whole.step

    def watched(batch, number):
        figures = step(batch, number)
        decay = min(0.5, (1 + number) / (10 + number))
        for mean, weight in zip(means, whole.framework.parameters(), strict=True):
            mean.lerp_(weight.detach(), 1 - decay)
        return figures

    whole.step = watched
    whole.fit()
    deployed = list(whole.framework.parameters())
    assert all(torch.allclose(m, d, atol=1e-7) for m, d in zip(means, deployed, strict=True))
    assert not all(torch.equal(s, d) for s, d in zip(steps[0], deployed, strict=True))

    def kill(done, figures):
        if done == 3:
            raise Killed

    (tmp_path / "killed").mkdir()
    with contextlib.suppress(Killed):
        _trainer(tmp_path / "killed", MODERN, _supervised()).fit(kill)
    again = _trainer(tmp_path / "killed", MODERN, _supervised())
    again.fit()
    ours = again.framework.state_dict()
    assert all(torch.equal(v, ours[k]) for k, v in whole.framework.state_dict().items())


def test_each_optimizer_and_schedule_trains(tmp_path):
    for optimizer in ("sgd", "adamw"):
        for schedule in ("step", "poly", "cosine", "fall"):
            plan = dataclasses.replace(PLAN, optimizer=optimizer, schedule=schedule)
            folder = tmp_path / f"{optimizer}-{schedule}"
            folder.mkdir()
            rates = []
            trainer = _trainer(folder, plan, _supervised())
            trainer.fit(lambda done, figures, rates=rates: rates.append(figures["lr"]))
            assert len(rates) == plan.iterations and max(rates) <= plan.lr


class OwnRates(Supervised):
    """A head at half the run's rate, and the rest at a rate of its own."""

    def param_groups(self):
        *body, head = super().param_groups()[0]["params"]
        return [{"params": body, "lr": 0.002}, {"params": [head], "lr_scale": 0.5}]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_groups_keep_the_ratios_of_their_rates(tmp_path, optimizer):
    plan = dataclasses.replace(PLAN, optimizer=optimizer, schedule="poly", lr=0.01)
    for folder in ("whole", "killed"):
        (tmp_path / folder).mkdir()
    torch.manual_seed(1)
    whole = _trainer(tmp_path / "whole", plan, OwnRates(tiny_builder(), 2))
    found = []

    def look(done, figures):
        rates = [group["lr"] for group in whole.optimizer.param_groups]
        found.append([rate / figures["lr"] for rate in rates])

    whole.fit(look)
    assert len(found) == plan.iterations
    assert all(ratios == pytest.approx([0.2, 0.5]) for ratios in found)

    def die(done, figures):
        if done == 3:
            raise Killed

    for attempt in (die, None):
        torch.manual_seed(1)
        killed = _trainer(tmp_path / "killed", plan, OwnRates(tiny_builder(), 2))
        with contextlib.suppress(Killed):
            killed.fit(attempt)
    ours = killed.framework.state_dict()
    assert all(torch.equal(v, ours[k]) for k, v in whole.framework.state_dict().items())


def test_a_network_may_name_groups_of_its_own():
    class Grouped(TinyNet):
        def param_groups(self):
            *body, head = self.parameters()
            return [{"params": body}, {"params": [head], "lr_scale": 10.0}]

    framework = MeanTeacher(lambda **heads: Grouped(1, heads), 2)
    rest, body, head = framework.param_groups()
    assert rest["params"] == [] and head["lr_scale"] == 10.0
    found = {id(p) for group in (body, head) for p in group["params"]}
    assert found == {id(p) for p in framework.student.parameters()}  # and none of the teacher


def test_a_deadline_stops_after_a_step_saves_and_resumes(tmp_path):
    for folder in ("whole", "stopped"):
        (tmp_path / folder).mkdir()
    whole = _trainer(tmp_path / "whole")
    whole.fit()
    for done in range(1, 7):
        with pytest.raises(TimeOver, match=f"out of time after {done} iterations"):
            _trainer(tmp_path / "stopped").fit(deadline=0.0)
    again = _trainer(tmp_path / "stopped")
    again.fit(deadline=0.0)  # the last step ends the training
    assert _equal(_state(whole), _state(again))
