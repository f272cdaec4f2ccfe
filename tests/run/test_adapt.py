"""A run whose promptable model is adapted to its labeled scans."""

from __future__ import annotations

import json

import pytest
import torch
from tiny_runs import changed, settings_of

from semisam.core.errors import InputError, SemisamError
from semisam.core.files import read_json
from semisam.core.layout import ADAPTED, ADAPTED_NOTE, MODEL
from semisam.run.execute import execute

GIVEN = {
    **{"method": "fixmatch", "sam": "synthsam", "labels": 2, "iterations": 3, "sam_adapt": 2},
    **{"checkpoint_every": 1, "device": "cpu"},
    "dataset_options": {"cases": 6, "test_cases": 1, "size": 32},
}


@pytest.fixture(scope="module")
def settings():
    return settings_of(**GIVEN, patch=(16, 16, 16), stride=(16, 16, 16))


def _weights(folder):
    return torch.load(folder / MODEL, weights_only=True)


@pytest.fixture(scope="module")
def undisturbed(settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    execute(settings, folder)
    return folder


def test_the_cost_names_the_adaptation_and_the_model_is_not_kept(undisturbed):
    cost = json.loads((undisturbed / "result.json").read_text())["cost"]
    assert cost["sam_adapt_seconds"] > 0 and "sam_calls" in cost
    assert not (undisturbed / ADAPTED).exists() and not (undisturbed / ADAPTED_NOTE).exists()


class _Killed(SemisamError):
    pass


def _kill_after(folder, settings, phase, done):
    def progress(now, steps, total, figures):
        if (now, steps) == (phase, done):
            raise _Killed("killed")

    with pytest.raises(_Killed):
        execute(settings, folder, progress)


@pytest.mark.parametrize("phase, done", [("adapt", 1), ("train", 1)])
def test_a_killed_run_ends_in_the_same_weights(undisturbed, settings, tmp_path, phase, done):
    _kill_after(tmp_path, settings, phase, done)
    assert (tmp_path / ADAPTED).exists() == (phase == "train")
    execute(settings, tmp_path)
    first, second = _weights(undisturbed), _weights(tmp_path)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_damaged_model_is_adapted_again(settings, tmp_path):
    _kill_after(tmp_path, settings, "train", 1)
    path, note = tmp_path / ADAPTED, read_json(tmp_path / ADAPTED_NOTE)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 4
    path.write_bytes(damaged)
    seen = []
    execute(settings, tmp_path, lambda phase, *rest: seen.append(phase))
    assert "adapt" in seen and note["seconds"] > 0


def test_other_labeled_scans_and_steps_are_other_runs(settings):
    assert changed(settings, sam_adapt=0).identity("x") != settings.identity("x")
    bare = [changed(settings, sam="none", sam_adapt=n).identity("x") for n in (0, 2)]
    assert bare[0] == bare[1]


def test_a_model_that_cannot_be_adapted_is_taken_as_it_is_or_refused():
    plain = settings_of(sam="geodesic", labels=2)
    assert plain.sam_adapt == 0 and not plain.departures
    with pytest.raises(InputError, match="--sam-adapt must be 0 for geodesic"):
        settings_of(sam="geodesic", labels=2, sam_adapt=5)
    assert settings_of(protocol="classic", sam="synthsam", labels=2).sam_adapt == 0


def test_a_short_training_adapts_for_half_as_many_steps():
    short = settings_of(sam="synthsam", labels=2, iterations=100)
    assert short.sam_adapt == 50 and short.departures == ("iterations=100",)
    assert settings_of(sam="synthsam", labels=2).sam_adapt == 300
    chosen = settings_of(sam="synthsam", labels=2, iterations=100, sam_adapt=80)
    assert "sam_adapt=80" in chosen.departures


def test_a_patch_of_two_axes_adapts_to_the_slices_of_volumes(tmp_path):
    data = {"cases": 3, "test_cases": 1, "size": 32}
    given = {**GIVEN, "dataset_options": data, "patch": (16, 16), "stride": (16, 16)}
    flat = settings_of(**given, semisam_options={"several": True})
    seen = []
    execute(flat, tmp_path, lambda phase, *rest: seen.append(phase))
    assert "adapt" in seen and (tmp_path / MODEL).is_file()
