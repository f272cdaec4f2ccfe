"""Two folders of masks, compared."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from click.testing import CliRunner
from scan_files import write

import semisam
from semisam.cli.main import main
from semisam.core.errors import InputError
from semisam.inference.comparison import masks_of, pair_masks
from semisam.metrics.scores import evaluate_mask, surface_dice

SPACING = (1.0, 1.0, 2.0)


def _box(start, stop, value=1):
    mask = np.zeros((12, 10, 8), np.uint8)
    mask[start:stop, 2:7, 2:6] = value
    return mask


@pytest.fixture
def folders(tmp_path):
    """Predictions and truth of two classes; the truth is next to its scans."""
    for case, pred, ref in (
        ("a", _box(2, 6) + _box(7, 9, 2), _box(2, 7)),
        ("b", _box(2, 6), _box(2, 6)),
    ):
        write(tmp_path / "ours" / f"{case}.nii.gz", pred, SPACING)
        write(tmp_path / "scans" / f"{case}.nii.gz", np.arange(960).reshape(12, 10, 8), SPACING)
        write(tmp_path / "scans" / f"{case}_label.nii.gz", ref, SPACING)
    write(tmp_path / "ours" / "extra.nii.gz", _box(2, 6), SPACING)
    return tmp_path / "ours", tmp_path / "scans"


def test_scores_are_those_of_the_metrics(folders):
    rows = {(row["case"], row["class"]): row for row in semisam.score(*folders)}
    assert set(rows) == {("a", 1), ("a", 2), ("b", 1), ("b", 2)}
    one = evaluate_mask(_box(2, 6) == 1, _box(2, 7) == 1, SPACING)
    assert rows["a", 1]["dice"] == one.dice and rows["a", 1]["hd95_mm"] == one.hd95_mm
    near = surface_dice(_box(2, 6) == 1, _box(2, 7) == 1, SPACING, (1.0, 2.0))
    found = rows["a", 1]["surface_dice_1mm"], rows["a", 1]["surface_dice_2mm"]
    assert found == near
    assert rows["a", 2]["dice"] == 0 and rows["a", 2]["empty_reference"]
    assert rows["b", 1]["surface_dice_1mm"] == 1
    assert rows["b", 2]["dice"] == 1 and rows["b", 2]["empty_prediction"]


def test_ignored_voxels_of_the_truth_are_left_out(folders, tmp_path):
    ours, _ = folders
    write(tmp_path / "partial" / "a.nii.gz", _box(2, 6) + _box(6, 12, 9), SPACING)
    (row,) = [r for r in semisam.score(ours, tmp_path / "partial", ignore=[9]) if r["class"] == 1]
    assert row["dice"] == 1 and row["surface_dice_1mm"] == 1


def test_the_command_writes_a_row_per_case_and_class(folders):
    ours, scans = folders
    (ours / "\x1b]0;title\x07.nii.gz").write_bytes((ours / "a.nii.gz").read_bytes())
    result = CliRunner().invoke(main, ["score", str(ours), str(scans)])
    assert result.exit_code == 0, result.output
    assert not set("\x1b\x07") & set(result.output)
    (ours / "\x1b]0;title\x07.nii.gz").unlink()
    result = CliRunner().invoke(main, ["score", str(ours), str(scans)])
    assert "Left out, without a partner: 1 masks" in result.output
    with (ours / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["class"]) for row in rows] == [
        ("a", "1"),
        ("a", "2"),
        ("b", "1"),
        ("b", "2"),
    ]
    assert float(rows[2]["surface_dice_2mm"]) == 1


def test_other_grids_and_names_are_refused(folders, tmp_path):
    ours, _ = folders
    write(tmp_path / "moved" / "a.nii.gz", _box(2, 6), SPACING, origin=(9, 0, 0))
    with pytest.raises(InputError, match="must have the grid of its truth"):
        semisam.score(ours, tmp_path / "moved")
    write(tmp_path / "other" / "z.nii.gz", _box(2, 6), SPACING)
    with pytest.raises(InputError, match="masks of one name"):
        semisam.score(ours, tmp_path / "other")
    with pytest.raises(InputError, match="in a folder"):
        semisam.score(ours, tmp_path / "nowhere")
    write(tmp_path / "empty" / "a.nii.gz", _box(0, 0), SPACING)
    with pytest.raises(InputError, match="value other than 0"):
        semisam.score(tmp_path / "empty", tmp_path / "empty")


def test_previews_and_probabilities_are_no_masks(tmp_path):
    write(tmp_path / "a.nii.gz", _box(2, 6))
    write(tmp_path / "a.organ.probability.nii.gz", _box(2, 6))
    (tmp_path / "a.png").write_bytes(b"a preview")
    assert masks_of(tmp_path) == {"a": tmp_path / "a.nii.gz"}
    write(tmp_path / "a.nrrd", _box(2, 6))
    with pytest.raises(InputError, match="must have one mask"):
        masks_of(tmp_path)


def test_plain_files_next_to_labels_are_named(tmp_path):
    for place in ("ours", "theirs"):
        for name in ("p1", "p2", "p3_seg"):
            write(tmp_path / place / f"{name}.nii.gz", _box(2, 6))
    found = pair_masks(tmp_path / "ours", tmp_path / "theirs")
    assert list(found.pairs) == ["p3"]
    assert [path.name for path in found.left_out] == ["p1.nii.gz", "p2.nii.gz"] * 2


def test_white_and_one_are_one_class_if_there_is_no_other(tmp_path):
    for folder, value in (("ours", 255), ("truth", 1), ("two", 2)):
        write(tmp_path / folder / "a.nii.gz", _box(2, 6, value), SPACING)
    for pair in (("ours", "truth"), ("truth", "ours")):
        (row,) = semisam.score(*(tmp_path / name for name in pair))
        assert (row["class"], row["dice"]) == (1, 1)
    with pytest.raises(InputError, match="got 255 in the predictions and 2 in the truth"):
        semisam.score(tmp_path / "ours", tmp_path / "two")
    write(tmp_path / "truth" / "b.nii.gz", _box(2, 6, 2), SPACING)
    write(tmp_path / "ours" / "b.nii.gz", _box(2, 6, 2), SPACING)
    assert {row["class"] for row in semisam.score(tmp_path / "ours", tmp_path / "truth")} == {
        *(1, 2, 255)
    }


def test_plain_files_of_the_truth_that_predictions_need_are_named(tmp_path):
    for case in "ab":
        write(tmp_path / "ours" / f"{case}.nii.gz", _box(2, 6), SPACING)
    write(tmp_path / "truth" / "a_mask.nii.gz", _box(2, 6), SPACING)
    write(tmp_path / "truth" / "b.nii.gz", _box(2, 6), SPACING)
    found = pair_masks(tmp_path / "ours", tmp_path / "truth")
    assert list(found.pairs) == ["a"]
    assert found.left_out == (tmp_path / "ours" / "b.nii.gz", tmp_path / "truth" / "b.nii.gz")


def test_values_to_ignore_are_numbers(folders):
    with pytest.raises(InputError, match="ignore must be whole numbers, got '255'"):
        semisam.score(*folders, ignore="255")
