"""Names that are not UTF-8, at which SimpleITK ends the process."""

import os
import sys

import numpy as np
import pytest
from scan_files import scan, write, write_folder, write_series

from semisam.core.errors import InputError
from semisam.data.images.files import read_image
from semisam.data.images.headers import read_header
from semisam.data.tools.check import check_folder

ODD = os.fsdecode(b"M\xfcller")
REFUSED = r"must have a name in UTF-8, got .*M\\udcfcller.*\. Rename it\."

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")


@pytest.mark.parametrize("ending", [".mha", ".mhd", ".nrrd", ".gipl", ".tif"])
def test_no_such_file_reaches_simpleitk(tmp_path, ending):
    path = write(tmp_path / f"a{ending}", scan(0)[0].astype(np.uint8))
    path = path.rename(tmp_path / f"{ODD}{ending}")
    for read in (read_header, read_image):
        with pytest.raises(InputError, match=REFUSED):
            read(path)


def test_no_such_slice_reaches_simpleitk(tmp_path):
    write_series(tmp_path / "a", scan(0)[0], (1.0, 1.0, 1.0))
    (tmp_path / "a" / "slice_003.dcm").rename(tmp_path / "a" / f"{ODD}.dcm")
    for read in (read_header, read_image):
        with pytest.raises(InputError, match=REFUSED):
            read(tmp_path / "a")


def test_nifti_has_any_name(tmp_path):
    path = write(tmp_path / "a.nii.gz", scan(0)[0])
    assert np.array_equal(read_image(path.rename(tmp_path / f"{ODD}.nii.gz"))[0], scan(0)[0])


def test_a_check_lists_each(tmp_path):
    folder = write_folder(tmp_path / "a").rename(tmp_path / ODD)
    odd = [fault.problem for fault in check_folder(folder, "folder", {}).faults]
    assert len(odd) == 2 and all("must have a name in UTF-8" in problem for problem in odd), odd
