"""Micro-batches: the same gradient where it can be the same, and one sentence for a full memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from tiny_runs import changed
from torch.nn import functional as F

from semisam.core.errors import InputError
from semisam.core.framework import Framework
from semisam.core.types import OracleBatch, Step, Total
from semisam.frameworks.mean_teacher import MeanTeacher
from semisam.run.execute import execute
from semisam.testing import random_batch, tiny_builder
from semisam.training.accumulation import (
    OutOfMemory,
    count_parts,
    is_out_of_memory,
    merged_figures,
    micro_batches,
)
from semisam.training.checkpoint import LOG
from semisam.training.trainer import Trainer, TrainingPlan

PLAN = TrainingPlan(iterations=5, checkpoint_every=2, lr_step=3, precision="fp32", seed=4)
REFUSED = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."


class Batches:
    def batch(self, step):
        return random_batch(shape=(6, 8, 4), seed=step)


class OnlyMeans(Framework):
    """All its losses are means over rows, and no row sees another."""

    def __init__(self, build, num_classes):
        super().__init__(build, num_classes)
        self.net = build(logits=num_classes)
        self.updates = 0

    def forward(self, image):
        return self.net(image)["logits"].softmax(1)

    def training_step(self, batch, clock):
        logits = self.net(batch.image)["logits"]
        ce = F.cross_entropy(logits[: batch.num_labeled], batch.label)
        flat = logits[batch.num_labeled :].softmax(1).square().mean()
        figures = {"rows": Total(len(batch.image)), "share": float(len(batch.image))}
        return Step({"ce": ce, "flat": -flat}, logits.softmax(1), metrics=figures)

    def after_update(self, clock):
        self.updates += 1


class Hungry(MeanTeacher):
    """Takes so many rows at once and no more, and says so when BatchNorm has seen them."""

    def training_step(self, batch, clock):
        step = super().training_step(batch, clock)
        if clock.step >= 2 and len(batch.image) > 2:
            raise RuntimeError(REFUSED)
        return step


def _means(folder, parts):
    torch.manual_seed(0)
    framework = OnlyMeans(tiny_builder(norm="none", dropout=0.0), 2)
    folder.mkdir()
    trainer = Trainer(framework, Batches(), replace(PLAN, parts=parts), folder)
    trainer.fit()
    return trainer


def _hungry(folder, parts=1):
    torch.manual_seed(0)
    framework = Hungry(tiny_builder(), 2)
    folder.mkdir(exist_ok=True)
    return Trainer(framework, Batches(), replace(PLAN, parts=parts), folder)


def _figures(folder):
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def test_gradients_of_means_are_those_of_the_whole_batch(tmp_path):
    whole = _means(tmp_path / "whole", 1)
    parts = _means(tmp_path / "parts", 2)
    for a, b in zip(whole.framework.parameters(), parts.framework.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert parts.framework.updates == PLAN.iterations
    ours, theirs = _figures(tmp_path / "parts"), _figures(tmp_path / "whole")
    for a, b in zip(ours, theirs, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
        assert a["loss"] == pytest.approx(a["ce"] + a["flat"], rel=1e-5)
        assert (a["rows"], a["share"], b["rows"], b["share"]) == (4, 2, 4, 4)
        assert a["micro_batches"] == 2 and "micro_batches" not in b


@pytest.mark.parametrize("truth", [False, True])
def test_micro_batches_divide_both_kinds_of_rows(truth):
    batch = random_batch(labeled=2, unlabeled=4)
    if truth:
        labels = torch.arange(6).view(6, 1, 1, 1).expand(6, *batch.label.shape[1:])
        batch = OracleBatch(batch.image, labels[:2], labels)
    first, second = micro_batches(batch, 2)
    assert torch.equal(first.image, batch.image[[0, 2, 3]])
    assert torch.equal(second.image, batch.image[[1, 4, 5]])
    assert torch.equal(second.label, batch.label[1:])
    if truth:
        assert second.truth[:, 0, 0, 0].tolist() == [1, 4, 5]
    assert [second.number(row) for row in range(3)] == [1, 4, 5]
    assert next(micro_batches(batch, 1)) is batch


def test_figures_of_parts_are_averaged_and_counts_added():
    merged = merged_figures([{"loss": 1.0, "calls": Total(2)}, {"loss": 3.0, "calls": Total(3)}])
    assert merged == {"loss": 2.0, "calls": 5.0} and isinstance(merged["calls"], Total)
    assert merged_figures([{"rare": 1.0}, {}]) == {"rare": 1.0}


@pytest.mark.parametrize("micro", [3, 8])
def test_a_micro_batch_divides_the_batch(micro):
    assert count_parts(4, None) == 1 and count_parts(4, 2) == 2
    with pytest.raises(InputError, match=f"--micro-batch must divide --batch, 4, got {micro}"):
        count_parts(4, micro)


def test_a_run_in_micro_batches_is_another_and_departs(tiny_settings, tmp_path):
    settings = changed(tiny_settings, micro_batch=2, patch=(32, 32, 32))
    result = json.loads(execute(settings, tmp_path / "run").read_text())
    assert result["training"]["micro_batches"] == 2
    assert settings.identity("d") != settings.model_copy(update={"micro_batch": None}).identity("d")
    assert "micro_batch=2" in settings.departures


def test_rows_that_do_not_divide_are_refused_before_training(tiny_settings, tmp_path):
    settings = tiny_settings.model_copy(update={"labels": 1, "micro_batch": 2})
    with pytest.raises(InputError, match="over 2 micro-batches, got 1 labeled rows"):
        execute(settings, tmp_path / "run")


def test_one_sentence_names_the_ways_out(tmp_path):
    with pytest.raises(OutOfMemory) as caught:
        _hungry(tmp_path / "run").fit()
    said = str(caught.value)
    assert "must fit into memory, got 4 rows of 6x8x4 at once" in said and REFUSED in said
    assert "--micro-batch" in said and "--patch" in said
    assert caught.value.__context__ is None


def test_the_way_that_it_names_leads_out(tmp_path):
    _hungry(tmp_path / "run", parts=2).fit()


def test_micro_batches_of_one_row_of_each_kind_cannot_be_halved(tmp_path, monkeypatch):
    def refuse(self, batch, clock):
        raise RuntimeError(REFUSED)

    monkeypatch.setattr(Hungry, "training_step", refuse)
    with pytest.raises(OutOfMemory, match="got 2 rows") as caught:
        _hungry(tmp_path / "run", parts=2).fit()
    assert "--micro-batch" not in str(caught.value) and "--patch" in str(caught.value)


@pytest.mark.parametrize(
    ("error", "yes"),
    [
        (MemoryError(), True),
        (RuntimeError(f"[enforce fail at alloc_cpu.cpp:118] err == 0. {REFUSED}"), True),
        (RuntimeError("[enforce fail] . DefaultCPUAllocator: not enough memory: you tried"), True),
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("not enough memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error, yes):
    assert is_out_of_memory(error) is yes


LIMITED = """
import dataclasses, resource, sys
from pathlib import Path
import torch
from semisam.training.accumulation import OutOfMemory
from semisam.frameworks.supervised import Supervised
from semisam.networks.vnet import VNet
from semisam.testing import random_batch
from semisam.training.trainer import TrainingPlan, Trainer

torch.set_num_threads(1)

class Batches:
    def batch(self, step):
        return random_batch(labeled=4, unlabeled=0, shape=(64, 64, 64), seed=step)

framework = Supervised(lambda **heads: VNet(1, heads, filters=8), 2)
plan = TrainingPlan(iterations=1, precision="fp32")
out, limit = Path(sys.argv[1]), int(sys.argv[2])
if not limit:  # print the most memory that half a batch takes, and the most that a whole one does
    framework.train()
    for parts in (2, 1):
        trainer = Trainer(framework, Batches(), dataclasses.replace(plan, parts=parts), out)
        trainer.step(Batches().batch(0), 0)
        lines = Path("/proc/self/status").read_text().splitlines()
        print(next(line.split()[1] for line in lines if line.startswith("VmPeak")))
    sys.exit()
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for parts in (2, 1):
    folder = out / f"{parts}"
    folder.mkdir()
    try:
        Trainer(framework, Batches(), dataclasses.replace(plan, parts=parts), folder).fit()
        print("trained")
    except OutOfMemory as error:
        print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
@pytest.mark.slow
def test_a_real_limit_on_memory(tmp_path):
    def run(limit):
        command = [sys.executable, "-c", LIMITED, str(tmp_path), str(limit)]
        # Every tensor of its own pages: a step that fails must leave no holes that the next misses.
        plain = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", timeout=300, env=os.environ | plain
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    half, whole = map(int, run(0))
    assert whole - half > 200_000, "between the two there is no room for a limit"
    trained, refused = run((half + whole) // 2 * 1024)
    assert trained == "trained"
    assert "must fit into memory, got 4 rows of 64x64x64" in refused and "--micro-batch" in refused
