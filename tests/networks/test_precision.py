"""The precision of a pass follows what the device computes in."""

from __future__ import annotations

import pytest
import torch

from semisam.backends.synthsam import SynthSAM
from semisam.core.framework import Framework
from semisam.core.types import Clock
from semisam.frameworks.fixmatch import FixMatch
from semisam.frameworks.semisam import SemiSAM
from semisam.networks import precision
from semisam.prompters.center_points import CenterPoints
from semisam.testing import random_batch, tiny_builder

CPU = torch.device("cpu")


def _dtype(context):
    with context:
        return torch.nn.Conv3d(1, 1, 1)(torch.ones(1, 1, 2, 2, 2)).dtype


@pytest.mark.parametrize(
    ("computes", "name", "dtype"),
    [
        (True, "bf16", torch.bfloat16),
        (False, "bf16", torch.float32),
        (True, "fp32", torch.float32),
        (False, "fp32", torch.float32),
    ],
)
def test_bf16_is_float32_where_it_would_be_emulated(monkeypatch, computes, name, dtype):
    monkeypatch.setattr(precision, "computes_bf16", lambda device: computes)
    assert _dtype(precision.autocast(CPU, name)) == dtype


@pytest.mark.parametrize(("computes", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_context_of_bfloat16_replaces_the_one_around_it(monkeypatch, computes, dtype):
    monkeypatch.setattr(precision, "computes_bf16", lambda device: computes)
    with torch.autocast("cpu", torch.bfloat16):
        assert _dtype(precision.in_bf16(CPU)) == dtype


@pytest.mark.parametrize(
    ("machine", "onednn", "avx512", "amx", "computes"),
    [
        ("x86_64", True, False, False, False),  # AVX-512, which emulates it
        ("x86_64", True, True, False, True),
        ("AMD64", True, False, True, True),
        ("aarch64", True, False, False, True),
        ("x86_64", False, False, False, False),  # AVX2
        ("arm64", False, False, False, False),
    ],
)
def test_a_cpu_that_emulates_bfloat16_does_not_compute_in_it(
    monkeypatch, machine, onednn, avx512, amx, computes
):
    monkeypatch.setattr(precision.platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert precision.computes_bf16(CPU) == computes


@pytest.mark.parametrize("method", [{"ema_decay": 0.0}, {"ema_decay": 0.9}])
@pytest.mark.parametrize("role", [None, "target", "loss"])
def test_every_weight_is_trained_after_a_pass_without_gradients(monkeypatch, method, role):
    """Autocast's cache must not hand on weights that were cast without gradients."""
    monkeypatch.setattr(precision, "computes_bf16", lambda device: True)
    framework: Framework = FixMatch(tiny_builder(), 2, **method)
    trained = {name: p for name, p in framework.named_parameters() if p.requires_grad}
    if role is not None:
        backend = SynthSAM(flips=False)
        framework = SemiSAM(framework, backend, CenterPoints(), role=role, weight=0.5, gated=True)
    with precision.autocast(CPU, "bf16"):
        step = framework.training_step(random_batch(2, shape=(16, 16, 16)), Clock(90, 100))
        sum(step.losses.values()).backward()
    assert trained and not [name for name, p in trained.items() if p.grad is None]


@pytest.mark.parametrize("version", ["2.5.1+cu121", "2.11.0"])
def test_older_versions_of_torch_cast_weights_anew(monkeypatch, version):
    monkeypatch.setattr(precision, "computes_bf16", lambda device: True)
    monkeypatch.setattr(precision.torch, "__version__", version)
    with precision.autocast(CPU, "bf16"):
        assert torch.is_autocast_cache_enabled() is (version == "2.11.0")


def test_a_build_without_onednn_computes_in_float32(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not precision.computes_bf16(CPU)
