"""Files that lie: about their size, or about where their data are."""

import struct

import numpy as np
import pytest
import SimpleITK as sitk
from scan_files import scan, write, write_series

from semisam.core.errors import InputError
from semisam.data.images.files import read_image
from semisam.data.images.headers import read_header


def test_headers_without_voxels(tmp_path):
    path = write(tmp_path / "a.nrrd", scan(0)[0], (0.5, 0.75, 2.0))
    header = read_header(path)
    assert header.size == (20, 18, 16)
    assert header.spacing == (0.5, 0.75, 2.0)
    assert header.components == 1
    write_series(tmp_path / "series", scan(0)[0], (0.5, 0.75, 2.0))
    header = read_header(tmp_path / "series")
    assert header.size == (20, 18, 16)
    assert header.spacing == pytest.approx((0.5, 0.75, 2.0))


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_nifti_that_claims_too_much(tmp_path, ending):
    path = write(tmp_path / f"a{ending}", np.zeros((4, 4, 4), np.int16))
    if ending == ".nii":
        raw = bytearray(path.read_bytes())
        raw[40:56] = struct.pack("<8h", 3, 30000, 30000, 30000, 1, 1, 1, 1)
        path.write_bytes(bytes(raw))
    else:
        import gzip

        raw = bytearray(gzip.decompress(path.read_bytes()))
        raw[40:56] = struct.pack("<8h", 3, 30000, 30000, 30000, 1, 1, 1, 1)
        path.write_bytes(gzip.compress(bytes(raw)))
    with pytest.raises(InputError, match=r"a\.nii.*claims 30000 x 30000 x 30000"):
        read_image(path)


def test_an_nrrd_that_claims_too_much(tmp_path):
    path = tmp_path / "a.nrrd"
    path.write_bytes(
        b"NRRD0004\ntype: short\ndimension: 3\nsizes: 90000 90000 90000\nencoding: gzip\n"
        b"endian: little\n\n" + b"\0" * 64
    )
    with pytest.raises(InputError, match=r"must fit into memory.*90000 x 90000 x 90000"):
        read_image(path)


@pytest.mark.parametrize("name", ["../secret.raw", "/etc/passwd", "LIST", "s%03d.raw 1 5 1"])
def test_data_files_elsewhere_are_refused(tmp_path, name):
    secret = tmp_path / "secret.raw"
    secret.write_bytes(bytes(64))
    folder = tmp_path / "scans"
    folder.mkdir()
    (folder / "a.mhd").write_text(
        "ObjectType = Image\nNDims = 3\nDimSize = 4 4 4\nElementType = MET_UCHAR\n"
        f"ElementDataFile = {name}\n"
    )
    (folder / "a.nhdr").write_text(
        f"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 4 4 4\nencoding: raw\ndata file: {name}\n\n"
    )
    for file in ("a.mhd", "a.nhdr"):
        with pytest.raises(InputError, match="one data file in its own folder"):
            read_image(folder / file)


def test_a_data_file_beside_its_header_is_read(tmp_path):
    image = scan(0)[0]
    sitk.WriteImage(sitk.GetImageFromArray(image.T), str(tmp_path / "a.mhd"))
    assert np.array_equal(read_image(tmp_path / "a.mhd")[0], image)


def nrrd(path, *lines):
    head = ("NRRD0004", "type: uint8", "dimension: 3", "sizes: 4 4 4", "encoding: raw", *lines)
    path.write_bytes(("\n".join(head) + "\n\n").encode() + bytes(64))
    return path


def test_a_spacing_of_nrrd_that_itk_would_replace(tmp_path):
    for n, (lines, rule) in enumerate(
        (
            (["spacings: 1 nan 1"], "must be finite"),
            (["spacings: 1 1 inf"], "must be finite"),
            (["space: left-posterior-superior", 'space units: "m" "m" "m"'], "must be mm"),
        )
    ):
        with pytest.raises(InputError, match=rule):
            read_header(nrrd(tmp_path / f"{n}.nrrd", *lines))
    fine = nrrd(tmp_path / "a.nrrd", "spacings: 1 2 3", "kinds: domain domain domain")
    assert read_header(fine).spacing == (1.0, 2.0, 3.0)
    channels = "kinds: vector domain domain"
    read_header(nrrd(tmp_path / "b.nrrd", "spacings: nan 1 1", channels))
