"""DICOM series: one evenly spaced stack, or a fault that names the files."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from semisam.core.errors import InputError
from semisam.data.datasets.folder import ScanFolder
from semisam.data.datasets.grids import grids_of
from semisam.data.images import dicom
from semisam.data.images.dicom import is_series, read_stack
from semisam.data.images.files import read_image
from semisam.data.images.headers import read_header
from semisam.data.tools.check import check_folder

TILTED = (0.96, 0.28, 0.0, -0.28, 0.96, 0.0)
ROWS, COLUMNS = 6, 8


def write_slice(path, k, position, *, cosines=(1, 0, 0, 0, 1, 0), preamble=True, **tags):
    """Write one slice whose pixels hold ``10 k + column``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = pydicom.Dataset()
    header.SOPClassUID = MRImageStorage
    header.SOPInstanceUID = tags.pop("uid", f"1.2.3.{k + 1}.{abs(hash(path.name)) % 10**8}")
    header.PatientID, header.SeriesInstanceUID, header.Modality = "p", "1.2.3.4", "MR"
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.Rows, header.Columns = ROWS, COLUMNS
    header.BitsAllocated = header.BitsStored = 16
    header.HighBit, header.PixelRepresentation = 15, 0
    header.PixelSpacing, header.SliceThickness = [0.5, 2.0], 9.0
    header.ImagePositionPatient = [float(x) for x in position]
    header.ImageOrientationPatient = [float(x) for x in cosines]
    for name, value in tags.items():
        if value is None:
            delattr(header, name)
        else:
            setattr(header, name, value)
    pixels = 10 * k + np.arange(header.Columns)[None] + np.zeros((header.Rows, 1))
    header.PixelData = pixels.astype("<u2").tobytes()
    if preamble:
        header.file_meta = FileMetaDataset()
        header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        header.save_as(path, enforce_file_format=True)
    else:
        header.save_as(path, implicit_vr=True, little_endian=True)


def write_stack(folder, count=7, step=2.5, cosines=TILTED, names="{:03d}.dcm", **tags):
    """Write slices whose names run against their positions."""
    axes = np.reshape(cosines, (2, 3)).T
    normal = np.cross(axes[:, 0], axes[:, 1])
    for k in range(count):
        place = np.array([5.0, -3.0, 11.0]) + k * step * normal
        write_slice(folder / names.format(count - k), k, place, cosines=cosines, **tags)
    return folder, normal


def fault(folder, pattern, series=""):
    """Check that header, voxels and training all refuse a folder in one sentence."""
    with pytest.raises(InputError, match=pattern) as found:
        read_stack(folder, series)
    for read in (read_header, lambda path, series: read_image(path, series=series)):
        with pytest.raises(InputError) as again:
            read(folder, series)
        assert str(again.value) == str(found.value)


@pytest.mark.parametrize("cosines", [(1, 0, 0, 0, 1, 0), TILTED, (0, 1, 0, 0, 0, -1)])
def test_each_voxel_is_where_its_slice_was(tmp_path, cosines):
    folder, normal = write_stack(tmp_path / "a", cosines=cosines)
    array, geometry = read_image(folder)
    assert array.shape == (COLUMNS, ROWS, 7)
    matrix = np.reshape(geometry.direction, (3, 3)) * geometry.spacing
    for k in range(7):
        assert np.all(array[:, :, k] == 10 * k + np.arange(COLUMNS)[:, None])
        at = np.array(geometry.origin) + matrix @ (0, 0, k)
        assert np.allclose(at, np.array([5.0, -3.0, 11.0]) + 2.5 * k * normal, atol=1e-6)
    assert geometry.spacing == pytest.approx((2.0, 0.5, 2.5))
    assert np.allclose(matrix[:, 0], 2.0 * np.array(cosines[:3]))
    header = read_header(folder)
    assert header.spacing == geometry.spacing and header.size == array.shape
    (grid,) = grids_of([folder])
    assert sorted(grid.spacing) == pytest.approx([0.5, 2.0, 2.5])


def test_each_slice_is_scaled_by_its_own_slope(tmp_path):
    for k in range(4):
        tags = {"RescaleSlope": k + 0.5, "RescaleIntercept": -k}
        write_slice(tmp_path / "a" / f"{k}.dcm", k, (0, 0, k), **tags)
    array, _ = read_image(tmp_path / "a")
    for k in range(4):
        assert np.allclose(array[:, 0, k], (10 * k + np.arange(COLUMNS)) * (k + 0.5) - k)


def test_files_are_found_in_folders_of_their_own_among_others(tmp_path):
    write_stack(tmp_path / "a" / "study" / "series", names="IM{:04d}", preamble=False)
    for name in ("notes.txt", "Thumbs.db", "study/DICOMDIR", "study/empty"):
        (tmp_path / "a" / name).write_bytes(b"" if "empty" in name else b"\x08\x00 not an image")
    for n in range(8):
        (tmp_path / "a" / f"a{n}.log").write_text("a log")
    assert is_series(tmp_path / "a")
    array, _ = read_image(tmp_path / "a")
    assert array.shape == (COLUMNS, ROWS, 7)
    assert not is_series(tmp_path / "a" / "study" / "empty")


def test_any_number_of_other_files_between_slices_hides_none(tmp_path):
    for k in range(4):
        write_slice(tmp_path / "a" / f"{'a' if k < 2 else 'z'}{k}.dcm", k, (0, 0, k))
    for n in range(dicom._LOOKED_AT + 20):
        (tmp_path / "a" / f"m{n}.json").write_text("{}")
    assert read_image(tmp_path / "a")[0].shape[2] == 4


def test_a_report_is_no_slice(tmp_path):
    folder, _ = write_stack(tmp_path / "a")
    write_slice(folder / "sr.dcm", 0, (0, 0, 0), SeriesInstanceUID="9.9")
    report = pydicom.dcmread(folder / "sr.dcm")
    del report.Rows, report.Columns, report.PixelData
    report.save_as(folder / "sr.dcm")
    assert read_image(folder)[0].shape[2] == 7


def test_a_gap(tmp_path):
    folder, _ = write_stack(tmp_path / "a")
    (folder / "004.dcm").unlink()
    fault(folder, r"evenly spaced, got 1 step other than 2\.5 mm .* of 5 mm between 005\.dcm")


def test_rounded_positions_are_even(tmp_path):
    for k in range(9):
        write_slice(tmp_path / "a" / f"{k}.dcm", k, (0, 0, round(k * 0.625, 2)))
    assert read_stack(tmp_path / "a").spacing[2] == pytest.approx(0.625)


def test_a_gap_at_the_steps_of_a_micro_scanner(tmp_path):
    for k in (0, 1, 2, 4, 5, 6):
        write_slice(tmp_path / "a" / f"{k}.dcm", k, (0, 0, 0.008 * k))
    fault(tmp_path / "a", r"evenly spaced, got 1 step other than 0\.008 mm")
    write_slice(tmp_path / "a" / "3.dcm", 3, (0, 0, 0.024))
    assert read_stack(tmp_path / "a").spacing[2] == pytest.approx(0.008)


def test_copies(tmp_path):
    folder, _ = write_stack(tmp_path / "a")
    for path in sorted(folder.iterdir()):
        (folder / f"copy_{path.name}").write_bytes(path.read_bytes())
    fault(folder, "one slice at each position, got 2 .* copies of one image")


@pytest.mark.parametrize(
    ("tag", "name"),
    [
        ("EchoNumbers", "echo"),
        ("TemporalPositionIdentifier", "time point"),
        ("DiffusionBValue", "b-value"),
    ],
)
def test_several_volumes_are_told_apart(tmp_path, tag, name):
    for value in (1, 2):
        write_stack(tmp_path / "a", names=f"v{value}_{{}}.dcm", **{tag: value})
    fault(
        tmp_path / "a", f"differ in {name} .slices by {name}: 1.*: 7, 2.*: 7.*folder of their own"
    )


def test_a_slice_of_another_patient_size_or_orientation(tmp_path):
    for name, pattern, tags in (
        ("patient", "of one patient", {"PatientID": "q"}),
        ("size", "of one size", {"Rows": 5}),
        ("spacing", "of one pixel spacing", {"PixelSpacing": [0.5, 0.5]}),
        ("oriented", "parallel", {"cosines": (0, 1, 0, 0, 0, -1)}),
    ):
        folder, normal = write_stack(tmp_path / name)
        tags = {"cosines": TILTED, **tags}
        write_slice(folder / "odd.dcm", 9, np.array([5.0, -3.0, 11.0]) + 7 * 2.5 * normal, **tags)
        fault(folder, f"must be {pattern}, got 1 slice that differ.*: odd.dcm")


def test_a_tilted_gantry(tmp_path):
    for k in range(5):
        write_slice(tmp_path / "a" / f"{k}.dcm", k, (0, 0.3 * k, 2.0 * k))
    fault(tmp_path / "a", r"one above the other.*shifted by up to 1\.2 mm.*tilted gantry")


def test_a_mosaic(tmp_path):
    write_slice(tmp_path / "a" / "1.dcm", 0, (0, 0, 0), ImageType=["ORIGINAL", "PRIMARY", "MOSAIC"])
    fault(tmp_path / "a", "one slice, got a mosaic")
    fault(tmp_path / "a" / "1.dcm", "one slice, got a mosaic")


def test_a_slice_without_position(tmp_path):
    folder, _ = write_stack(tmp_path / "a")
    write_slice(folder / "odd.dcm", 9, (0, 0, 0), ImagePositionPatient=None)
    fault(folder, "state its position and orientation, got none in odd.dcm")


def test_a_slice_without_pixel_spacing(tmp_path):
    folder, _ = write_stack(tmp_path / "a", count=2, PixelSpacing=None)
    fault(folder, r"each slice must state its PixelSpacing, got none in 001\.dcm, 002\.dcm\. ")
    write_stack(tmp_path / "b", PixelSpacing=None, ImagerPixelSpacing=[0.5, 2.0])
    assert read_header(tmp_path / "b").spacing == pytest.approx((2.0, 0.5, 2.5))
    nothing = dict.fromkeys(("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient"))
    write_slice(tmp_path / "c.dcm", 0, (0, 0, 0), **nothing)
    assert read_image(tmp_path / "c.dcm")[1].spacing == (1.0, 1.0, 1.0)


def test_a_cut_file(tmp_path):
    folder, _ = write_stack(tmp_path / "a")
    raw = (folder / "003.dcm").read_bytes()
    (folder / "003.dcm").write_bytes(raw[:-2])
    fault(folder, r"must be complete, got .*003\.dcm")


@pytest.mark.parametrize("keep", [140, 200, 300, 500])
def test_a_cut_header_ends_in_one_sentence(tmp_path, keep):
    folder, _ = write_stack(tmp_path / "a")
    raw = (folder / "003.dcm").read_bytes()
    (folder / "003.dcm").write_bytes(raw[:keep])
    fault(folder, r"003\.dcm|evenly spaced|state its position|DICOM series")


def test_a_transfer_syntax_that_is_none_ends_in_one_sentence(tmp_path):
    folder, _ = write_stack(tmp_path / "a")
    path = folder / "003.dcm"
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1", b"1.2.840.10008.9.9.9", 1))
    fault(folder, r"must have a readable header")


def test_a_series_is_chosen(tmp_path):
    write_stack(tmp_path / "a", SeriesNumber=3, SeriesDescription="T1 axial")
    other = {"SeriesInstanceUID": "1.2.3.9", "SeriesNumber": 31, "SeriesDescription": "Localiser"}
    write_stack(tmp_path / "a", count=3, step=9.0, names="loc{}.dcm", **other)
    listed = r"got these 2 .*: 3 T1 axial \(7 slices\); 31 Localiser \(3 slices\).*folder.series"
    fault(tmp_path / "a", listed)
    for choice in ("3", "t1", "1.2.3.4"):
        assert read_stack(tmp_path / "a", choice).size[2] == 7
    assert read_image(tmp_path / "a", series="Local")[1].spacing[2] == pytest.approx(9.0)
    fault(tmp_path / "a", "got 0 that fit 'T2'", series="T2")


def test_a_choice_that_the_only_series_does_not_fit_is_refused(tmp_path):
    folder, _ = write_stack(tmp_path / "a", SeriesDescription="T2")
    fault(folder, "got 0 that fit 'T1'", series="T1")


def test_a_folder_of_scans_lists_its_series_and_checks_the_others(tmp_path):
    for n in range(3):
        write_stack(tmp_path / f"p{n}", SeriesDescription="T1")
        write_stack(tmp_path / f"p{n}_label", SeriesDescription="T1")
    more = {"SeriesInstanceUID": "1.2.3.9", "SeriesDescription": "Localiser"}
    write_stack(tmp_path / "p1", count=3, names="loc{}.dcm", **more)
    report = check_folder(tmp_path, "folder", {})
    assert len(report.cases) == 3
    odd = [fault for fault in report.faults if "DICOM series" in str(fault)]
    assert [Path(fault.file).name for fault in odd] == ["p1"]
    assert "Localiser (3 slices)" in odd[0].problem
    chosen = check_folder(tmp_path, "folder", {"series": "T1"})
    assert not [fault for fault in chosen.faults if "DICOM series" in str(fault)]
    with pytest.raises(InputError, match="Localiser"):
        ScanFolder(tmp_path)
    data = ScanFolder(tmp_path, series="T1")
    assert data.image("p1").array.shape == data.image("p0").array.shape
