"""New scans, and published checkpoints, through the command line."""

from __future__ import annotations

import csv

import h5py
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from click.testing import CliRunner

from semisam.cli.main import main
from semisam.networks.vnet import VNet
from semisam.run import execute


@pytest.fixture
def trained(tiny_settings, tmp_path):
    execute(tiny_settings, tmp_path / "run")
    return tmp_path / "run"


def _invoke(*args):
    return CliRunner().invoke(main, [str(arg) for arg in args])


def _scan(tmp_path, name, spacing, size):
    """An oblique scan: x, y, z sizes, spacing in mm."""
    array = np.random.default_rng(0).normal(100, 20, size[::-1]).astype(np.float32)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin((5.0, -7.0, 11.0))
    image.SetDirection((0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0))
    sitk.WriteImage(image, str(tmp_path / name))
    return tmp_path / name


@pytest.mark.parametrize("name", ["a.nii.gz", "b.nrrd", "c.mha"])
def test_masks_come_back_in_the_scans_own_geometry(trained, tmp_path, name):
    scan = _scan(tmp_path, name, (1.0, 0.7, 2.5), (30, 41, 18))
    result = _invoke("predict", trained, scan, "-o", tmp_path / "masks", "--probabilities")
    assert result.exit_code == 0, result.output
    stem = name.split(".")[0]
    mask = sitk.ReadImage(str(tmp_path / "masks" / f"{stem}.nii.gz"))
    original = sitk.ReadImage(str(scan))
    assert mask.GetSize() == original.GetSize()
    for read in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(mask, read)() == pytest.approx(getattr(original, read)(), abs=1e-6)
    assert mask.GetPixelID() == sitk.sitkUInt8
    path = tmp_path / "masks" / f"{stem}.left-atrium.probability.nii.gz"
    probability = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    assert probability.min() >= 0 and probability.max() <= 1
    inside = sitk.GetArrayFromImage(mask) == 1
    assert np.array_equal(inside, probability > 0.5)


def test_an_h5_is_predicted_as_the_run_evaluated_it(trained, tmp_path):
    scores = _invoke("evaluate", trained, "--save-predictions", tmp_path / "evaluated")
    assert scores.exit_code == 0, scores.output
    case = tmp_path / "la" / "test_000"
    result = _invoke("predict", trained, case / "mri_norm2.h5", "-o", tmp_path / "masks")
    assert result.exit_code == 0, result.output
    one = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "masks" / "test_000.nii.gz")))
    two = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "evaluated" / "test_000.nii.gz")))
    with h5py.File(case / "mri_norm2.h5") as file:
        assert one.shape == file["image"].shape[::-1]
    assert np.array_equal(one, two)


def test_evaluating_again_gives_the_runs_scores(trained):
    result = _invoke("evaluate", trained)
    assert result.exit_code == 0, result.output

    def rows(name):
        with (trained / name).open() as file:
            return [{k: v for k, v in r.items() if k != "seconds"} for r in csv.DictReader(file)]

    assert rows("evaluation.csv") == rows("cases.csv")


def test_no_two_scans_overwrite_each_other(trained, tmp_path):
    one = _scan(tmp_path, "same.nii.gz", (1.0, 1.0, 1.0), (16, 16, 16))
    other = _scan(tmp_path, "same.nrrd", (1.0, 1.0, 1.0), (16, 16, 16))
    result = _invoke("predict", trained, one, other, "-o", tmp_path / "masks")
    assert result.exit_code == 2 and "a name of its own" in result.stderr
    assert not (tmp_path / "masks").exists()


@pytest.mark.parametrize(
    ("scan", "words"),
    [("missing.nii.gz", "every input must exist"), ("broken.nii.gz", "broken.nii.gz")],
)
def test_scans_that_cannot_be_read(trained, tmp_path, scan, words):
    (tmp_path / "broken.nii.gz").write_bytes(b"no image")
    result = _invoke("predict", trained, tmp_path / scan, "-o", tmp_path / "masks")
    assert result.exit_code == 2, result.output
    assert words in result.stderr and "Traceback" not in result.stderr


def test_a_folder_that_is_no_run(tmp_path):
    result = _invoke("evaluate", tmp_path)
    assert result.exit_code == 2
    assert "a run folder with settings.json is required" in result.stderr


def test_a_published_checkpoint_is_evaluated(tiny_la, tmp_path):
    torch.manual_seed(0)
    net = VNet(1, {"logits": 2}, filters=2)
    published = {
        key.replace("heads.logits.", "out_conv."): value for key, value in net.state_dict().items()
    }
    torch.save(published, tmp_path / "iter_6000.pth")
    args = ("--data", tiny_la, "--patch", "16x16x16", "--stride", "16x16x16")
    result = _invoke("evaluate", tmp_path / "iter_6000.pth", *args)
    assert result.exit_code == 0, result.output
    with (tmp_path / "iter_6000.evaluation.csv").open() as file:
        assert [row["case"] for row in csv.DictReader(file)] == ["test_000", "test_001"]
    result = _invoke("evaluate", tmp_path / "iter_6000.pth")
    assert result.exit_code == 2 and "needs --data and --patch" in result.stderr
