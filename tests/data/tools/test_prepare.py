"""The fast form: the same voxels, the same weights, whole or not there at all."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from pictures import write_pictures
from published_slices import write_published_slices
from scan_files import scan, write, write_folder, write_msd, write_series
from tiny_runs import settings_of

from semisam.automatic.survey import survey
from semisam.cli.main import main
from semisam.core.errors import InputError
from semisam.data.datasets.folder import ScanFolder
from semisam.data.datasets.images import ImageFolder
from semisam.data.datasets.msd import Decathlon
from semisam.data.datasets.phantom import Phantom
from semisam.data.datasets.prepared import Prepared, is_unfinished
from semisam.data.datasets.slices import PublishedSlices
from semisam.data.loading.store import VolumeStore
from semisam.data.tools.check import check_folder
from semisam.data.tools.prepare import prepare
from semisam.run.build import recognise_dataset
from semisam.run.execute import execute


@pytest.fixture
def source(tmp_path):
    return write_msd(tmp_path / "scans")


@pytest.fixture
def ready(source, tmp_path):
    prepare(Decathlon(source), {}, tmp_path / "fast")
    return tmp_path / "fast"


def contents(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_the_same_voxels_mapped(source, ready):
    data, fast = Decathlon(source), Prepared(ready)
    assert recognise_dataset(ready) == "prepared"
    assert fast.split() == data.split()
    assert (fast.class_names, fast.channels) == (data.class_names, data.channels)
    assert fast.channel_names == data.channel_names and len(fast.channel_names) == fast.channels
    assert (fast.suggested, fast.recipe, fast.note) == (data.suggested, data.recipe, data.note)
    for case in (*data.split().train, *data.split().test):
        ours, theirs = fast.image(case), data.image(case)
        assert isinstance(ours.array, np.memmap) and not ours.array.flags.writeable
        assert np.array_equal(ours.array, theirs.array)
        assert (ours.geometry, ours.placement) == (theirs.geometry, theirs.placement)
        assert fast.has_label(case) == data.has_label(case)
        if data.has_label(case):
            assert np.array_equal(fast.label(case), data.label(case))


def test_training_ends_in_the_same_weights(source, ready, tmp_path):
    results = {}
    for name, data in (("msd", source), ("prepared", ready)):
        settings = settings_of(
            data=str(data),
            dataset=name,
            labels=2,
            network="vnet",
            network_options={"filters": 2},
            iterations=2,
            patch=(16, 16, 16),
            stride=(16, 16, 16),
        )
        result = execute(settings, tmp_path / name)
        results[name] = json.loads(result.read_text())
    ours, theirs = (torch.load(tmp_path / name / "model.pt") for name in results)
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert results["msd"]["data"]["hash"] == results["prepared"]["data"]["hash"]
    assert results["msd"]["metrics"] == results["prepared"]["metrics"]


def test_deterministic_and_resumed(source, ready, tmp_path, monkeypatch):
    """A preparation that stops at any case leaves no manifest; the next one ends the same."""
    whole = contents(ready)
    seen = []
    read = Decathlon.image

    def stop_at_third(self, case):
        seen.append(case)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return read(self, case)

    again = tmp_path / "again"
    with monkeypatch.context() as patch:
        patch.setattr(Decathlon, "image", stop_at_third)
        with pytest.raises(KeyboardInterrupt):
            prepare(Decathlon(source), {}, again)
    assert not (again / "manifest.json").exists()
    assert not list(again.rglob("*.tmp"))
    assert recognise_dataset(again) == "prepared"
    with pytest.raises(InputError, match=r"an unfinished one\. Run the same"):
        Prepared(again)
    (again / "volumes" / ".x.image.npy.12345678.tmp").write_bytes(b"half")
    done = {path.name: path.stat().st_mtime_ns for path in again.rglob("*.npy")}
    prepare(Decathlon(source), {}, again)
    assert contents(again) == whole
    records = list(again.rglob("*.json"))
    assert done and len(records) == 6
    now = {path.name: path.stat().st_mtime_ns for path in again.rglob("*.npy")}
    assert sum(now[name] == at for name, at in done.items()) >= 2


def test_a_second_preparation_that_stops_is_unfinished(source, ready, monkeypatch):
    """The manifest of the first one would tell of other files."""

    def stop(self, case):
        raise KeyboardInterrupt

    write(source / "labelsTr" / "case_001.nii.gz", scan(7)[1], (1.0, 1.0, 2.0))
    with monkeypatch.context() as patch:
        patch.setattr(Decathlon, "image", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare(Decathlon(source), {}, ready)
    with pytest.raises(InputError, match="an unfinished one"):
        Prepared(ready)
    prepare(Decathlon(source), {}, ready)
    assert np.array_equal(Prepared(ready).label("case_001"), Decathlon(source).label("case_001"))


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
def test_killed_in_the_middle_and_started_again_the_files_are_the_same(tmp_path):
    source = write_msd(tmp_path / "scans", cases=40)
    whole = tmp_path / "whole"
    prepare(Decathlon(source), {}, whole)
    for attempt in range(10):  # a machine may be so busy that it is done before we look again
        killed = tmp_path / f"killed-{attempt}"
        command = [sys.executable, "-m", "semisam", "data", "prepare", str(source), str(killed)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 240
        try:
            while not list((killed / "volumes").glob("*.json")) and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.001)
        finally:
            process.kill()
            process.wait()
        if is_unfinished(killed):
            break
    assert is_unfinished(killed), "it was done before it could be killed"
    (killed / "volumes" / ".a.image.npy.0123.tmp").write_bytes(b"half")  # as a kill may leave it
    with pytest.raises(InputError, match="an unfinished one"):
        Prepared(killed)
    result = CliRunner().invoke(main, ["data", "prepare", str(source), str(killed)])
    assert result.exit_code == 0, result.output
    assert contents(killed) == contents(whole)


def test_what_changed_is_renewed(source, ready):
    write(source / "labelsTr" / "case_001.nii.gz", scan(7)[1], (1.0, 1.0, 2.0))
    for path in source.rglob("case_003*"):
        path.unlink()
    prepare(Decathlon(source), {}, ready)
    fast = Prepared(ready)
    assert np.array_equal(fast.label("case_001"), Decathlon(source).label("case_001"))
    assert not list(ready.rglob("case_003*"))


def test_classes_that_changed_renew_every_label(source, ready):
    about = json.loads((source / "dataset.json").read_text())
    assert about["labels"] == {"background": 0, "organ": 1, "lesion": 2}
    about["labels"] = {"background": 0, "whole": [1, 2]}
    (source / "dataset.json").write_text(json.dumps(about))
    prepare(Decathlon(source), {}, ready)
    data, fast = Decathlon(source), Prepared(ready)
    assert fast.class_names == data.class_names
    for case in data.split().train:
        if data.has_label(case):
            assert np.array_equal(fast.label(case), data.label(case))


def test_a_series_that_changed_in_a_nested_folder_is_renewed(tmp_path):
    folder = write_folder(tmp_path / "scans", labeled=2, unlabeled=1)
    series = folder / "nested" / "study" / "series"
    write_series(series, scan(5)[0], (1.0, 1.0, 2.0))
    write_series(tmp_path / "other", scan(6)[0], (1.0, 1.0, 2.0))
    for seed in (5, 6):
        for file in sorted((tmp_path / "other").iterdir()) if seed == 6 else ():
            (series / file.name).write_bytes(file.read_bytes())
        prepare(ScanFolder(folder), {}, tmp_path / "fast")
        made, fresh = Prepared(tmp_path / "fast"), ScanFolder(folder)
        assert np.array_equal(made.image("nested").array, fresh.image("nested").array), seed


def test_a_patch_costs_no_volume(ready):
    fast = Prepared(ready)
    split = fast.split()
    store = VolumeStore(fast, labeled=[], unlabeled=split.train, test=split.test)
    store.check()
    store.image(split.train[0])
    assert store.cached_bytes == 0


def test_phantoms_can_be_prepared(tmp_path):
    prepare(Phantom(cases=1, test_cases=1, size=32), {"cases": 1}, tmp_path / "fast")
    assert "patients" in Prepared(tmp_path / "fast").note


def test_folders_that_are_something_else(source, ready, tmp_path):
    with pytest.raises(InputError, match="other files in it"):
        prepare(Decathlon(source), {}, source)
    with pytest.raises(InputError, match="which differs in options"):
        prepare(Decathlon(source, crop="none"), {"crop": "none"}, ready)
    scans = write_folder(tmp_path / "others")
    with pytest.raises(InputError, match="which differs in dataset"):
        prepare(ScanFolder(scans), {}, ready)


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (lambda raw: raw.update(format="other"), "a manifest of"),
        (lambda raw: raw.pop("cases"), "a manifest of"),
        (
            lambda raw: (
                raw["cases"].update({"../../x": raw["cases"]["case_000"]}),
                raw["split"]["train"].append("../../x"),
            ),
            "would be written outside",
        ),
        (lambda raw: raw["cases"]["case_000"]["image"].update(file="../../x.npy"), "outside"),
        (lambda raw: raw["cases"]["case_000"]["image"].update(file="/etc/x.npy"), "outside"),
        *(
            (lambda raw, wrong=wrong: raw["cases"]["case_000"].update(wrong), "a manifest of")
            for wrong in (
                {"placement": []},
                {"placement": 5},
                {"geometry": 5},
                {"geometry": {}},
                {"image": 5},
                {"label": {"file": 5, "shape": [1]}},
            )
        ),
    ],
)
def test_a_manifest_that_lies(ready, change, pattern):
    raw = json.loads((ready / "manifest.json").read_text())
    change(raw)
    (ready / "manifest.json").write_text(json.dumps(raw))
    with pytest.raises(InputError, match=pattern):
        Prepared(ready)


def test_volumes_that_lie(ready):
    fast = Prepared(ready)
    path = (
        ready
        / json.loads((ready / "manifest.json").read_text())["cases"]["case_000"]["image"]["file"]
    )
    good = path.read_bytes()
    path.write_bytes(good[:-100])
    with pytest.raises(InputError, match=r"must be a complete \.npy file"):
        fast.image("case_000")
    np.save(path, np.array([{}]), allow_pickle=True)
    with pytest.raises(InputError, match=r"must be a complete \.npy file"):
        fast.image("case_000")
    np.savez(path.with_suffix(""), np.zeros((2, 3, 3, 3), np.float32))
    path.with_suffix(".npz").replace(path)
    with pytest.raises(InputError, match=r"must be a complete \.npy file"):
        fast.image("case_000")
    np.save(path, np.zeros((2, 3, 3, 3), np.float32))
    with pytest.raises(InputError, match="float32 of shape"):
        fast.image("case_000")
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    done = CliRunner().invoke(main, ["data", "check", str(ready)])
    assert done.exit_code == 1 and "changed or damaged" in " ".join(done.output.split())
    path.unlink()
    with pytest.raises(InputError, match="the file must exist"):
        fast.image("case_000")


def test_the_command(source, tmp_path):
    target = tmp_path / "fast"
    command = ["data", "prepare", str(source), str(target), "--set", "msd.spacing=2,2,2"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    assert "5 cases of msd, 4 labeled" in " ".join(done.output.split())
    assert Prepared(target).image("case_000").geometry.spacing == (2.0, 2.0, 2.0)
    assert CliRunner().invoke(main, ["data", "check", str(target)]).exit_code == 0
    again = CliRunner().invoke(main, ["data", "prepare", str(target), str(tmp_path / "x")])
    assert again.exit_code == 2 and "must not be a prepared dataset" in again.stderr
    wrong = CliRunner().invoke(main, [*command[:4], "--set", "la.spacing=2"])
    assert wrong.exit_code == 2 and "name the dataset msd" in wrong.stderr


def test_a_copy_of_pictures_or_of_slices_keeps_what_a_run_must_know(tmp_path):
    prepare(ImageFolder(write_pictures(tmp_path / "a"), longest=20), {}, tmp_path / "b")
    pictures = Prepared(tmp_path / "b")
    assert pictures.empty_labels and not pictures.counts_patients
    assert pictures.recipe.longest == 20 and pictures.label_values == (0, 255)
    prepare(PublishedSlices(write_published_slices(tmp_path / "c")), {}, tmp_path / "d")
    slices = Prepared(tmp_path / "d")
    assert slices.counts_patients and slices.reversed_axes and not slices.empty_labels
    assert slices.groups["patient009_frame02"] == "patient009"


def test_a_copy_has_the_scans_that_the_drawn_test_leaves_out(tmp_path):
    folder = write_folder(tmp_path / "a")
    cases = ["a4", "b0", "b1", "b2", "b3"]
    for partner in cases[1:]:  # until the draw tests the unlabeled scan's patient
        rows = [f"{case},{partner if case == 'a4' else case}" for case in cases]
        (folder / "groups.csv").write_text("\n".join(["case,group", *rows]))
        if ScanFolder(folder).split().left_out:
            break
    prepare(ScanFolder(folder), {}, tmp_path / "b")
    copy = Prepared(tmp_path / "b")
    assert copy.split().left_out == ("a4",) and sorted(copy.split().cases) == cases
    assert copy.image("a4").array.any() and not copy.has_label("a4")
    assert sorted(case for case in survey(tmp_path / "b").unlabeled) == ["a4"]
    report = check_folder(tmp_path / "b", "prepared", {})
    assert [(one.case, one.part) for one in report.cases if not one.part] == [("a4", "")]
