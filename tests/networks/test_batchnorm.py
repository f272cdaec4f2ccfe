"""BatchNorm's statistics after training are those of the trained network."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from semisam.frameworks.mean_teacher import MeanTeacher
from semisam.networks.batchnorm import renew_statistics
from semisam.testing import random_batch, tiny_builder
from semisam.training.trainer import Trainer, TrainingPlan

PLAN = TrainingPlan(iterations=3, checkpoint_every=2, precision="fp32", norm_batches=4)


class Batches:
    def batch(self, step):
        return random_batch(shape=(6, 8, 4), seed=step)


def _trainer(folder, **changes):
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    method = MeanTeacher(tiny_builder(), 2)
    return Trainer(method, Batches(), dataclasses.replace(PLAN, **changes), folder)


def test_each_batch_counts_alike_and_nothing_drops_out():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(3), nn.InstanceNorm1d(3))
    net[1].momentum = 0.3
    batches = [torch.randn(5, 3, 7) + shift for shift in (0.0, 2.0, 10.0)]
    renew_statistics(net, batches, net)
    rows = [b.transpose(0, 1).flatten(1) for b in batches]
    torch.testing.assert_close(net[1].running_mean, torch.stack([r.mean(1) for r in rows]).mean(0))
    torch.testing.assert_close(net[1].running_var, torch.stack([r.var(1) for r in rows]).mean(0))
    assert net[1].momentum == 0.3
    assert not any(part.training for part in net.modules())


def test_a_layer_that_is_not_deployed_keeps_its_statistics():
    net = nn.ModuleList([nn.BatchNorm1d(2), nn.BatchNorm1d(2)])
    for norm in net:
        norm(torch.randn(9, 2) + 5)
    teacher = {name: b.clone() for name, b in net[1].named_buffers()}
    renew_statistics(net, [torch.randn(9, 2)], net[0])
    for name, buffer in net[1].named_buffers():
        assert torch.equal(buffer, teacher[name])
    assert net[0].running_mean.abs().max() < 2


def test_a_network_without_statistics_is_left_alone():
    net = nn.BatchNorm1d(2, track_running_stats=False)
    renew_statistics(net, [torch.randn(9, 2)], net)
    assert net.running_mean is None and net.momentum == 0.1


def test_training_ends_with_them_and_with_the_same_weights(tmp_path):
    plain, renewed = _trainer(tmp_path / "a", norm_batches=0), _trainer(tmp_path / "b")
    plain.fit()
    summary = renewed.fit()
    for (name, ours), theirs in zip(
        renewed.framework.named_parameters(), plain.framework.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs), name
    student = plain.framework.student
    images = [Batches().batch(step).image for step in range(3, 7)]
    renew_statistics(plain.framework, images, plain.framework)
    buffers = dict(renewed.framework.student.named_buffers())
    for name, buffer in student.named_buffers():
        torch.testing.assert_close(buffers[name], buffer, msg=name)
    assert summary.seconds > 0


@pytest.mark.parametrize("parts", [1, 2])
def test_killed_before_they_are_taken(tmp_path, monkeypatch, parts):
    whole = _trainer(tmp_path / "a", parts=parts)
    whole.fit()
    killed = _trainer(tmp_path / "b", parts=parts)

    def die():
        raise KeyboardInterrupt

    monkeypatch.setattr(killed, "_renew_norms", die)
    with pytest.raises(KeyboardInterrupt):
        killed.fit()
    again = _trainer(tmp_path / "b", parts=parts)
    again.fit()
    one, other = whole.framework.state_dict(), again.framework.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
