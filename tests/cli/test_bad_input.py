"""Each mistake ends before training, with one sentence and exit code 2."""

from __future__ import annotations

import re

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from tiny_runs import TINY_NET

from semisam.cli.main import main

TINY = ("--patch", "16x16x16", "--iterations", "2", *TINY_NET)


def _case(folder, number):
    return folder / (folder / "train.list").read_text().split()[number] / "mri_norm2.h5"


def _edit(path, key, change):
    with h5py.File(path, "a") as file:
        value = file[key][()]
        del file[key]
        file[key] = change(value)


def _cut_off(folder):
    path = _case(folder, 3)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _nan(image):
    image[0, 0, 0] = np.nan
    return image


FILES = {
    "cut-off h5": (_cut_off, r"train_003.mri_norm2\.h5"),
    "missing case": (lambda f: _case(f, 2).unlink(), r"train_002.mri_norm2\.h5"),
    "shapes differ": (
        lambda f: _edit(_case(f, 0), "label", lambda v: v[:-1]),
        r"train_000.*shape",
    ),
    "NaN": (lambda f: _edit(_case(f, 1), "image", _nan), r"train_001.*(NaN|finite)"),
    "label out of range": (
        lambda f: _edit(_case(f, 0), "label", lambda v: v * 7),
        r"train_000.*7",
    ),
    "no list": (lambda f: (f / "train.list").unlink(), r"train\.list"),
    "path that escapes": (
        lambda f: (f / "test.list").write_text("../../etc\n"),
        r"\.\./\.\./etc",
    ),
}

OPTIONS = {
    "unknown method": (
        ("--method", "mean-teacher"),
        r"'mean-teacher'.*Installed: .*mt, .*supervised",
    ),
    "unknown method, nearest": (("--method", "supervise"), r"did you mean supervised"),
    "unknown backend": (("--sam", "sam9"), r"backend must be an installed plugin, got 'sam9'"),
    "unknown prompter": (("--sam", "geodesic", "--prompter", "boxes"), r"did you mean box"),
    "unknown protocol": (
        ("--protocol", "papers"),
        r"must be one of default, classic, paper, published.*got papers .did you mean paper",
    ),
    "too many labels": (("--labels", "5"), r"at most the number of training cases, 4, got 5"),
    "no labels": (("--labels", "0"), r"--labels must be greater than or equal to 1, got 0"),
    "labels that are none": (("--labels", "two"), r"whole numbers separated by commas"),
    "patch of the wrong size": (
        ("--patch", "20x16x16"),
        r"multiple of 16 for the network VNet of method 'mt', got 20x16x16",
    ),
    "patch of four axes": (
        ("--patch", "16x16x16x16"),
        r"of the scans, 3, or two .*got 16x16x16x16",
    ),
    "network for other axes": (("--patch", "16x16", "--network", "vnet"), r"Choose unet or unet2d"),
    "patch beyond the memory": (("--patch", "4096x4096x4096"), r"must fit into memory.*GiB"),
    "unknown option": (("--set", "mt.ema=1"), r"option ema does not exist.*ema_decay"),
    "option of a wrong type": (("--set", "mt.ema_decay=fast"), r"ema_decay must be float"),
    "option that is no number": (("--set", "mt.noise_std=nan"), r"noise_std must be finite"),
    "option of nobody": (("--set", "dtc.beta=1"), r"plugin of the runs, .*got dtc"),
    "option of a misspelt plugin": (("--set", "vnte.filters=2"), r"got vnte .did you mean vnet\?"),
    "option that is no choice": (
        ("--set", "mt.consistency_rows=labeled"),
        r"consistency_rows must be unlabeled or all, got 'labeled'",
    ),
    "option out of range": (("--set", "mt.ema_decay=1.5"), r"ema_decay must be in .0, 1., got 1.5"),
    "ramp that never advances": (("--set", "mt.ramp_every=0"), r"ramp_every must be at least 1"),
    "branch's ramp": (
        ("--sam", "geodesic", "--set", "semisam.ramp_power=0"),
        r"the SemiSAM branch refuses its options: ramp_power must be greater than 0",
    ),
    "negative noise": (("--set", "mt.noise_std=-1"), r"noise_std.*at least 0, got -1"),
    "no unlabeled row left": (("--labeled-rows", "4"), r"leave an unlabeled row in a batch of 4"),
    "method that a protocol does not describe": (
        ("--protocol", "published", "--method", "fixmatch"),
        r"a method that it describes, supervised, mt.*got fixmatch",
    ),
    "option without a value": (("--set", "mt.ema_decay"), r"PLUGIN\.OPTION=VALUE"),
    "unknown device": (("--device", "tpu9"), r"--device must be one that torch can use"),
    "fp16 on a CPU": (
        ("--precision", "fp16", "--device", "cpu"),
        r"--precision fp16 must come with a GPU",
    ),
    "negative rate": (("--lr", "-1"), r"--lr must be greater than 0, got -1"),
    "batch of one": (("--batch", "1"), r"batch"),
}


def _run(folder, out, *args):
    given = ["--method", "mt", "--labels", "2", "--sam", "none", *TINY, *args]
    command = ["bench", "--data", str(folder), "--out", str(out), *given]
    return CliRunner().invoke(main, command)


def _assert_one_sentence(result, out, pattern):
    assert result.exit_code == 2, result.output
    assert not list(out.glob("runs/*")), "something was started"
    message = " ".join(result.stderr.split())
    assert "Traceback" not in message
    assert re.search(pattern, message), message


@pytest.mark.parametrize("fault", FILES)
def test_files(tiny_la, tmp_path, fault):
    damage, pattern = FILES[fault]
    damage(tiny_la)
    _assert_one_sentence(_run(tiny_la, tmp_path / "out"), tmp_path / "out", pattern)


@pytest.mark.parametrize("fault", OPTIONS)
def test_options(tiny_la, tmp_path, fault):
    args, pattern = OPTIONS[fault]
    _assert_one_sentence(_run(tiny_la, tmp_path / "out", *args), tmp_path / "out", pattern)


@pytest.mark.parametrize("what", ["nothing there", "a file", "another layout"])
def test_folders_that_are_none(tmp_path, what):
    folder = tmp_path / "scans"
    if what == "a file":
        folder.touch()
    elif what == "another layout":
        folder.mkdir()
    pattern = "--data must be"
    _assert_one_sentence(_run(folder, tmp_path / "out"), tmp_path / "out", pattern)


def test_output_folder_that_cannot_be_written(tiny_la, tmp_path):
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "out"
    result = _run(tiny_la, out)
    assert result.exit_code == 2
    assert "output folder must be writable" in result.stderr


@pytest.mark.slow
def test_the_command_behind_these_tests_works(tiny_la, tmp_path):
    """So none of the refusals above comes from the test's own settings."""
    assert _run(tiny_la, tmp_path / "out").exit_code == 0
