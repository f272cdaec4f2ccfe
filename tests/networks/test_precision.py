"""The precision of a pass follows what the device computes in."""

from __future__ import annotations

import pytest
import torch

from semisam.networks import precision

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


def test_a_build_without_onednn_computes_in_float32(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not precision.computes_bf16(CPU)
