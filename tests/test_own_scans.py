"""A person's own scans, from the folder to the table."""

import csv
import json

import numpy as np
from click.testing import CliRunner
from scan_files import write_msd

from semisam.cli.main import main
from semisam.data.images.files import read_image

TINY = ("--patch", "16x16x16", "--stride", "16x16x16", "--iterations", "2", "--sam", "none")
TINY += ("--set", "vnet.filters=2", "--device", "cpu")


def test_three_classes_from_a_folder_to_the_table(tmp_path):
    scans, out = write_msd(tmp_path / "scans"), tmp_path / "out"
    before = sorted(scans.rglob("*"))
    command = ["bench", "--data", str(scans), "--method", "mt", "--labels", "2", "--out", str(out)]
    done = CliRunner().invoke(main, [*command, *TINY, "--save-predictions"])
    assert done.exit_code == 0, done.output
    assert sorted(scans.rglob("*")) == before, "the user's folder was written to"
    with (out / "table.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["labeled"], row["unlabeled"]) == ("2", "2")
    (run,) = (out / "runs").iterdir()
    with (run / "cases.csv").open() as file:
        assert [r["class"] for r in csv.DictReader(file)] == ["organ", "lesion"]
    split = json.loads((run / "split.json").read_text())
    assert len(split["labeled"]) == 2 and "case_004" in split["unlabeled"]
    (case,) = split["test"]
    mask, geometry = read_image(run / "predictions" / f"{case}.nii.gz")
    image, own = read_image(scans / "imagesTr" / f"{case}_0000.nii.gz")
    assert mask.shape == image.shape and np.allclose(geometry.spacing, own.spacing)


def test_the_table_scores_the_masks_that_are_on_disk(tmp_path):
    scans, out = write_msd(tmp_path / "scans"), tmp_path / "run"
    coarse = ["--set", "msd.spacing=1.7,1.4,2.2", "--save-predictions"]
    command = ["train", "--data", str(scans), "--method", "supervised", "--labels", "2"]
    done = CliRunner().invoke(main, [*command, "--out", str(out), *TINY, *coarse])
    assert done.exit_code == 0, done.output
    with (out / "cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        mask, _ = read_image(out / "predictions" / f"{row['case']}.nii.gz")
        truth, _ = read_image(scans / "labelsTr" / f"{row['case']}.nii.gz")
        assert mask.shape == truth.shape
        k = ["organ", "lesion"].index(row["class"]) + 1
        one, other = mask == k, truth == k
        total = one.sum() + other.sum()
        want = 2 * (one & other).sum() / total if total else 1.0
        assert abs(float(row["dice"]) - want) < 1e-12
        assert (row["empty_reference"] == "True") == (not other.any())
    prepared = tmp_path / "prepared"
    ready = ["data", "prepare", str(scans), str(prepared), *coarse[:2]]
    assert CliRunner().invoke(main, ready).exit_code == 0
    command[2] = str(prepared)
    done = CliRunner().invoke(main, [*command, "--out", str(tmp_path / "again"), *TINY])
    assert done.exit_code == 0, done.output
    with (tmp_path / "again" / "cases.csv").open() as file:
        again = list(csv.DictReader(file))
    assert [row["dice"] for row in again] == [row["dice"] for row in rows]
