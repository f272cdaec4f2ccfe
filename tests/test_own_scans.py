"""A person's own scans, from the folder to the table."""

import csv
import json

import numpy as np
from click.testing import CliRunner
from scan_files import scan, write, write_msd
from tiny_runs import TINY_NET

import semisam
from semisam.cli.main import main
from semisam.data.images.files import read_image

TINY = ("--patch", "16x16x16", "--stride", "16x16x16", "--iterations", "2", "--sam", "none")
TINY += (*TINY_NET, "--device", "cpu")


def test_three_classes_from_a_folder_to_the_table(tmp_path, in_process):
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


TWO = ("--patch", "32x32x32", "--stride", "32x32x32", "--iterations", "1", "--device", "cpu")
TWO += (*TINY_NET, "--labels", "1", "--method", "mt")


def three_masks(folder):
    for n in range(5):
        image, label = scan(n)
        write(folder / f"p{n}.nii.gz", image)
        if n < 3:
            write(folder / f"p{n}_label.nii.gz", label)
    (folder / "classes.list").write_text("organ\nlesion\n")
    return folder


def test_three_masks_are_each_scored_once(tmp_path, in_process):
    scans, out = three_masks(tmp_path / "scans"), tmp_path / "out"
    command = ["bench", "--data", str(scans), "--out", str(out), *TWO, "--test", "3-fold"]
    done = CliRunner().invoke(main, [*command, "--sam", "none,geodesic"])
    assert done.exit_code == 0, done.output
    assert "Each labeled case is scored once" in done.output
    runs = sorted((out / "runs").iterdir())
    assert len(runs) == 6
    with (out / "table.csv").open() as file:
        rows = {row["sam"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"none", "geodesic"}
    for sam, row in rows.items():
        scores = {}
        for run in runs:
            if ("geodesic" in run.name) != (sam == "geodesic"):
                continue
            split = json.loads((run / "split.json").read_text())
            assert len(split["test"]) == 1 and len(split["unlabeled"]) == 3
            with (run / "cases.csv").open() as file:
                for case in csv.DictReader(file):
                    scores.setdefault(case["case"], []).append(float(case["hd95_voxel"]))
        assert sorted(scores) == ["p0", "p1", "p2"]
        want = sum(sum(values) / len(values) for values in scores.values()) / 3
        assert abs(float(row["hd95_voxel"]) - want) < 1e-3
        assert (row["labeled"], row["unlabeled"], row["runs"]) == ("1", "3", "3")
    assert rows["geodesic"]["gain_dice"] != ""


def test_all_masks_train_and_nothing_is_scored(tmp_path):
    scans, out = three_masks(tmp_path / "scans"), tmp_path / "out"
    command = ["train", "--data", str(scans), "--out", str(out), *TWO, "--test", "none"]
    done = CliRunner().invoke(main, [*command, "--labels", "3"])
    assert done.exit_code == 0, done.output
    assert "Dice" not in done.output and "without a test" in done.output
    result = json.loads((out / "result.json").read_text())
    assert result["metrics"] == {} and result["data"]["labeled"] == 3
    assert not (out / "cases.csv").exists()
    shown = CliRunner().invoke(main, ["runs", "list", str(tmp_path)])
    assert "1 run: 1 done" in shown.output, shown.output
    masks = CliRunner().invoke(main, ["predict", str(out), str(scans), "-o", str(tmp_path / "m")])
    assert masks.exit_code == 0 and (tmp_path / "m" / "p4.nii.gz").is_file()
    scored = CliRunner().invoke(main, ["evaluate", str(out)])
    assert scored.exit_code != 0 and "must have test cases" in scored.output


def test_the_command_says_which_cases_it_holds_out(tmp_path):
    scans, out = three_masks(tmp_path / "scans"), tmp_path / "out"
    done = CliRunner().invoke(main, ["train", "--data", str(scans), "--out", str(out), *TWO])
    (case,) = json.loads((out / "split.json").read_text())["test"]
    text = " ".join(done.output.split())
    assert f"Held out for the test: {case} (1, drawn from 3 labeled cases with seed 0)" in text


def test_values_of_ones_own_from_the_labels_to_the_masks(tmp_path):
    """Labels 0 and 255 with 9 where nobody annotated, and a case whose name is a formula."""
    scans, out = tmp_path / "scans", tmp_path / "out"
    for n, case in enumerate(("a", "b", "=1+1")):
        image, label = scan(n, classes=2)
        values = np.where(label == 1, 255, 0)
        values[:, :, :2] = 9
        write(scans / f"{case}.nii.gz", image)
        write(scans / f"{case}_Seg.nii.gz", values.astype(np.uint8))
    (scans / "test.list").write_text("=1+1\n")
    options = ["--set", "folder.labels=255=1", "--set", "folder.ignore=9", "--labels", "1"]
    command = ["bench", "--data", str(scans), "--method", "mt", "--out", str(out), *options]
    done = CliRunner().invoke(main, [*command, *TINY])
    assert done.exit_code == 0, done.output
    (run,) = (out / "runs").iterdir()
    with (run / "cases.csv").open() as file:
        assert [row["case"] for row in csv.DictReader(file)] == ["'=1+1"]
    with (out / "table.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert "folder.labels=255=1" in row["choices"] and "folder.ignore=9" in row["choices"]
    study = (out / "study.toml").read_text()
    assert "255 = 1" in study and "ignore = 9" in study
    again = CliRunner().invoke(main, ["bench", str(out / "study.toml"), "--out", str(out)])
    assert again.exit_code == 0, again.output
    assert len(list((out / "runs").iterdir())) == 1, "the file states another run"
    assert json.loads((run / "model.json").read_text())["label_values"] == [0, 255]

    predict = ["predict", str(run), str(scans), "-o", str(tmp_path / "masks")]
    done = CliRunner().invoke(main, predict)
    assert done.exit_code == 0, done.output
    assert "Left out, labels (3): " in done.output and "255 foreground" in done.output
    assert len(list((tmp_path / "masks").iterdir())) == 3
    found = semisam.load(run).predict(scans / "a.nii.gz")
    assert set(np.unique(found.labelmap)) <= {0, 1}
    assert np.array_equal(found.mask, 255 * found.labelmap.astype(int))
    mask, _ = read_image(tmp_path / "masks" / "a.nii.gz")
    assert np.array_equal(mask, found.mask)

    done = CliRunner().invoke(main, ["evaluate", str(run), "--data", str(scans)])
    assert done.exit_code == 0, done.output
    with (run / "evaluation.csv").open() as file, (run / "cases.csv").open() as other:
        (row,), (want,) = csv.DictReader(file), csv.DictReader(other)
        assert row["dice"] == want["dice"]
