"""Validation in a training: it changes no number, keeps the best weights, and survives a kill."""

from __future__ import annotations

import contextlib
import dataclasses
import json

import pytest
import torch

from semisam.core.errors import InputError
from semisam.core.layout import LOG
from semisam.frameworks.supervised import Supervised
from semisam.testing import random_batch, tiny_builder
from semisam.training.plan import TrainingPlan
from semisam.training.trainer import Trainer
from semisam.training.validation import Validation

PLAN = TrainingPlan(
    iterations=6, checkpoint_every=2, precision="fp32", averaged=0.5, norm_batches=1
)
SCORES = (0.3, 0.7, 0.7, 0.5, 0.4, 0.2)
"""Of the weights after each step."""


class Batches:
    def batch(self, step):
        return random_batch(shape=(6, 8, 4), seed=step)


class Counting(Supervised):
    """Supervised training whose state holds the number of its steps."""

    def __init__(self, build, num_classes):
        super().__init__(build, num_classes)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def after_update(self, clock):
        self.steps += 1


class Killed(BaseException):
    """Stands for a death that no code sees coming."""


def _trainer(folder, **validation):
    """Return a trainer, and the weights that its validations saw by step."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    framework = Counting(tiny_builder(), 2)
    seen = {}

    def validate():
        done = int(framework.steps)
        seen[done] = _weights(framework)
        return SCORES[done - 1]

    plan = dataclasses.replace(PLAN, validation=Validation(**validation) if validation else None)
    return Trainer(framework, Batches(), plan, folder, validate=validate), seen


def _weights(framework):
    return {name: value.clone() for name, value in framework.state_dict().items()}


def _equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def _log(folder):
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def test_a_validation_changes_no_weight_and_is_logged(tmp_path):
    bare, _ = _trainer(tmp_path / "bare")
    bare.fit()
    trainer, seen = _trainer(tmp_path / "validated", every=2)
    summary = trainer.fit()
    assert _equal(_weights(bare.framework), _weights(trainer.framework))
    assert _equal(seen[6], _weights(trainer.framework))  # what is scored is what is deployed
    lines = _log(tmp_path / "validated")
    assert [line.get("validation_dice") for line in lines] == [None, 0.7, None, 0.5, None, 0.2]
    without = [{k: v for k, v in line.items() if k != "validation_dice"} for line in lines]
    assert without == _log(tmp_path / "bare")
    assert "validation_dice" not in summary.means
    assert summary.validation == {
        **{"best_iteration": 2, "best_dice": 0.7},
        **{"last_iteration": 6, "last_dice": 0.2},
    }


def test_the_last_weights_are_validated_too(tmp_path):
    trainer, seen = _trainer(tmp_path, every=4)
    trainer.fit()
    assert list(seen) == [4, 6]


def test_the_best_weights_are_deployed_and_of_equal_scores_the_first(tmp_path):
    trainer, seen = _trainer(tmp_path, every=1, keep="best")
    trainer.fit()
    assert _equal(_weights(trainer.framework), seen[2])
    assert not _equal(seen[2], seen[3])


def test_the_training_stops_after_validations_without_a_better_one(tmp_path):
    trainer, seen = _trainer(tmp_path, every=1, patience=2)
    summary = trainer.fit()
    assert summary.steps == 4 and list(seen) == [1, 2, 3, 4]
    assert len(_log(tmp_path)) == 4
    again, asked = _trainer(tmp_path, every=1, patience=2)  # killed before its result
    assert again.fit().steps == 4 and not asked
    assert _equal(_weights(again.framework), _weights(trainer.framework))


@pytest.mark.parametrize("killed_after", [1, 3, 4, 5])
@pytest.mark.parametrize("keep", ["last", "best"])
def test_killed_and_started_again_is_as_never_killed(tmp_path, killed_after, keep):
    whole, _ = _trainer(tmp_path / "whole", every=1, keep=keep, patience=4)
    summary = whole.fit()

    def die(done, figures):
        if done == killed_after:
            raise Killed

    with contextlib.suppress(Killed):
        _trainer(tmp_path / "killed", every=1, keep=keep, patience=4)[0].fit(die)
    again, _ = _trainer(tmp_path / "killed", every=1, keep=keep, patience=4)
    assert again.fit().validation == summary.validation
    assert _equal(_weights(again.framework), _weights(whole.framework))
    assert _log(tmp_path / "killed") == _log(tmp_path / "whole")


def test_a_checkpoint_of_another_validation_is_refused(tmp_path):
    _trainer(tmp_path, every=2)[0].fit()
    with pytest.raises(InputError, match="the checkpoint must have the run's settings"):
        _trainer(tmp_path, every=3)[0].fit()
