"""``semisam adapt``."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from semisam.backends.synthsam import SynthSAM
from semisam.cli.main import main
from semisam.core.errors import InputError
from semisam.networks._synthsam_weights import load_weights
from semisam.run.resolve import digest

ARGS = ("--labels", "1", "--steps", "1", "--set", "phantom.size=32", "--set", "phantom.cases=3")


def _run(*args):
    return CliRunner().invoke(main, ["adapt", *args])


def test_it_writes_weights_and_their_card(tmp_path):
    file = tmp_path / "new" / "a.safetensors"
    result = _run(*ARGS, "--device", "cpu", "--out", str(file))
    assert result.exit_code == 0, result.output
    card = json.loads(file.with_suffix(".json").read_text())
    assert card["sha256"] == digest(file) and card["steps"] == 1
    assert len(card["labeled_cases"]) == 1 and card["labeled_cases"][0] in result.output
    assert SynthSAM(weights=str(file)).accepts
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 4
    file.write_bytes(damaged)
    with pytest.raises(InputError, match="another digest than in"):
        load_weights(file)


@pytest.mark.parametrize("ending", [".safetensors", ".json"])
def test_weights_and_a_card_that_are_there_stay(tmp_path, ending):
    file = tmp_path / f"a{ending}"
    file.write_text("of two scans")
    result = _run(*ARGS, "--out", str(tmp_path / "a.safetensors"))
    assert result.exit_code == 2 and f"--out must be a new file, got {file}" in result.output
    assert file.read_text() == "of two scans" and len(list(tmp_path.iterdir())) == 1


def test_a_model_that_cannot_be_adapted_is_one_sentence(tmp_path):
    result = _run(*ARGS, "--sam", "geodesic", "--out", str(tmp_path / "a.safetensors"))
    assert result.exit_code == 2 and "--sam-adapt must be 0 for geodesic" in result.output
    assert not list(tmp_path.iterdir())
