"""``semisam adapt``."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scan_files import write

import semisam
from semisam.backends.synthsam import SynthSAM
from semisam.cli.main import main
from semisam.core.errors import InputError, SemisamWarning
from semisam.core.files import digest_of_path
from semisam.core.layout import ADAPTED
from semisam.networks._synthsam_weights import load_weights
from semisam.run.adapt import adapt_model
from semisam.run.execute import open_run

ARGS = ("--labels", "1", "--steps", "1", "--set", "phantom.size=32", "--set", "phantom.cases=3")


def _run(*args):
    return CliRunner().invoke(main, ["adapt", *args])


def test_it_writes_weights_and_their_card(tmp_path):
    file = tmp_path / "new" / "a.safetensors"
    result = _run(*ARGS, "--device", "cpu", "--out", str(file))
    assert result.exit_code == 0, result.output
    card = json.loads(file.with_suffix(".json").read_text())
    assert card["sha256"] == digest_of_path(file) and card["steps"] == 1
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
    assert (
        result.exit_code == 2
        and "--sam must be a backend that can be adapted, got geodesic" in result.output
    )
    assert not list(tmp_path.iterdir())


def _folder(path, classes):
    """Write two labeled scans and one without a label; the last class is two components."""
    at = np.indices((24, 24, 24))
    middles = [(6, 6, 6), (6, 18, 18), (18, 12, 12)][-classes - 1 :]
    label = np.zeros((24, 24, 24), np.uint8)
    for number, middle in zip((1, 2, 2) if classes == 2 else (1, 1), middles, strict=True):
        label[np.abs(at - np.reshape(middle, (3, 1, 1, 1))).max(0) < 4] = number
    for seed, name in enumerate("abc"):
        noise = np.random.default_rng(seed).normal(0, 0.1, label.shape)
        write(path / f"{name}.nii.gz", (label + noise).astype(np.float32))
        if name != "c":
            write(path / f"{name}_label.nii.gz", label)
    (path / "classes.list").write_text("\n".join(("one", "two")[:classes]))
    return ("--data", str(path), "--test", "none", "--labels", "2", "--steps", "2")


def test_it_leaves_out_the_classes_that_a_run_leaves_out(tmp_path):
    """The weights are those that a run with these settings adapts."""
    args = (*_folder(tmp_path / "scans", 2), "--device", "cpu", "--seed", "3")
    files = [tmp_path / f"{name}.safetensors" for name in ("one", "every")]
    with pytest.warns(SemisamWarning, match="leaves out two: several components"):
        assert _run(*args, "--out", str(files[0])).exit_code == 0
    assert _run(*args, "--set", "semisam.several=true", "--out", str(files[1])).exit_code == 0
    cards = [json.loads(file.with_suffix(".json").read_text()) for file in files]
    assert [card["left_out"] for card in cards] == [["two"], []]
    settings = semisam.settings(
        method="fixmatch", data=tmp_path / "scans", test="none", labels=2, sam="synthsam",
        sam_adapt=2, seed=3, device="cpu", iterations=1,
    )  # fmt: skip
    with pytest.warns(SemisamWarning, match="leaves out two"):
        ready = open_run(settings, lambda *about: None)
    adapt_model(settings, SynthSAM(), ready.store, tmp_path, lambda done: None, ready.card.left_out)
    of_run = load_weights(tmp_path / ADAPTED)
    one, every = (load_weights(file) for file in files)
    assert all(torch.equal(value, one[name]) for name, value in of_run.items())
    assert any(not torch.equal(value, every[name]) for name, value in of_run.items())


def test_classes_of_several_components_are_no_target(tmp_path):
    args = _folder(tmp_path / "scans", 1)
    with pytest.warns(SemisamWarning, match="several components"):
        result = _run(*args, "--device", "cpu", "--out", str(tmp_path / "a.safetensors"))
    assert result.exit_code == 2 and "one component in each labeled mask, got none" in result.output
