"""HDF5 files read nothing but themselves."""

import h5py
import numpy as np
import pytest

from semisam.core.errors import InputError
from semisam.data.images.hdf5 import open_hdf5, read_volume

CUBE = np.arange(60, dtype=np.float32).reshape(5, 4, 3)


def read(path):
    with open_hdf5(path) as file:
        return read_volume(file, "image")


def refused(path, pattern):
    with pytest.raises(InputError, match=pattern):
        read(path)


def test_a_volume(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("image", data=CUBE, compression="gzip", chunks=(2, 2, 2))
    assert np.array_equal(read(tmp_path / "a.h5"), CUBE)


def test_a_file_that_another_program_has_locked_is_read(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image"] = CUBE
    with (tmp_path / "a.h5").open("rb+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="lock"):
            h5py.File(tmp_path / "a.h5", "r", locking=True)
        assert np.array_equal(read(tmp_path / "a.h5"), CUBE)


def test_voxels_elsewhere(tmp_path):
    secret = tmp_path / "secret.raw"
    secret.write_bytes(b"SECRET" * 40)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = CUBE
    with h5py.File(tmp_path / "external.h5", "w") as file:
        kept = [(str(secret), 0, h5py.h5f.UNLIMITED)]
        file.create_dataset("image", (60,), "u1", external=kept)
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["image"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "x")
    with h5py.File(tmp_path / "soft.h5", "w") as file:
        file["x"] = CUBE
        file["image"] = h5py.SoftLink("/x")
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        layout = h5py.VirtualLayout(CUBE.shape, "f4")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", CUBE.shape)
        file.create_virtual_dataset("image", layout)
    for name in ("external", "link", "soft", "virtual"):
        refused(tmp_path / f"{name}.h5", "must be in the file itself")


def test_what_is_no_volume(tmp_path):
    for name, value in (
        ("text", "words"),
        ("object", np.array([b"a", b"b"], "S9")),
        ("compound", np.zeros(3, [("a", "f4"), ("b", "i4")])),
        ("scalar", 3.0),
        ("complex", CUBE.astype(complex)),
    ):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["image"] = value
        refused(tmp_path / f"{name}.h5", "must be a volume of numbers")
    with h5py.File(tmp_path / "group.h5", "w") as file:
        file.create_group("image")
    refused(tmp_path / "group.h5", "must be a volume, got a group")
    with h5py.File(tmp_path / "empty.h5", "w") as file:
        file["label"] = 1
    refused(tmp_path / "empty.h5", "must have the key 'image', got the keys: label")


def test_a_claim_that_the_file_cannot_hold(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("image", (4000, 4000, 4000), "f4", chunks=(8, 8, 8))
    refused(tmp_path / "a.h5", "more than its .* bytes or the memory can hold")


@pytest.mark.parametrize("keep", [0, 4, 100, 600, 2000])
def test_a_cut_file(tmp_path, keep):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image"] = CUBE.repeat(20)
    raw = (tmp_path / "a.h5").read_bytes()
    (tmp_path / "a.h5").write_bytes(raw[:keep])
    refused(tmp_path / "a.h5", "complete HDF5 file")


def test_a_damaged_header_of_a_volume(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image"] = CUBE
        place = h5py.h5o.get_info(file["image"].id).addr
    raw = bytearray((tmp_path / "a.h5").read_bytes())
    raw[place] ^= 0xFF
    (tmp_path / "a.h5").write_bytes(raw)
    refused(tmp_path / "a.h5", "complete HDF5 file")
