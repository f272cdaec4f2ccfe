"""A trained run as an object of Python."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import SimpleITK
import torch
from tiny_runs import tiny_phantoms

from semisam.core.errors import InputError
from semisam.data.images.files import Geometry, write_nifti
from semisam.run.execute import execute
from semisam.run.model import load
from semisam.training.checkpoint import save_tensors

SHAPE = (32, 32, 24)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "run"
    settings = tiny_phantoms(method="copied-mask", labels=1, network_options={}, network="unet")
    execute(settings, run)
    return load(run, "cpu")


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


@pytest.mark.parametrize(
    ("scan", "spacing", "said"),
    [
        (np.ones((40, 40)), None, "scan must have 3 axes, or 4 with channels first, got 40 x 40"),
        (np.ones((40, 40)), (1, 1, 2), "scan must have 3 axes, .* got 40 x 40"),
        (None, None, "scan must have 3 axes, .* got one value"),
        ([], None, "scan must have 3 axes, .* got 0"),
        (["a", 3], None, "the scan must be an array of numbers, .* got list"),
        (np.ones(SHAPE), 2, "spacing must be 3 positive numbers, .* got 2"),
        (np.ones(SHAPE), (1, 1), r"spacing must be 3 positive numbers, .* got \(1, 1\)"),
        (np.ones(SHAPE), (1, 0, 1), "spacing must be 3 positive numbers"),
        (["one.nii.gz", "two.nii.gz"], None, "one.nii.gz"),
        (np.ones(SHAPE, complex), None, "the scan must be .* got complex numbers"),
        (SimpleITK.Image(SHAPE, SimpleITK.sitkComplexFloat32), None, "got complex numbers"),
        ("one.nii.gz", (1, 1, 1), r"spacing must come with an array, got \(1, 1, 1\) with a file"),
        (["one.nii.gz"], (1, 1, 1), "spacing must come with an array"),
        (SimpleITK.Image(SHAPE, SimpleITK.sitkFloat32), 2, "got 2 with a SimpleITK image"),
    ],
)
def test_what_is_no_scan_is_one_sentence(model, scan, spacing, said):
    with pytest.raises(InputError, match=said):
        model.predict(scan, spacing=spacing)


def test_a_scan_may_be_given_with_its_channel(model, image):
    found, other = (model.predict(scan).labelmap for scan in (image, image[None]))
    assert found.any() and np.array_equal(found, other)


def test_a_path_or_a_path_of_each_channel_is_one_scan(model, image, tmp_path):
    path = tmp_path / "scan.nii.gz"
    write_nifti(path, image, Geometry((1.0, 1.0, 1.0)))
    want = model.predict(path).labelmap
    assert want.any()
    for scan in (str(path), [path], (str(path),)):
        assert np.array_equal(model.predict(scan).labelmap, want)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "trained"
    execute(tiny_phantoms(), run)
    return run


@pytest.mark.parametrize("content", [[1], None, torch.ones(2), {1: torch.ones(2)}])
def test_a_file_of_other_things_than_weights_is_one_sentence(trained, tmp_path, content):
    run = shutil.copytree(trained, tmp_path / "run")
    save_tensors(content, run / "model.pt")
    with pytest.raises(InputError, match="weights of a run must be tensors by name, got others"):
        load(run, "cpu")


def _set(run, **updates):
    path = run / "settings.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **updates}))


def test_settings_without_a_stride_are_one_sentence(trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    _set(run, stride=None)
    with pytest.raises(InputError, match="settings of a run must hold its stride, got none"):
        load(run, "cpu")


def test_settings_of_another_network_take_no_memory(trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    _set(run, network_options={"filters": 5000})  # terabytes
    with pytest.raises(InputError, match="weights of a run must fit its method and network"):
        load(run, "cpu")


@pytest.mark.parametrize("device", ["gpu", "cuda:99", 0])
def test_a_device_that_cannot_be_used_is_refused(device):
    with pytest.raises(InputError, match="--device must be one that torch can use here"):
        load("nowhere", device)
    with pytest.raises(InputError, match="a run must be the path of its folder, got 3"):
        load(3)
