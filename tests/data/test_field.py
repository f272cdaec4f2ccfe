"""Inputs from the field that others could not use, each with the right outcome."""

import re
import runpy
from pathlib import Path

import pytest
from click.testing import CliRunner

from semisam.cli.main import main
from semisam.data.datasets.folder import ScanFolder
from semisam.data.datasets.la import LeftAtrium
from semisam.data.tools.check import check_folder

BUILD = Path(__file__).parents[3] / "shared" / "field" / "build.py"

FAULTS = {
    "dicom_gap": ("d", r"evenly spaced.*6 mm between"),
    "dicom_twice": ("d", "one slice at each position"),
    "dicom_two_series": ("a", "20 slices.*3 slices"),
    "nifti_nan": ("p1.nii.gz", "got 2 that are NaN"),
    "label_nan": ("p1_label.nii.gz", "got nan"),
    "sform_differs": ("p1.nii.gz", "sform and qform must agree"),
    "cut_upper_case": ("p1.NII", "must be complete"),
    "nrrd_carriage_return": ("x.nhdr", "carriage return"),
    "labels_0_255": ("p0_label.nii.gz", r"got 255 in 3 labels.*--set folder\.labels=255=1"),
    "label_outside_crop": ("p1_label.nii.gz", "must be inside the crop"),
}
FINE = ("lists_in_utf-8-sig", "lists_in_utf-16", "sheared", "label_named_p1_LABEL")
FINE += ("label_named_p1_seg", "formula_name")


@pytest.fixture(scope="module")
def field(tmp_path_factory):
    if not BUILD.is_file():
        pytest.skip("the inputs from the field are not there")
    folder = tmp_path_factory.mktemp("field") / "inputs"
    runpy.run_path(str(BUILD))["main"](folder)
    return folder


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_names_its_file(field, name):
    file, pattern = FAULTS[name]
    (fault,) = check_folder(field / name, "folder", {}).faults
    assert Path(fault.file).name == file
    assert re.search(pattern, f"{fault.problem} {fault.remedy}"), fault


@pytest.mark.parametrize("name", FINE)
def test_what_is_right_is_read(field, name):
    assert not check_folder(field / name, "folder", {}).faults
    shown = CliRunner().invoke(main, ["data", "check", str(field / name)])
    assert shown.exit_code == 0 and "No faults" in shown.output


@pytest.mark.parametrize("name", ["LABEL", "seg"])
def test_a_label_under_another_name_is_the_label(field, name):
    data = ScanFolder(field / f"label_named_p1_{name}")
    assert sorted((*data.split().train, *data.split().test)) == ["p0", "p1", "p2"]
    assert data.label("p1").any()


def test_a_volume_in_another_file_is_not_read(field):
    folder = field / "h5_external"
    (folder / "test.list").write_text("b\n")
    data = LeftAtrium(folder)
    with pytest.raises(Exception, match="stored in other files"):
        data.image("a")
