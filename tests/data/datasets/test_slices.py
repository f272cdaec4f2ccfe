"""The published slices: volumes of patients."""

import h5py
import numpy as np
import pytest
from published_slices import PATIENTS, TEST, volume, write_published_slices

from semisam.core.errors import InputError
from semisam.data.datasets.slices import PublishedSlices
from semisam.run.build import choose_labeled, patients_counted, recognise_dataset


def test_cases_are_volumes_in_the_order_of_the_list(tmp_path):
    data = PublishedSlices(write_published_slices(tmp_path))
    assert recognise_dataset(tmp_path) == "slices"
    names = [f"{patient}_frame{frame}" for patient in PATIENTS for frame in ("01", "02")]
    assert data.split().train == tuple(names) and data.split().test == TEST
    for case, number, depth in (("patient009_frame02", 2, 3), (TEST[0], 20, 4)):
        image, label = volume(number, depth)
        want = (image - image.mean()) / image.std()
        assert np.allclose(data.image(case).array[0], want.T, atol=1e-5)
        assert np.array_equal(data.label(case), label.T)
        assert data.image(case).geometry.spacing == (1.0, 1.0, 10.0)


def test_patients_are_labeled(tmp_path):
    data = PublishedSlices(write_published_slices(tmp_path))
    for subset in (0, 1):
        labeled, rest = choose_labeled(
            data.split(), 2, subset, data.has_label, patients_counted(data)
        )
        patients = {data.groups[case] for case in labeled}
        assert len(labeled) == 4 and len(patients) == 2
        assert patients.isdisjoint(data.groups[case] for case in rest)
        assert sorted((*labeled, *rest)) == sorted(data.split().train)
    with pytest.raises(InputError, match="number of training patients, 4, got 5"):
        choose_labeled(data.split(), 5, 0, data.has_label, patients_counted(data))


def test_a_patient_is_not_in_both_parts(tmp_path):
    write_published_slices(tmp_path)
    (tmp_path / "test.list").write_text("patient001_frame03\n")
    with pytest.raises(InputError, match=r"train_slices\.list and test\.list, got patient001"):
        PublishedSlices(tmp_path)


def test_without_a_test_list_the_validation_volumes_are_tested(tmp_path):
    write_published_slices(tmp_path)
    (tmp_path / "test.list").unlink()
    assert PublishedSlices(tmp_path).split().test == ("patient020_frame01",)
    (tmp_path / "val.list").write_text("../elsewhere\n")
    with pytest.raises(InputError, match=r"got \.\./elsewhere"):
        PublishedSlices(tmp_path)


def test_slices_of_two_sizes_are_refused(tmp_path):
    data = PublishedSlices(write_published_slices(tmp_path))
    path = tmp_path / "data" / "slices" / "patient001_frame01_slice_10.h5"
    with h5py.File(path, "w") as file:
        file["image"], file["label"] = np.zeros((4, 4)), np.zeros((4, 4))
    with pytest.raises(InputError, match=r"slice_10\.h5: 'image' must have 2 axes and the size"):
        data.image("patient001_frame01")
