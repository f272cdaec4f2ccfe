"""Image files: nothing may move, flip or change on the way to disk and back."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from semisam.core.errors import InputError
from semisam.data.images.files import Geometry, read_image, write_nifti


def rotation(*angles: float) -> np.ndarray:
    turn = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = [i for i in range(3) if i != axis]
        step = np.eye(3)
        step[a, a] = step[b, b] = np.cos(angle)
        step[a, b], step[b, a] = -np.sin(angle), np.sin(angle)
        turn = turn @ step
    return turn


OBLIQUE = tuple(rotation(0.3, -0.7, 1.1).ravel().tolist())
MIRRORED = tuple((rotation(0.3, -0.7, 1.1) @ np.diag([1, 1, -1.0])).ravel().tolist())
GEOMETRIES = {
    "plain": Geometry((1.0, 1.0, 1.0)),
    "anisotropic": Geometry((0.625, 0.7, 2.5), (-12.5, 3.0, 100.25)),
    "oblique": Geometry((0.625, 0.7, 2.5), (-12.5, 3.0, 100.25), OBLIQUE),
    "mirrored": Geometry((0.625, 0.7, 2.5), (-12.5, 3.0, 100.25), MIRRORED),
}


def assert_same_place(got: Geometry, expected: Geometry) -> None:
    ndim = len(expected.spacing)
    assert got.spacing == pytest.approx(expected.spacing, abs=1e-6)
    assert got.origin == pytest.approx(expected.origin or (0.0,) * ndim, abs=1e-4)
    direction = expected.direction or tuple(np.eye(ndim).ravel())
    assert got.direction == pytest.approx(direction, abs=1e-5)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_label_map_round_trip(tmp_path: Path, name, suffix):
    labels = np.random.default_rng(0).integers(0, 4, (5, 7, 3))
    path = tmp_path / f"case.01{suffix}"
    write_nifti(path, labels, GEOMETRIES[name])
    array, geometry = read_image(path)
    np.testing.assert_array_equal(array, labels)
    assert array.dtype == np.float32 and array.flags.c_contiguous
    assert_same_place(geometry, GEOMETRIES[name])
    assert list(tmp_path.iterdir()) == [path]


def test_a_voxel_lies_where_the_geometry_says(tmp_path: Path):
    geometry = GEOMETRIES["oblique"]
    mask = np.zeros((5, 7, 3), dtype=bool)
    mask[4, 2, 1] = True
    write_nifti(tmp_path / "m.nii.gz", mask, geometry)
    image = sitk.ReadImage(str(tmp_path / "m.nii.gz"))
    assert image.GetSize() == (5, 7, 3)
    assert image.GetPixel(4, 2, 1) == 1
    matrix = np.reshape(geometry.direction, (3, 3))
    place = np.array(geometry.origin) + matrix @ (np.array(geometry.spacing) * (4, 2, 1))
    np.testing.assert_allclose(
        image.TransformIndexToPhysicalPoint((4, 2, 1)), place, atol=1e-4, rtol=0
    )


def test_probabilities_with_channels_round_trip(tmp_path: Path):
    probs = np.random.default_rng(0).random((2, 5, 7, 3), dtype=np.float32)
    write_nifti(tmp_path / "p.nii.gz", probs, GEOMETRIES["oblique"])
    array, geometry = read_image(tmp_path / "p.nii.gz")
    np.testing.assert_array_equal(array, probs)
    assert_same_place(geometry, GEOMETRIES["oblique"])


def test_two_axes_round_trip(tmp_path: Path):
    image = np.arange(12, dtype=np.float64).reshape(3, 4)
    write_nifti(tmp_path / "s.nii", image, Geometry((0.5, 2.0), (3.0, -4.0)))
    array, geometry = read_image(tmp_path / "s.nii")
    np.testing.assert_array_equal(array, image)
    assert_same_place(geometry, Geometry((0.5, 2.0), (3.0, -4.0)))


@pytest.mark.parametrize(
    ("values", "stored"),
    [
        (np.array([True, False]), "8-bit unsigned integer"),
        (np.array([0, 255]), "8-bit unsigned integer"),
        (np.array([-1, 255]), "16-bit signed integer"),
        (np.array([0, 70000]), "32-bit signed integer"),
        (np.array([0.0, 0.5]), "32-bit float"),
    ],
)
def test_stored_in_the_smallest_type(tmp_path: Path, values, stored):
    write_nifti(tmp_path / "v.nii", values.reshape(2, 1, 1), GEOMETRIES["plain"])
    assert sitk.ReadImage(str(tmp_path / "v.nii")).GetPixelIDTypeAsString() == stored


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_reads_other_formats(tmp_path: Path, suffix):
    image = sitk.GetImageFromArray(np.arange(24, dtype=np.int16).reshape(2, 3, 4))
    image.SetSpacing((0.5, 1.0, 3.0))
    sitk.WriteImage(image, str(tmp_path / f"a{suffix}"))
    array, geometry = read_image(tmp_path / f"a{suffix}")
    assert array.shape == (4, 3, 2)
    assert array[1, 0, 0] == 1 and array[0, 1, 0] == 4 and array[0, 0, 1] == 12
    assert geometry.spacing == (0.5, 1.0, 3.0)


def write_series(folder: Path, volume: np.ndarray, series: str) -> None:
    """Slices in a file order that is not the order along z."""
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k in range(volume.shape[2]):
        image = sitk.GetImageFromArray(np.ascontiguousarray(volume[:, :, k].T)[None])
        image.SetSpacing((0.5, 0.75, 2.0))
        tags = {
            "0008|0060": "MR",
            "0020|000d": "1.2.3",
            "0020|000e": series,
            "0008|0018": f"{series}.{k + 1}",
            "0020|0032": f"1\\2\\{3 + 2 * k}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0020|0013": str(k + 1),
        }
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        image.SetOrigin((1.0, 2.0, 3.0 + 2.0 * k))
        writer.SetFileName(str(folder / f"{series}_{9 - k}.dcm"))
        writer.Execute(image)


def test_reads_a_dicom_folder(tmp_path: Path):
    volume = np.random.default_rng(0).integers(0, 900, (6, 5, 4)).astype(np.int16)
    write_series(tmp_path, volume, "1.2.3.4")
    array, geometry = read_image(tmp_path)
    np.testing.assert_array_equal(array, volume)
    assert_same_place(geometry, Geometry((0.5, 0.75, 2.0), (1.0, 2.0, 3.0)))
    write_series(tmp_path, volume, "1.2.3.5")
    with pytest.raises(InputError, match="one DICOM series or one must be chosen, got these 2"):
        read_image(tmp_path)


def test_refuses_what_is_not_an_image(tmp_path: Path):
    with pytest.raises(InputError, match="which does not exist"):
        read_image(tmp_path / "missing.nii.gz")
    with pytest.raises(InputError, match="got none"):
        read_image(tmp_path)
    for name in ("text.nii.gz", "text.xyz"):
        (tmp_path / name).write_text("not an image")
        with pytest.raises(InputError, match=r"image must be (readable|DICOM or end in)"):
            read_image(tmp_path / name)
    series = sitk.Image((3, 3, 3, 2), sitk.sitkFloat32)
    sitk.WriteImage(series, str(tmp_path / "t.nii"))
    with pytest.raises(InputError, match="2 or 3 axes"):
        read_image(tmp_path / "t.nii")


@pytest.mark.parametrize(
    "suffix", [".nii", ".nii.gz", ".nrrd", ".mha", ".gipl", ".gipl.gz", ".hdr"]
)
def test_refuses_a_file_that_ends_early(tmp_path: Path, suffix):
    values = np.random.default_rng(0).random((9, 9, 9), dtype=np.float32)
    path = tmp_path / f"cut{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(values), str(path))
    read_image(path)
    voxels = path.with_suffix(".img") if suffix == ".hdr" else path
    voxels.write_bytes(voxels.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"must be (complete|readable), got"):
        read_image(path)


def test_refuses_what_cannot_be_written(tmp_path: Path):
    cube, plain = np.zeros((3, 3, 3)), GEOMETRIES["plain"]
    with pytest.raises(InputError, match=r"end in \.nii"):
        write_nifti(tmp_path / "a.npz", cube, plain)
    with pytest.raises(InputError, match="folder must exist"):
        write_nifti(tmp_path / "no" / "a.nii", cube, plain)
    with pytest.raises(InputError, match="3 axes"):
        write_nifti(tmp_path / "a.nii", cube[0], plain)
    with pytest.raises(InputError, match="bool, int or float"):
        write_nifti(tmp_path / "a.nii", cube.astype(complex), plain)
    with pytest.raises(InputError, match="32 bits"):
        write_nifti(tmp_path / "a.nii", np.full((1, 1, 1), 2**40), plain)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch):
    path = tmp_path / "a.nii"
    write_nifti(path, np.ones((2, 2, 2)), GEOMETRIES["plain"])

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(nibabel, "save", fail)
    with pytest.raises(InputError, match="disk full"):
        write_nifti(path, np.zeros((2, 2, 2)), GEOMETRIES["plain"])
    assert read_image(path)[0].all()
    assert list(tmp_path.iterdir()) == [path]


def test_geometry_is_checked():
    with pytest.raises(InputError, match="positive"):
        Geometry((1.0, 0.0, 1.0))
    with pytest.raises(InputError, match="origin"):
        Geometry((1.0, 1.0, 1.0), (0.0, 0.0))
    with pytest.raises(InputError, match="9 numbers"):
        Geometry((1.0, 1.0, 1.0), None, (1.0, 0.0, 0.0, 1.0))
    with pytest.raises(InputError, match="orthogonal"):
        Geometry((1.0, 1.0), None, (1.0, 0.5, 0.0, 1.0))


def test_a_tiff_without_its_last_pages_is_refused(tmp_path: Path):
    path = tmp_path / "a.tif"
    values = np.random.default_rng(0).integers(0, 60000, (9, 20, 20)).astype(np.uint16)
    sitk.WriteImage(sitk.GetImageFromArray(values), str(path))
    assert np.array_equal(read_image(path)[0].T, values)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(InputError, match="must be complete"):
        read_image(path)


@pytest.mark.parametrize("ending", ["nrrd", "png", "tif", "gipl", "mha"])
def test_a_file_is_read_as_what_its_name_says(tmp_path: Path, ending):
    meta = tmp_path / "a.mha"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 4, 4), np.uint8)), str(meta))
    other = tmp_path / f"b.{ending}"
    other.write_bytes(meta.read_bytes())
    if ending == "mha":
        read_image(other)
        return
    with pytest.raises(InputError, match=r"must be (readable|complete)"):
        read_image(other)
