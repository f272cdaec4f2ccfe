"""On a GPU: the same losses and answers as on the CPU, and runs that end, resume and refuse."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_runs import changed

from semisam.backends.geodesic import Geodesic
from semisam.backends.synthsam import SynthSAM
from semisam.core.types import Prompt
from semisam.frameworks.semisam import SemiSAM
from semisam.inference.sliding_window import sliding_window
from semisam.networks.vnet import VNet
from semisam.plugins import registry
from semisam.pretraining.pretrain import Pretraining, PretrainSettings
from semisam.prompters.uncertainty_points import UncertaintyPoints
from semisam.run.execute import execute
from semisam.testing import random_batch
from semisam.training.trainer import Interrupted, Trainer, TrainingPlan

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

SHAPE = (32, 32, 16)
METHODS = sorted(
    name for name in registry.list_plugins("framework") if registry.load("framework", name).trains
)


@pytest.fixture(autouse=True)
def _full_precision(monkeypatch):
    """Keep TF32, of ten bits, out of what is compared."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def _framework(name):
    torch.manual_seed(0)
    # Dropout draws other numbers on a GPU.
    build = lambda **heads: VNet(1, heads, filters=4, dropout=0.0)  # noqa: E731
    return registry.load("framework", name)(build, 2)


def _losses(framework, device, folder, steps=3, **options):
    plan = TrainingPlan(iterations=10, device=device, precision="fp32", **options)
    folder.mkdir(exist_ok=True)
    trainer = Trainer(framework, None, plan, folder)
    trainer.framework.train()
    return [trainer.step(random_batch(shape=SHAPE, seed=step), step) for step in range(steps)]


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_steps_are_those_of_the_cpu(tmp_path, name):
    on_cpu, on_gpu = (
        _losses(_framework(name), device, tmp_path / device) for device in ("cpu", "cuda")
    )
    assert on_cpu[0].keys() == on_gpu[0].keys()
    # Noise that a method adds is drawn on the device: only what is without noise agrees closely.
    for key in ("ce", "dice"):
        if key in on_cpu[0]:
            assert on_gpu[0][key] == pytest.approx(on_cpu[0][key], rel=1e-4)
    for one, other in zip(on_cpu, on_gpu, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=0.05)


@pytest.mark.parametrize("backend", [SynthSAM, Geodesic])
def test_the_branch_asks_on_a_gpu(tmp_path, backend):
    branch = SemiSAM(_framework("mt"), backend(), UncertaintyPoints(max_uncertainty=1.0))
    figures = _losses(branch, "cuda", tmp_path / "run")
    assert all(step["sam_queried"] == 2 for step in figures)
    assert all(parameter.is_cuda for parameter in branch.parameters())


@pytest.mark.parametrize("name", ["copied-mask", "center-ball"])
def test_a_method_that_trains_nothing_ends(tmp_path, name, tiny_settings):
    given = {"method": name, "method_options": {}, "sam": "synthsam", "device": "cuda"}
    execute(changed(tiny_settings, **given), tmp_path / "run")


def _answers(make):
    """Return what one model says on the CPU, and what another of its kind says on the GPU."""
    image = random_batch(shape=SHAPE).image[0]
    mask = torch.zeros(SHAPE)
    mask[8:20, 8:20, 4:12] = 1
    answers = []
    for device in ("cpu", "cuda"):
        model = make()
        told = {"box": torch.tensor([[8, 8, 4], [20, 20, 12]]), "mask": mask}
        prompt = Prompt(
            points=torch.tensor([[14, 14, 8], [2, 3, 1]], device=device),
            labels=torch.tensor([1, 0], device=device),
            **{kind: value.to(device) for kind, value in told.items() if kind in model.accepts},
        )
        answer = model.segment(model.encode(image.to(device)), prompt)
        assert answer.device.type == device
        answers.append(answer.cpu())
    return answers


@pytest.mark.parametrize("backend", [SynthSAM, Geodesic])
def test_a_backends_answer_is_that_of_the_cpu(backend):
    one, other = _answers(backend)
    # synthsam computes in bfloat16 on a GPU.
    assert ((one > 0) == (other > 0)).float().mean() > 0.99
    assert (one - other).abs().mean() < 0.1


def test_sam_med3d_answers_as_on_the_cpu(tmp_path):
    sys.path.insert(0, str(Path(__file__).parent / "backends"))
    from test_sam_med3d import saved, tiny_net

    from semisam.backends.sam_med3d import SamMed3D

    path = str(saved(tmp_path, tiny_net()))
    one, other = _answers(lambda: SamMed3D(checkpoint=path, precision="fp32"))
    torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["sam", "sam2"])
def test_two_dimensional_models_answer_as_on_the_cpu(sam_checkpoints, name):
    make = registry.load("backend", name)
    one, other = _answers(lambda: make(checkpoint=sam_checkpoints[name]))
    assert ((one > 0) == (other > 0)).float().mean() > 0.98


def test_a_whole_volume_is_segmented_as_on_the_cpu():
    framework = _framework("mt").eval()
    image = random_batch(shape=(40, 36, 20)).image[0]
    sides = []
    for device in ("cpu", "cuda"):
        framework.to(device)
        found = sliding_window(framework, image.to(device), SHAPE, (16, 16, 8), window_batch=3)
        assert found.device.type == device
        sides.append(found.cpu())
    torch.testing.assert_close(sides[1], sides[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("sam", ["none", "synthsam"])
def test_a_run_ends_and_counts_the_gpus_memory(tiny_settings, tmp_path, precision, sam):
    settings = changed(tiny_settings, device="cuda", precision=precision, sam=sam)
    result = json.loads(execute(settings, tmp_path / "run").read_text())
    assert 0 <= result["metrics"]["dice"] <= 1
    assert result["cost"]["peak_gpu_memory_gib"] > 0


def test_an_interrupted_run_goes_on(tiny_settings, tmp_path):
    settings = changed(tiny_settings, device="cuda", sam="synthsam")

    def interrupt(phase, done, total, figures):
        if phase == "train" and done == 2:
            raise Interrupted(done)

    whole = execute(settings, tmp_path / "whole")
    with pytest.raises(Interrupted):
        execute(settings, tmp_path / "parts", interrupt)
    parts = execute(settings, tmp_path / "parts")
    one, other = (torch.load(p.parent / "model.pt", weights_only=True) for p in (whole, parts))
    assert not any(value.is_cuda for value in one.values()), "a model opens without a GPU"
    # Sums on a GPU come in any order; nothing else may differ.
    for key, value in one.items():
        torch.testing.assert_close(other[key], value, rtol=1e-2, atol=1e-3)


def test_synthsam_is_trained_on_a_gpu_and_resumes(tmp_path):
    settings = PretrainSettings(
        steps=4, cooldown=0.5, shape=(16, 16, 16), validation=1, checkpoint_every=2
    )
    device, seen = torch.device("cuda"), []
    with pytest.raises(Interrupted):
        Pretraining(settings, tmp_path, device).run(
            lambda *_: seen.append(1), lambda: len(seen) == 2
        )
    weights = Pretraining(settings, tmp_path, device).run(lambda *_: seen.append(1))
    assert len(seen) == 4
    assert all(torch.isfinite(value).all() for value in weights.values())


_STARVED = """
import sys, torch
torch.cuda.set_per_process_memory_fraction(float(sys.argv.pop(1)))
from semisam.cli.main import run
run()
"""


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "semisam")


def _train(tmp_path, *options, start=("-m", "semisam")):
    command = [
        *(sys.executable, *start, "train", "--method", "mt", "--labels", "2"),
        *("--iterations", "3", "--out", str(tmp_path / "out"), *options),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_a_full_gpu_is_one_sentence(tmp_path):
    free = 3e8 / torch.cuda.get_device_properties(0).total_memory
    (tmp_path / "starved.py").write_text(_STARVED)
    start = (str(tmp_path / "starved.py"), f"{free:.6f}")
    done = _train(tmp_path, "--device", "cuda", "--patch", "96x96x96", start=start)
    assert done.returncode != 0
    assert "must fit into memory" in done.stderr and "--micro-batch" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_gpu_that_is_not_there_is_refused(tmp_path):
    done = _train(tmp_path, "--device", "cuda:7")
    assert done.returncode == 2
    assert "--device must be one that torch can use here, got cuda:7" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(torch.cuda.device_count() > 1, reason="there is a GPU for each process")
def test_more_processes_than_gpus_are_refused(tmp_path):
    done = _train(tmp_path, "--device", "cuda", start=TORCHRUN)
    assert done.returncode != 0
    assert "cuda:1" in done.stderr


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_train_one_model(tmp_path):
    done = _train(tmp_path, "--device", "cuda", start=TORCHRUN)
    assert done.returncode == 0, done.stderr
