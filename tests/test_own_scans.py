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
