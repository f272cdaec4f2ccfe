"""NIfTI as nibabel reads it, and faults where a header is ambiguous."""

import nibabel as nib
import numpy as np
import pytest

from semisam.core.errors import InputError
from semisam.data.datasets.scans import read_channels, read_values
from semisam.data.images.files import Geometry, read_image, write_nifti
from semisam.data.images.headers import read_header
from semisam.data.images.preprocessing import geometry_from_json, geometry_to_json

OBLIQUE = np.array([[0.0, -1.92, 0.56, 3], [1.5, 0, 0, -4], [0, 0.56, 1.92, 5], [0, 0, 0, 1.0]])
VALUES = np.random.default_rng(0).normal(100, 20, (7, 6, 5)).astype(np.float32)


def save(path, array=VALUES, affine=OBLIQUE, q=1, s=1, kind=nib.Nifti1Image, unit="mm", **header):
    image = kind(array, affine)
    image.set_qform(affine if q else None, q)
    image.set_sform(affine if s else None, s)
    image.header.set_xyzt_units(unit)
    for name, value in header.items():
        image.header[name] = value
    nib.save(image, path)
    return path


def ras(geometry):
    axes = len(geometry.spacing)
    matrix = np.eye(4)
    matrix[:axes, :axes] = np.reshape(geometry.direction, (axes, axes)) * geometry.spacing
    matrix[:axes, 3] = geometry.origin
    return np.diag([-1, -1, 1, 1]) @ matrix


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII", "a.Nii.Gz", "a.hdr"])
@pytest.mark.parametrize(("q", "s"), [(1, 1), (1, 0), (0, 2), (0, 0), (2, 4)])
def test_voxels_and_place_are_nibabels(tmp_path, name, q, s):
    kind = nib.Nifti1Pair if name.endswith("hdr") else nib.Nifti1Image
    path = save(tmp_path / name.lower(), q=q, s=s, kind=kind)
    want = nib.load(path)
    values = want.get_fdata(dtype=np.float32)
    path = path.rename(tmp_path / name)
    array, geometry = read_image(path)
    assert np.array_equal(array, values)
    assert np.allclose(ras(geometry), want.affine, atol=1e-4)
    header = read_header(path)
    assert header.size == array.shape and header.spacing == geometry.spacing


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32, np.uint16, np.float64])
def test_types_and_scaling(tmp_path, kind):
    raw = np.arange(60).reshape(5, 4, 3).astype(kind)
    path = save(tmp_path / "a.nii.gz", raw)
    image = nib.Nifti1Image(raw, OBLIQUE)
    image.header.set_slope_inter(0.5, -7)
    nib.save(image, tmp_path / "b.nii.gz")
    for file in (path, tmp_path / "b.nii.gz"):
        assert np.array_equal(read_image(file)[0], nib.load(file).get_fdata(dtype=np.float32))


def test_nifti_2_and_colours(tmp_path):
    path = save(tmp_path / "a.nii", kind=nib.Nifti2Image)
    assert np.array_equal(read_image(path)[0], VALUES)
    colours = np.zeros((3, 4, 5), [(c, "u1") for c in "RGB"])
    colours["G"] = 7
    array, _ = read_image(save(tmp_path / "c.nii", colours))
    assert array.shape == (3, 3, 4, 5) and (array[1] == 7).all() and not array[0].any()


@pytest.mark.parametrize("shape", [(7, 6, 5, 1, 1), (7, 6, 5, 1)])
def test_axes_of_one_value_are_no_channels(tmp_path, shape):
    path = save(tmp_path / "a.nii.gz", VALUES.reshape(shape))
    array, _ = read_channels([path])
    assert np.array_equal(array, VALUES[None])
    assert np.array_equal(read_values(path)[0], VALUES)


def test_values_that_are_not_finite_stay(tmp_path):
    values = VALUES.copy()
    values[1, 2, 3], values[2, 2, 2] = np.nan, np.inf
    array, _ = read_image(save(tmp_path / "a.nii.gz", values))
    assert np.isnan(array[1, 2, 3]) and np.isinf(array[2, 2, 2])
    assert np.count_nonzero(~np.isfinite(array)) == 2


@pytest.mark.parametrize("shift", [0.05, 3.0])
def test_forms_that_differ(tmp_path, shift):
    image = nib.Nifti1Image(VALUES, OBLIQUE)
    image.set_qform(OBLIQUE, 1)
    moved = OBLIQUE.copy()
    moved[0, 3] += shift
    image.set_sform(moved, 2)
    nib.save(image, tmp_path / "a.nii")
    if shift < 0.1:
        assert np.allclose(ras(read_image(tmp_path / "a.nii")[1]), moved, atol=1e-4)
        return
    for read in (read_header, read_image):
        with pytest.raises(InputError, match=r"sform and qform must agree, .* 3 mm apart"):
            read(tmp_path / "a.nii")


@pytest.mark.parametrize(("degrees", "read"), [(0.03, True), (0.3, True), (8.0, False)])
def test_sheared_axes(tmp_path, degrees, read):
    affine = np.diag([1.0, 1.0, 1.5, 1.0])
    affine[0, 1] = np.tan(np.radians(degrees))
    path = save(tmp_path / "a.nii", affine=affine, q=0)
    if not read:
        with pytest.raises(InputError, match=r"axes of a scan must be perpendicular, got .* 8 deg"):
            read_image(path)
        return
    _, geometry = read_image(path)
    ends = np.array([6, 5, 4, 1.0])
    moved = np.linalg.norm((ras(geometry) - affine) @ ends)
    assert moved < 0.3
    write_nifti(tmp_path / "mask.nii.gz", np.ones(VALUES.shape, bool), geometry)
    mask = nib.load(tmp_path / "mask.nii.gz")
    assert np.array_equal(mask.affine, nib.load(path).affine)


@pytest.mark.parametrize(("q", "s"), [(1, 1), (1, 0), (0, 2), (0, 0), (4, 4)])
@pytest.mark.parametrize("unit", ["mm", "micron", "meter"])
def test_a_mask_has_the_forms_of_its_scan(tmp_path, q, s, unit):
    path = save(tmp_path / "a.nii.gz", q=q, s=s, unit=unit)
    array, geometry = read_image(path)
    geometry = geometry_from_json(geometry_to_json(geometry))
    write_nifti(tmp_path / "mask.nii.gz", array > 100, geometry)
    scan, mask = nib.load(path), nib.load(tmp_path / "mask.nii.gz")
    assert np.array_equal(mask.affine, scan.affine)
    for name in ("qform_code", "sform_code", "xyzt_units"):
        assert mask.header[name] == scan.header[name]
    if q:
        assert np.allclose(mask.get_qform(), scan.get_qform(), atol=1e-5)
    assert np.array_equal(np.asarray(mask.dataobj), array > 100)
    scale = {"mm": 1.0, "micron": 1e-3, "meter": 1e3}[unit]
    assert geometry.spacing == pytest.approx(np.array([1.5, 2.0, 2.0]) * scale, rel=1e-4)
    again = read_image(tmp_path / "mask.nii.gz")[1]
    assert again == geometry


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_a_spacing_that_is_none(tmp_path, bad):
    affine = np.diag([1.0, bad, 1.0, 1.0])
    image = nib.Nifti1Image(VALUES, None)
    image.header["sform_code"] = 1
    for n, row in enumerate(("srow_x", "srow_y", "srow_z")):
        image.header[row] = affine[n]
    nib.save(image, tmp_path / "a.nii")
    with pytest.raises(InputError, match=r"(spacing|transform) of a scan must be"):
        read_image(tmp_path / "a.nii")


def test_an_offset_outside_any_file_is_refused(tmp_path):
    path = save(tmp_path / "a.nii")
    raw = bytearray(path.read_bytes())
    raw[108:112] = np.float32(1e30).tobytes()
    path.write_bytes(raw)
    with pytest.raises(InputError, match="ends before its last voxel or is damaged"):
        read_image(path)


def test_a_spacing_from_the_wrong_field_is_not_taken(tmp_path):
    path = save(tmp_path / "a.nii", q=0, s=1)
    raw = bytearray(path.read_bytes())
    raw[80:92] = np.array([9.0, 9.0, 9.0], "<f4").tobytes()  # pixdim
    path.write_bytes(raw)
    assert read_image(path)[1].spacing == pytest.approx((1.5, 2.0, 2.0), rel=1e-4)


def test_analyze_is_refused(tmp_path):
    nib.save(nib.AnalyzeImage(VALUES.astype(np.int16), np.eye(4)), tmp_path / "a.hdr")
    with pytest.raises(InputError, match=r"must be NIfTI, got .*Analyze.*orientation"):
        read_image(tmp_path / "a.hdr")


def test_a_pair_without_its_other_half(tmp_path):
    save(tmp_path / "a.hdr", kind=nib.Nifti1Pair)
    (tmp_path / "a.img").unlink()
    with pytest.raises(InputError, match=r"a\.hdr"):
        read_image(tmp_path / "a.hdr")


@pytest.mark.parametrize("keep", [0, 3, 100, 347, 351, 360])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_any_cut_ends_in_one_sentence(tmp_path, name, keep):
    path = save(tmp_path / name)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError):
        read_image(path)


def test_random_damage_of_the_header_ends_in_a_sentence_or_is_harmless(tmp_path):
    rng = np.random.default_rng(0)
    whole = save(tmp_path / "a.nii").read_bytes()
    for n in range(300):
        raw = bytearray(whole)
        for place in rng.integers(0, 352, 3):
            raw[place] = rng.integers(256)
        (tmp_path / "b.nii").write_bytes(raw)
        try:
            array, geometry = read_image(tmp_path / "b.nii")
        except InputError:
            continue
        assert array.size and min(geometry.spacing) > 0, n


def test_vectors_of_two_axes(tmp_path):
    flat = Geometry((0.5, 2.0), (1.0, 2.0), (0.0, -1.0, 1.0, 0.0))
    write_nifti(tmp_path / "a.nii", VALUES[:, :, 0], flat)
    array, geometry = read_image(tmp_path / "a.nii")
    assert np.array_equal(array, VALUES[:, :, 0])
    assert np.allclose(ras(geometry), nib.load(tmp_path / "a.nii").affine)
