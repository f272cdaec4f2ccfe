"""Checkpoints and models that were damaged are found, and a log that was cut is named."""

import json
import pickle
import warnings

import numpy as np
import pytest
import torch

from semisam.core.errors import InputError, SemisamWarning
from semisam.training.checkpoint import (
    TrainLog,
    kept_lines,
    load_checkpoint,
    load_tensors,
    save_checkpoint,
    save_tensors,
)

STATE = {"step": 7, "weights": torch.arange(600.0).reshape(20, 30), "name": "x"}


def test_a_file_is_read_back_also_by_torch(tmp_path):
    save_tensors(STATE, tmp_path / "a.pt")
    for state in (load_tensors(tmp_path / "a.pt"), torch.load(tmp_path / "a.pt")):
        assert state["step"] == 7 and torch.equal(state["weights"], STATE["weights"])


def test_equal_tensors_are_equal_files(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        save_tensors(STATE, tmp_path / name / "x.pt")
    first, second = ((tmp_path / name / "x.pt").read_bytes() for name in "ab")
    assert first == second


def test_every_flipped_bit_is_found(tmp_path):
    path = tmp_path / "a.pt"
    save_tensors(STATE, path)
    whole = path.read_bytes()
    places = np.random.default_rng(0).integers(0, len(whole), 150)
    for place in [*places, 0, len(whole) - 1, len(whole) - 64, len(whole) - 65, len(whole) - 80]:
        raw = bytearray(whole)
        raw[place] ^= 1 << int(place) % 8
        path.write_bytes(raw)
        with pytest.raises(InputError, match="got a damaged one"):
            load_tensors(path)


@pytest.mark.parametrize("keep", [0, 10, 70, 500, -1])
def test_a_cut_file_is_found(tmp_path, keep):
    save_tensors(STATE, tmp_path / "a.pt")
    (tmp_path / "a.pt").write_bytes((tmp_path / "a.pt").read_bytes()[:keep])
    with pytest.raises(InputError, match="damaged"):
        load_tensors(tmp_path / "a.pt")


def test_a_pickle_is_not_opened(tmp_path):
    class Bad:
        def __reduce__(self):
            return (open, (str(tmp_path / "made"), "w"))

    (tmp_path / "a.pt").write_bytes(pickle.dumps(Bad()))
    with pytest.raises(InputError, match="damaged"):
        load_tensors(tmp_path / "a.pt")
    torch.save(Bad(), tmp_path / "b.pt")
    with pytest.raises(InputError, match="damaged"):
        load_tensors(tmp_path / "b.pt")
    assert not (tmp_path / "made").exists()


def test_damage_falls_back_to_the_checkpoint_before(tmp_path):
    save_checkpoint(tmp_path, STATE)
    save_checkpoint(tmp_path, {**STATE, "step": 8})
    raw = bytearray((tmp_path / "checkpoint.pt").read_bytes())
    raw[len(raw) // 2] ^= 4
    (tmp_path / "checkpoint.pt").write_bytes(raw)
    with pytest.warns(SemisamWarning, match="previous one, after 7 iterations"):
        assert load_checkpoint(tmp_path)["step"] == 7
    (tmp_path / "checkpoint.previous.pt").write_bytes(raw)
    with pytest.raises(InputError, match="a checkpoint must be readable"):
        load_checkpoint(tmp_path)


def log(path, steps):
    path.write_text("".join(json.dumps({"step": n, "loss": n / 2}) + "\n" for n in steps))
    return path


def test_lines_are_known_by_their_step(tmp_path):
    path = log(tmp_path / "train.jsonl", [0, 2, 1, 1, 3, 4, 5])
    with path.open("a") as file:
        file.write('{"step": 6, "lo')
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [json.loads(line)["step"] for line in kept_lines(path, 5)] == [0, 1, 2, 3, 4]
        assert kept_lines(tmp_path / "none.jsonl", 0) == []


@pytest.mark.parametrize("damage", [b"\xff\xfe\n", b"[" * 100000 + b"\n", b"7\n", b"null\n\n"])
def test_a_line_that_cannot_be_read_stops_nothing(tmp_path, damage):
    path = log(tmp_path / "train.jsonl", range(4))
    path.write_bytes(damage + path.read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with TrainLog(tmp_path, 4) as resumed:
            resumed.write(4, {"loss": 1.0})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [*range(5)]


def test_a_log_that_was_lost_or_cut_is_named(tmp_path):
    log(tmp_path / "train.jsonl", [0, 1, 4])
    with pytest.warns(SemisamWarning, match="each of the 5 iterations so far, got 3"):
        assert len(kept_lines(tmp_path / "train.jsonl", 5)) == 3
    (tmp_path / "lost").mkdir()
    with pytest.warns(SemisamWarning, match="got 0"), TrainLog(tmp_path / "lost", 5):
        pass
