"""From a folder of pictures, and from published slices, to masks."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from click.testing import CliRunner
from pictures import picture, write_pictures
from published_slices import TEST, volume, write_published_slices
from scan_files import write

from semisam.cli.main import main
from semisam.data.images.files import read_image
from semisam.data.images.pictures import read_mask, read_picture
from semisam.metrics.scores import evaluate_mask
from semisam.run.execute import execute
from semisam.run.request import settings

SMALL = {"iterations": 2, "patch": (16, 16), "stride": (16, 16), "device": "cpu", "method": "mt"}


def _run(data, folder, sam, labels=2, **options):
    chosen = settings(data=str(data), labels=labels, sam=sam, options=options, **SMALL)
    return json.loads(execute(chosen, folder).read_text())


def _predict(*arguments):
    return CliRunner().invoke(main, ["predict", *map(str, arguments)])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    data = write_pictures(folder / "data")
    found = _run(data, folder / "run", "synthsam", **{"images.longest": 20})
    return data, folder / "run", found


def test_masks_of_pictures_are_pictures(pictures, tmp_path):
    data, run, found = pictures
    assert found["settings"]["network"] == "unet" and found["settings"]["sam_adapt"] == 1
    assert 0 <= found["metrics"]["dice"] <= 1 and found["metrics"]["hd95_voxel"] >= 0
    done = _predict(run, data, "-o", tmp_path, "--preview")
    assert done.exit_code == 0, done.output
    assert "Left out, labels (5): " in done.output
    for n in range(6):
        mask = read_mask(tmp_path / f"p{n // 2}_{n}.png")
        assert mask.shape == picture(n)[1].shape and set(np.unique(mask)) <= {0, 255}
    assert len(read_picture(tmp_path / "p0_0.preview.png")) == 3


def test_no_mask_overwrites_a_label(pictures, tmp_path):
    data, run, _ = pictures
    before = read_mask(data / "masks" / "p0_0.png")
    done = _predict(run, data, "-o", data / "masks")
    assert done.exit_code == 2 and "outside the folder of scans" in done.stderr
    for folder in ("images", "masks"):
        (tmp_path / folder).symlink_to(data / folder)
    done = _predict(run, tmp_path, "-o", data / "masks")
    assert done.exit_code == 2 and "no mask may overwrite a scan or a label" in done.stderr
    assert np.array_equal(read_mask(data / "masks" / "p0_0.png"), before)


def test_slices_are_scored_and_predicted_as_volumes(tmp_path):
    data = write_published_slices(tmp_path / "data")
    found = _run(data, tmp_path / "run", "none")
    assert (found["data"]["labeled"], found["data"]["unlabeled"]) == (2, 2)  # patients
    assert len(found["data"]["labeled_cases"]) == 4
    with (tmp_path / "run" / "cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == [case for case in TEST for _ in range(3)]
    assert sum(row["empty_prediction"] == "False" for row in rows) > 0
    image, label = volume(20, depth=4)
    write(tmp_path / f"{TEST[0]}-as.nii", image.T, (1.5, 1.5, 8.0))
    for source in (data / "data" / f"{TEST[0]}.h5", tmp_path / f"{TEST[0]}-as.nii"):
        done = _predict(tmp_path / "run", source, "-o", tmp_path / "masks")
        assert done.exit_code == 0, done.output
        mask, _ = read_image(tmp_path / "masks" / f"{source.stem}.nii.gz")
        for number, row in enumerate(rows[:3], start=1):  # as it was scored
            scores = evaluate_mask(mask == number, number == label.T, (1.0, 1.0, 10.0))
            assert scores.dice == pytest.approx(float(row["dice"]))
