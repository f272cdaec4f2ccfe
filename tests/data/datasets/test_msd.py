"""``dataset.json`` of the Decathlon and of both versions of nnU-Net."""

import json

import numpy as np
import pytest
from scan_files import scan, write, write_msd

from semisam.core.errors import InputError
from semisam.core.types import IGNORE
from semisam.data.datasets.msd import Decathlon
from semisam.data.tools.check import check_folder
from semisam.run.build import recognise_dataset


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("style", ["msd", "nnunet1", "nnunet2"])
def test_reads_the_three_styles(tmp_path, style, channels):
    write_msd(tmp_path, style, channels)
    assert recognise_dataset(tmp_path) == "msd"
    data = Decathlon(tmp_path, modality="none", crop="none")
    assert data.class_names == ("background", "organ", "lesion")
    assert data.channels == channels
    image, label = scan(0)
    want = np.stack([image + 7 * c for c in range(channels)])
    assert np.array_equal(data.image("case_000").array, want.astype(np.float32))
    assert np.array_equal(data.label("case_000"), label)
    assert data.image("case_000").geometry.spacing == (1.0, 1.0, 2.0)
    split = data.split()
    assert "case_004" in split.train and not data.has_label("case_004")
    assert len(split.test) == 1 and len(split.train) == 4


@pytest.mark.parametrize("style", ["msd", "nnunet2"])
def test_a_new_label_belongs_in_labels_tr(tmp_path, style):
    write_msd(tmp_path, style, channels=1)
    data = Decathlon(tmp_path)
    assert data.layout.label_place("case_004") == tmp_path / "labelsTr" / "case_004.nii.gz"
    # The fault of a mask next to its scan names the path where the mask belongs.
    write(tmp_path / "imagesTr" / "case_004_label.nii.gz", scan(4)[1])
    (fault,) = check_folder(tmp_path, "msd", {}).faults
    assert "Save it as" in str(fault) and "labelsTr/case_004.nii.gz" in str(fault)


def edit(folder, **changes):
    path = folder / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_modality_by_channel(tmp_path):
    write_msd(tmp_path)
    edit(tmp_path, channel_names={"0": "CT", "1": "PET"})
    assert Decathlon(tmp_path).recipe.modalities == ("ct", "mr")
    assert Decathlon(tmp_path).channel_names == ("CT", "PET")
    edit(tmp_path, channel_names={"0": "CT", "1": "noNorm"})
    assert Decathlon(tmp_path).recipe.modalities == ("ct", "none")


def test_test_images(tmp_path):
    write_msd(tmp_path, "nnunet2", 1)
    image, label = scan(9)
    for case in "xy":
        write(tmp_path / "imagesTs" / f"{case}_0000.nii.gz", image, (1.0, 1.0, 2.0))
    data = Decathlon(tmp_path)
    assert {"x", "y"} <= set(data.split().train)  # no label: they can only be unlabeled
    for case in "xy":
        write(tmp_path / "labelsTs" / f"{case}.nii.gz", label, (1.0, 1.0, 2.0))
    data = Decathlon(tmp_path)
    assert data.split().test == ("x", "y") and len(data.split().train) == 5
    folds = [{"train": ["case_001", "case_002"], "val": ["case_000", "case_003"]}]
    (tmp_path / "splits_final.json").write_text(json.dumps(folds))
    assert Decathlon(tmp_path).split().test == ("case_000", "case_003")


def test_a_case_may_end_in_four_digits(tmp_path):
    write_msd(tmp_path, "msd", 1)
    for n in range(2):
        write(tmp_path / "imagesTr" / f"p_{n:04d}.nii.gz", scan(n)[0], (1.0, 1.0, 2.0))
        write(tmp_path / "labelsTr" / f"p_{n:04d}.nii.gz", scan(n)[1], (1.0, 1.0, 2.0))
    data = Decathlon(tmp_path)
    assert data.has_label("p_0000") and data.has_label("p_0001")


@pytest.mark.parametrize(
    ("changes", "pattern"),
    [
        ({"labels": {"background": 0, "a": [1, 2], "b": [2]}}, "regions that share a value"),
        ({"labels": {"organ": 1, "lesion": 2}}, "classes 0 .background., 1, 2"),
        ({"labels": {"background": 0, "ignore": 2}}, "classes 0 .background., 1, 2"),
        ({"labels": {"0": "background", "1": "organ", "2": "organ"}}, "once each"),
        ({"labels": None}, "'labels' must name the classes"),
        ({"channel_names": {}}, "must name the channels"),
        ({"channel_names": {"first": "CT"}}, "numbered 0, 1"),
        (
            {"training": [{"image": "../../x.nii.gz", "label": "labelsTr/case_000.nii.gz"}]},
            r"in the dataset's folder, got '\.\./\.\./x\.nii\.gz'",
        ),
        ({"training": [{"image": "/etc/x.nii.gz"}]}, "in the dataset's folder, got '/etc"),
        ({"training": 5}, "'training' must be a list of files, got 5. Correct it"),
        ({"test": True}, "'test' must be a list of files, got True. Correct it"),
        ({"training": [{"image": "imagesTr/gone.nii.gz"}]}, "got no image 'imagesTr/gone"),
    ],
)
def test_faults_of_the_description(tmp_path, changes, pattern):
    write_msd(tmp_path)
    edit(tmp_path, **changes)
    with pytest.raises(InputError, match=pattern):
        Decathlon(tmp_path)


def test_a_description_that_is_no_json(tmp_path):
    write_msd(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(InputError, match=r"dataset\.json: it must be a readable JSON file"):
        Decathlon(tmp_path)
    (tmp_path / "dataset.json").write_text("[" * 100000)
    with pytest.raises(InputError, match=r"dataset\.json: it must be a readable JSON file"):
        Decathlon(tmp_path)


def test_channels_that_are_missing_or_elsewhere(tmp_path):
    write_msd(tmp_path)
    write(tmp_path / "imagesTr" / "case_000_0001.nii.gz", scan(0)[0], (1.0, 1.0, 3.0))
    with pytest.raises(InputError, match="all channels of a scan must have one grid"):
        Decathlon(tmp_path).image("case_000")
    (tmp_path / "imagesTr" / "case_000_0001.nii.gz").unlink()
    with pytest.raises(InputError, match=r"must have the channels _0000 to _0001.*got _0000"):
        Decathlon(tmp_path)


@pytest.mark.parametrize(
    ("labels", "names", "want"),
    [
        ({"background": 0, "whole": [1, 2]}, ("whole",), {0: 0, 1: 1, 2: 1}),
        ({"background": 0, "organ": 1, "ignore": 2}, ("organ",), {0: 0, 1: 1, 2: IGNORE}),
        ({"0": "background", "2": "lesion", "1": "organ"}, ("organ", "lesion"), {1: 1, 2: 2}),
        ({"background": 0, "lesion": 2, "ignore": 1}, ("lesion",), {1: IGNORE, 2: 1}),
    ],
)
def test_regions_gaps_and_ignored_values_of_the_description(tmp_path, labels, names, want):
    write_msd(tmp_path)
    edit(tmp_path, labels=labels)
    data = Decathlon(tmp_path)
    raw = scan(0)[1]
    found = data.label("case_000")
    assert data.class_names == ("background", *names)
    for value, number in want.items():
        assert (found[raw == value] == number).all() and (raw == value).any()
