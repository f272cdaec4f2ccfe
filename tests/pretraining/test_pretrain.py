import json
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from semisam.cli.main import main
from semisam.core.errors import InputError
from semisam.networks._synthsam import SynthSAMNet
from semisam.networks._synthsam_weights import load_weights, save_weights
from semisam.pretraining.generator import draw_volume
from semisam.pretraining.pretrain import Pretraining, PretrainSettings, draw_batch, visible_edges
from semisam.training.checkpoint import load_checkpoint, save_checkpoint

SMALL = ("--shape", "16x16x16", "--validation", "1", "--device", "cpu", "--checkpoint-every", "1")


def pretrain(*args):
    return CliRunner().invoke(main, ["pretrain", "synthsam", *args])


@pytest.mark.parametrize("shape", [(16, 16, 16), (32, 16)], ids=["volumes", "pictures"])
def test_trains_resumes_and_ends_in_the_same_weights(tmp_path, shape):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    size = "x".join(map(str, shape))
    small = (*SMALL, "--axes", str(len(shape)), "--shape", size)
    done = pretrain("--steps", "4", "--cooldown", "0.5", "--out", str(whole), *small)
    assert done.exit_code == 0, done.output
    assert "Written" in done.output and "Dice" in done.output

    # Stopped, as by Ctrl-C, after two of four steps.
    settings = PretrainSettings(
        axes=len(shape), steps=4, cooldown=0.5, shape=shape, validation=1, checkpoint_every=1
    )
    parts.mkdir()
    from semisam.training.trainer import Interrupted

    seen = []
    with pytest.raises(Interrupted):
        training = Pretraining(settings, parts, torch.device("cpu"))
        training.run(lambda step, figures: seen.append(step), lambda: len(seen) == 2)
    (parts / "pretrain.jsonl").open("a").write('{"step": 2, "lo')  # and a line cut short
    done = pretrain("--steps", "4", "--cooldown", "0.5", "--out", str(parts), *small)
    assert done.exit_code == 0, done.output

    first, second = (load_file(folder / "synthsam.safetensors") for folder in (whole, parts))
    assert first.keys() == second.keys() == SynthSAMNet(len(shape)).state_dict().keys()
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert {v.dtype for v in first.values()} == {torch.float16}
    log = [json.loads(line) for line in (parts / "pretrain.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [0, 1, 2, 3]
    assert "dice_10" in log[-1]

    again = pretrain("--steps", "4", "--seed", "1", "--out", str(parts), *small)
    assert again.exit_code == 2
    assert "seed must be 0" in again.output and "got 1" in again.output

    other = tmp_path / "other"
    weights = str(whole / "synthsam.safetensors")
    done = pretrain("--steps", "1", "--seed", "9", "--init", weights, "--out", str(other), *small)
    assert done.exit_code == 0, done.output
    third = load_file(other / "synthsam.safetensors")
    moved = max(float((third[k].float() - first[k].float()).abs().max()) for k in first)
    assert 0 < moved < 0.01, "one step from the given weights"


def test_checkpoints_of_earlier_versions_have_these_keys(tmp_path):
    settings = PretrainSettings(steps=1, shape=(16, 16, 16), validation=1)
    Pretraining(settings, tmp_path, torch.device("cpu")).run(lambda *_: None)
    state = load_checkpoint(tmp_path)
    assert state.keys() == {"plan", "step", "seconds", "net", "edges", "average", "optimizer"}
    assert state["plan"]["steps"] == 1


def test_a_large_batch_has_a_user_for_every_volume(tmp_path):
    done = pretrain("--steps", "1", "--batch", "17", "--out", str(tmp_path), *SMALL)
    assert done.exit_code == 0, done.output
    settings = PretrainSettings(batch=17, shape=(16, 16, 16))
    last, first = draw_batch(settings, 0)[-1], draw_batch(settings, 1)[0]
    assert not torch.equal(last.image, first.image)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--shape", "17x16x16"), "3 even numbers of at least 16, got 17x16x16"),
        (("--shape", "16x16"), "3 even numbers"),
        (("--axes", "2", "--shape", "16x16x16"), "2 even numbers"),
        (("--init", "missing.safetensors"), "got missing.safetensors, which is no file"),
        (("--device", "abacus"), "one that torch can use here, got abacus"),
        (("--steps", "0"), "0 is not in the range"),
    ],
)
def test_refuses_in_one_sentence(tmp_path, args, says):
    done = pretrain("--out", str(tmp_path), *args)
    assert done.exit_code == 2
    assert says in done.output
    assert "Traceback" not in done.output


def test_the_learning_rate_rises_stays_and_falls():
    settings = PretrainSettings(steps=1000, lr=1.0, warmup=100, cooldown=0.2)
    assert settings.rate(0) == pytest.approx(0.01)
    assert settings.rate(99) == settings.rate(500) == settings.rate(800) == 1
    assert 1 > settings.rate(801) > settings.rate(900) > settings.rate(999) > 0


@pytest.fixture(scope="module")
def good():
    return SynthSAMNet().state_dict()


def test_weights_there_and_back(tmp_path, good):
    path = tmp_path / "w.safetensors"
    save_weights(path, good, {"steps": "1"})
    found = load_weights(path)
    assert found.keys() == good.keys()
    assert all(torch.equal(found[k], good[k].half().float()) for k in good)


def test_weights_without_the_sharpening_part_are_read(tmp_path, good):
    path = tmp_path / "w.safetensors"
    old = {k: v for k, v in good.items() if not k.startswith("sharpen.")}
    save_weights(path, old, {})
    found = load_weights(path)
    assert found.keys() == good.keys()
    assert not found["sharpen.2.weight"].any() and bool(found["sharpen.0.weight"].any())


def test_only_what_looks_unlike_has_an_edge():
    looks = torch.zeros(4, 4, 4)
    assert not visible_edges(looks).any()
    looks[2:] = 3
    edges = visible_edges(looks)
    assert bool(edges[1:3].all()) and not edges[[0, 3]].any()


def test_the_shares_of_volumes_are_the_plans():
    shape = (32, 32, 32)
    plain, hard, off_edge = (
        draw_batch(PretrainSettings(shape=shape, hard=hard, off_edge=off_edge), 0)[0]
        for hard, off_edge in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0))
    )
    assert torch.equal(plain.image, draw_volume(0, 0, shape).image)
    assert torch.equal(hard.image, draw_volume(0, 0, shape, hard=True).image)
    assert torch.equal(off_edge.target, draw_volume(0, 0, shape, off_edge=True).target)
    assert not torch.equal(off_edge.target, plain.target)


def spoil(name, path, good):
    changed = dict(good)
    if name == "empty":
        path.write_bytes(b"")
        return
    if name == "noise":
        path.write_bytes(bytes(range(256)) * 9)
        return
    if name == "pickle":
        torch.save(good, path)
        return
    if name == "shape":
        changed["stem.weight"] = torch.zeros(3)
    if name == "missing":
        del changed["stem.weight"]
    if name == "nan":
        changed["stem.weight"] = changed["stem.weight"] * float("nan")
    save_weights(path, changed, {})
    if name == "cut":
        path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("name", ["empty", "noise", "pickle", "shape", "missing", "nan", "cut"])
def test_hostile_weights_are_refused(tmp_path, good, name):
    path = tmp_path / "w.safetensors"
    spoil(name, path, good)
    with pytest.raises(InputError, match="weights must be"):
        load_weights(path)


def test_a_folder_is_no_file_of_weights(tmp_path):
    with pytest.raises(InputError, match="which is no file"):
        load_weights(tmp_path)


def test_a_training_of_before_labels_off_the_edge_is_not_continued_with_them(tmp_path):
    settings = PretrainSettings(steps=2, shape=(16, 16, 16), validation=1, off_edge=0.0)
    training = Pretraining(settings, tmp_path, torch.device("cpu"))
    training.save()
    state = load_checkpoint(tmp_path)
    del state["plan"]["off_edge"]
    save_checkpoint(tmp_path, state)
    assert Pretraining(settings, tmp_path, torch.device("cpu")).step == 0
    others = replace(settings, off_edge=0.4)
    with pytest.raises(InputError, match=r"off_edge must be 0\.0, .* got 0\.4"):
        Pretraining(others, tmp_path, torch.device("cpu"))
