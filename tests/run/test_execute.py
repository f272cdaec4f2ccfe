"""A whole run: what it writes, what it may read, and that it is done once."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from tiny_runs import changed, settings_of, tiny_phantoms

from semisam.core.errors import InputError, InUse, SemisamError, SemisamWarning
from semisam.core.layout import ADAPTED, CARD, CHECKPOINT, MODEL
from semisam.data.datasets.phantom import Phantom
from semisam.inference.card import read_card, write_card
from semisam.run.execute import execute
from semisam.run.model import load_run
from semisam.run.settings import RunSettings
from semisam.training.checkpoint import load_tensors, save_tensors
from semisam.training.trainer import Interrupted, TimeOver


def _model(folder):
    return torch.load(folder / "model.pt", weights_only=True)


def _scores(folder):
    with (folder / "cases.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def _same_result(one, other):
    first, second = _model(one), _model(other)
    weights = all(torch.equal(first[k], second[k]) for k in first)
    return weights and _scores(one) == _scores(other)


def _with_sam(settings, **changes):
    given = {
        "sam": "geodesic",
        "prompter_options": {"max_uncertainty": 1.0},
        "semisam_options": {"weight": 1.0},
    }
    return changed(settings, **{**given, **changes})


def _stop(phase, done, total, figures):
    if phase == "train" and done == 2:
        raise Interrupted(done)


def _unlabeled(data):
    return (data / "train.list").read_text().split()[2:]


def test_a_run_writes_its_result_and_is_not_run_again(tiny_settings, tmp_path):
    folder = tmp_path / "run"
    path = execute(tiny_settings, folder)
    result = json.loads(path.read_text())
    assert result["data"]["labeled"] == 2 and result["data"]["unlabeled"] == 2
    assert 0 <= result["metrics"]["dice"] <= 1
    assert result["versions"]["torch"] == torch.__version__
    assert RunSettings.model_validate_json(json.dumps(result["settings"])) == tiny_settings
    assert not (folder / CHECKPOINT).exists()
    assert [row["case"] for row in _scores(folder)] == ["test_000", "test_001"]
    before = path.stat().st_mtime_ns
    (folder / CHECKPOINT).touch()  # as if the process had been killed before it removed it
    assert execute(tiny_settings, folder) == path
    assert path.stat().st_mtime_ns == before
    assert not (folder / CHECKPOINT).exists()
    path.write_text("{}")
    with pytest.raises(InputError, match="Delete that file and give the same command again"):
        execute(tiny_settings, folder)


@pytest.mark.parametrize("sam", [False, True], ids=["bare", "with SAM"])
@pytest.mark.parametrize("poison", ["missing", "values", "shape"])
def test_labels_of_unlabeled_cases_change_not_one_bit(tiny_settings, tmp_path, poison, sam):
    settings = _with_sam(tiny_settings) if sam else tiny_settings
    clean, poisoned = tmp_path / "clean", tmp_path / "poisoned"
    first = json.loads(execute(settings, clean).read_text())
    for case in _unlabeled(tmp_path / "la"):
        with h5py.File(tmp_path / "la" / case / "mri_norm2.h5", "a") as file:
            shape = file["label"].shape
            del file["label"]
            if poison == "values":
                file["label"] = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
            elif poison == "shape":
                file["label"] = np.ones((3, 3, 3), np.uint8)
    second = json.loads(execute(settings, poisoned).read_text())
    assert _same_result(clean, poisoned)
    assert first["data"]["hash"] == second["data"]["hash"]
    assert first["run"] == second["run"]


@pytest.mark.parametrize("several", [False, True])
def test_a_class_of_several_components_is_not_asked_for(tiny_settings, tmp_path, several):
    for case in (tmp_path / "la" / "train.list").read_text().split()[:2]:
        with h5py.File(tmp_path / "la" / case / "mri_norm2.h5", "a") as file:
            file["label"][...] = 0
            file["label"][2:6, 2:6, 2:6] = file["label"][10:14, 10:14, 10:14] = 1
    settings = _with_sam(tiny_settings, semisam_options={"weight": 1.0, "several": several})
    execute(tiny_settings, tmp_path / "bare")
    if several:
        execute(settings, tmp_path / "wrapped")
    else:
        with pytest.warns(SemisamWarning, match="leaves out left atrium: several components"):
            execute(settings, tmp_path / "wrapped")
    assert _same_result(tmp_path / "bare", tmp_path / "wrapped") is not several


def test_first_masks_keep_the_components_of_such_a_class(tiny_settings, tmp_path):
    """A prompt marks one of them, and the others would be lost from the copied mask."""
    for case in (tmp_path / "la" / "train.list").read_text().split()[:2]:
        with h5py.File(tmp_path / "la" / case / "mri_norm2.h5", "a") as file:
            file["label"][...] = 0
            file["label"][2:6, 2:6, 2:6] = file["label"][10:14, 10:14, 10:14] = 1
    copied = changed(tiny_settings, method="copied-mask", method_options={})
    given = {"sam": "synthsam", "sam_adapt": 1, "prompter": "center-points", "prompter_options": {}}
    given["semisam_options"] = {"weight": 1.0, "several": False}
    with pytest.warns(SemisamWarning, match="leaves out left atrium: several components"):
        execute(changed(copied, **given), tmp_path / "prompted")
    execute(copied, tmp_path / "copied")
    assert _same_result(tmp_path / "copied", tmp_path / "prompted")
    # No class is left to adapt the model to. Opened again, the run predicts as it was scored.
    assert not (tmp_path / "prompted" / ADAPTED).exists()
    image = torch.rand(1, 1, 16, 16, 16)
    bare, opened = (load_run(tmp_path / name)[1](image) for name in ("copied", "prompted"))
    assert torch.equal(bare, opened)


def test_labels_of_labeled_cases_do_change_the_result(tiny_settings, tmp_path):
    """The test above can fail: what it compares does depend on labels that are read."""
    execute(tiny_settings, tmp_path / "clean")
    case = (tmp_path / "la" / "train.list").read_text().split()[0]
    with h5py.File(tmp_path / "la" / case / "mri_norm2.h5", "a") as file:
        file["label"][...] = np.roll(file["label"][...], 5, axis=0)
    execute(tiny_settings, tmp_path / "changed")
    assert not _same_result(tmp_path / "clean", tmp_path / "changed")


def test_labels_of_test_cases_are_part_of_the_identity(tiny_settings, tmp_path):
    """Scores against other labels are of another run, though the weights are the same."""
    first = json.loads(execute(tiny_settings, tmp_path / "one").read_text())
    with h5py.File(tmp_path / "la" / "test_001" / "mri_norm2.h5", "a") as file:
        file["label"][0, 0, 0] = 1 - file["label"][0, 0, 0]
    with pytest.raises(InputError, match="the scans must be those that the run began with"):
        execute(tiny_settings, tmp_path / "one")
    second = json.loads(execute(tiny_settings, tmp_path / "other").read_text())
    assert first["run"] != second["run"]
    assert first["data"]["hash"] != second["data"]["hash"]


def test_exchanged_training_and_test_cases_are_another_run(tiny_settings, tmp_path):
    """The files that are read, and their hashes, are the same."""
    first = json.loads(execute(tiny_settings, tmp_path / "one").read_text())
    lists = [tmp_path / "la" / name for name in ("train.list", "test.list")]
    train, test = (path.read_text().split() for path in lists)
    train[0], test[0] = test[0], train[0]
    for path, cases in zip(lists, (train, test), strict=True):
        path.write_text("\n".join(cases))
    second = json.loads(execute(tiny_settings, tmp_path / "other").read_text())
    assert first["data"]["hash"] == second["data"]["hash"]
    assert first["run"] != second["run"]


def test_a_validation_reads_no_test_label_and_is_in_the_result(tiny_settings, tmp_path):
    settings = changed(tiny_settings, validate_every=2, keep="best", iterations=3)
    result = json.loads(execute(settings, tmp_path / "one").read_text())
    found = result["validation"]
    assert len(found["cases"]) == len(result["data"]["labeled_cases"]) == 1
    assert result["data"]["labeled"] == 2
    assert found["cases"] != result["data"]["labeled_cases"]
    assert found["last_iteration"] == 3 and found["best_iteration"] in (2, 3)
    assert 0 <= found["last_dice"] <= found["best_dice"] <= 1
    with h5py.File(tmp_path / "la" / "test_001" / "mri_norm2.h5", "a") as file:
        file["label"][...] = 1 - file["label"][...]
    other = json.loads(execute(settings, tmp_path / "two").read_text())
    assert other["validation"] == found
    first, second = _model(tmp_path / "one"), _model(tmp_path / "two")
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_the_case_that_validates_does_not_train(tiny_settings, tmp_path):
    settings = changed(tiny_settings, validate_every=2, norm_batches=0)
    found = json.loads(execute(settings, tmp_path / "one").read_text())["validation"]
    with h5py.File(tmp_path / "la" / found["cases"][0] / "mri_norm2.h5", "a") as file:
        file["image"][...] = file["image"][...] + 1.0
    execute(settings, tmp_path / "two")
    first, second = _model(tmp_path / "one"), _model(tmp_path / "two")
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_a_run_out_of_time_has_no_result_and_resumes(tiny_settings, tmp_path):
    execute(tiny_settings, tmp_path / "whole")
    for _ in range(3):
        with pytest.raises(TimeOver):
            execute(tiny_settings, tmp_path / "stopped", max_seconds=0.0)
        assert not (tmp_path / "stopped" / "result.json").exists()
    execute(tiny_settings, tmp_path / "stopped", max_seconds=0.0)
    assert _same_result(tmp_path / "whole", tmp_path / "stopped")


def test_sam_changes_the_result_and_weight_zero_does_not(tiny_settings, tmp_path):
    execute(tiny_settings, tmp_path / "bare")
    execute(_with_sam(tiny_settings), tmp_path / "sam")
    execute(_with_sam(tiny_settings, semisam_options={"weight": 0.0}), tmp_path / "zero")
    assert _same_result(tmp_path / "bare", tmp_path / "zero")
    assert not _same_result(tmp_path / "bare", tmp_path / "sam")
    log = [json.loads(line) for line in (tmp_path / "sam" / "train.jsonl").open()]
    assert all(line["sam_queried"] + line["sam_skipped"] == 2 for line in log)


def test_an_interrupted_run_goes_on_to_the_same_result(tiny_settings, tmp_path):
    execute(tiny_settings, tmp_path / "whole")

    with pytest.raises(Interrupted):
        execute(tiny_settings, tmp_path / "stopped", _stop)
    execute(tiny_settings, tmp_path / "stopped")
    assert _same_result(tmp_path / "whole", tmp_path / "stopped")


def test_a_run_killed_while_it_is_evaluated_trains_no_more(tiny_settings, tmp_path):
    class Killed(BaseException):
        pass

    def die(phase, done, total, figures):
        if phase == "evaluate":
            raise Killed

    with pytest.raises(Killed):
        execute(tiny_settings, tmp_path / "run", die)
    steps = []
    execute(
        tiny_settings,
        tmp_path / "run",
        lambda phase, done, total, figures: steps.append(done) if phase == "train" else None,
    )
    assert steps == []


def test_a_folder_that_is_removed_is_one_sentence(tiny_settings, tmp_path):
    def remove(phase, done, total, figures):
        if phase == "train" and done == 1:
            shutil.rmtree(tmp_path / "run")

    with pytest.raises(SemisamError, match=r"must stay until the command ends, got .*run, which"):
        execute(tiny_settings, tmp_path / "run", remove)
    assert not (tmp_path / "run").exists()


def test_a_folder_of_another_run_is_refused(tiny_settings, tmp_path):
    execute(tiny_settings, tmp_path / "run")
    with pytest.raises(InputError, match=r"a run with labels 2\. Name another folder"):
        execute(tiny_settings.model_copy(update={"labels": 1}), tmp_path / "run")


def test_several_classes_and_a_subset(tmp_path):
    settings = settings_of(
        dataset_options={"classes": 3, "cases": 4, "test_cases": 1, "size": 32},
        labels=1,
        subset=2,
        method="supervised",
        network="vnet",
        network_options={"filters": 2},
        iterations=2,
        patch=(32, 32, 32),
        stride=(32, 32, 32),
    )
    result = json.loads(execute(settings, tmp_path / "run").read_text())
    assert [row["class"] for row in _scores(tmp_path / "run")] == list(
        Phantom(classes=3).class_names[1:]
    )
    assert result["data"]["labeled_cases"] != ["train_000"]


def test_a_trained_run_opens_without_its_data(tiny_settings, tmp_path):
    execute(_with_sam(tiny_settings), tmp_path / "run")
    (tmp_path / "la").rename(tmp_path / "gone")
    _, framework, card = load_run(tmp_path / "run")
    assert card.class_names == ("background", "left atrium")
    image = torch.randn(1, 1, 16, 16, 16)
    probs = framework(image)
    assert probs.shape == (1, 2, 16, 16, 16)
    torch.testing.assert_close(probs.sum(1), torch.ones(1, 16, 16, 16))


def test_predictions_are_written_one_a_case(tiny_settings, tmp_path):
    """Also of a case that lies in a folder of its own."""
    (tmp_path / "la" / "site").mkdir()
    (tmp_path / "la" / "test_001").rename(tmp_path / "la" / "site" / "test_001")
    (tmp_path / "la" / "test.list").write_text("test_000\nsite/test_001\n")
    settings = tiny_settings.model_copy(update={"save_predictions": True})
    execute(settings, tmp_path / "run")
    folder = tmp_path / "run" / "predictions"
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.nii.gz"))
    assert names == ["site/test_001.nii.gz", "test_000.nii.gz"]


def test_a_run_starts_from_the_weights_of_another(tiny_settings, tmp_path):
    first = tmp_path / "first"
    execute(tiny_settings, first)
    moved = tmp_path / "elsewhere" / "first"
    shutil.copytree(first, moved)
    settings = changed(tiny_settings, lr=1e-12, init=str(first))
    assert settings.choices == ("network=vnet", "init=first")
    assert settings.identity("data") == changed(settings, init=str(moved)).identity("data")
    assert settings.identity("data") != changed(settings, init=None).identity("data")
    execute(settings, tmp_path / "second")
    before, after = _model(first), _model(tmp_path / "second")
    weights = [name for name in before if name.startswith("student") and name.endswith("weight")]
    assert len(weights) > 5
    for name in weights:
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"method": "ict"}, "the method mt for ict"),
        ({"network": "unet"}, "the network vnet for unet"),
        ({"patch": (16, 16), "network": "vnet"}, "the patch axes 3 for 2"),
        ({"network_options": {"filters": 4}}, "the same options of method and network"),
    ],
    ids=["method", "network", "axes", "options"],
)
def test_weights_of_another_method_or_network_are_refused(
    tiny_settings, tmp_path, change, sentence
):
    """Even where they would fit, as those of ``mt`` fit ``ict``."""
    execute(tiny_settings, tmp_path / "first")
    free = {"method_options": {}, "network_options": {}, "stride": None}
    with pytest.raises(InputError, match=f"--init must be .*{sentence}") as caught:
        settings = changed(tiny_settings, init=str(tmp_path / "first"), **{**free, **change})
        execute(settings, tmp_path / "second")
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("order", [(0, 2, 1), (0, 1)], ids=["exchanged", "fewer"])
def test_weights_of_other_classes_are_refused(tmp_path, order):
    settings = tiny_phantoms(
        dataset_options={"cases": 2, "test_cases": 1, "size": 32, "classes": 3}
    )
    execute(settings, tmp_path / "first")
    file = tmp_path / "first" / CARD
    card = read_card(file)
    names = tuple(card.class_names[c] for c in order)
    write_card(file, replace(card, class_names=names, one_component=()))
    said = f"{', '.join(card.class_names[1:])}, got .* with {', '.join(names[1:])}"
    with pytest.raises(InputError, match=f"--init must be a run of the same classes .*{said}"):
        execute(changed(settings, init=str(tmp_path / "first")), tmp_path / "second")


def _as_of_other_code(path):
    """Rename a parameter in a file, as if the code of the method had changed since."""
    state = load_tensors(path)
    weights = state.get("framework", state)
    first = next(iter(weights))
    weights["of_before." + first] = weights.pop(first)
    save_tensors(state, path)


def test_weights_that_the_code_no_longer_fits_are_one_sentence(tiny_settings, tmp_path):
    with pytest.raises(Interrupted):
        execute(tiny_settings, tmp_path / "stopped", _stop)
    execute(tiny_settings, tmp_path / "ended")
    _as_of_other_code(tmp_path / "stopped" / CHECKPOINT)
    _as_of_other_code(tmp_path / "ended" / MODEL)
    for folder, use in (("stopped", lambda f: execute(tiny_settings, f)), ("ended", load_run)):
        with pytest.raises(InputError, match="must fit its method and network as inst") as caught:
            use(tmp_path / folder)
        assert f"{tmp_path / folder} (Unexpected key(s)" in str(caught.value)


def test_a_start_must_be_a_run(tiny_settings, tmp_path):
    with pytest.raises(InputError, match=r"the run must be one of .* got 'none'"):
        changed(tiny_settings, init=str(tmp_path / "none"))


def test_a_second_thread_is_refused(tmp_path):
    """Both would draw from one generator, and end with other weights than one at a time."""
    told = []

    def once_more(*state):
        if not told:
            with pytest.raises(InUse, match="one run at a time"):
                execute(tiny_phantoms(seed=1), tmp_path / "two")
            told.append(state)

    execute(tiny_phantoms(), tmp_path / "one", once_more)
    assert told and not (tmp_path / "two").exists()
    execute(tiny_phantoms(seed=1), tmp_path / "two")


def test_modes_of_the_caller_do_not_count_or_are_refused(tmp_path):
    execute(tiny_phantoms(), tmp_path / "plain")
    with torch.inference_mode():
        execute(tiny_phantoms(), tmp_path / "within")
    plain, within = (_model(tmp_path / name) for name in ("plain", "within"))
    assert all(torch.equal(plain[name], within[name]) for name in plain)
    with torch.autocast("cpu"), pytest.raises(InputError, match=r"outside of torch\.autocast"):
        execute(tiny_phantoms(), tmp_path / "other")
