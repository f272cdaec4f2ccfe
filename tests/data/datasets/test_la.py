"""The published layout of the left atrium data."""

import h5py
import numpy as np
import pytest

from semisam.core.errors import InputError
from semisam.data.datasets.la import LeftAtrium


def write_case(folder, case, *, depth=8, label=True, attr=None, **extra):
    (folder / case).mkdir(parents=True, exist_ok=True)
    path = folder / case / "mri_norm2.h5"
    rng = np.random.default_rng(len(case))
    with h5py.File(path, "w") as file:
        file["image"] = rng.normal(size=(10, 9, depth)).astype(np.float32)
        if label:
            mask = np.zeros((10, 9, depth), np.uint8)
            mask[3:6, 3:6, 2:5] = 1
            file["label"] = mask
        if attr is not None:
            file.attrs["spacing"] = attr
        for key, value in extra.items():
            file[key] = value
    return path


def write_lists(folder, train="a\nb\n", test="c\n"):
    (folder / "train.list").write_text(train)
    (folder / "test.list").write_text(test)


@pytest.fixture
def folder(tmp_path):
    write_lists(tmp_path)
    for case in "abc":
        write_case(tmp_path, case)
    return tmp_path


def test_reads_the_layout(folder):
    data = LeftAtrium(folder)
    assert data.split().train == ("a", "b")
    assert data.split().test == ("c",)
    image, label = data.image("a"), data.label("a")
    assert image.array.shape == (1, 10, 9, 8)
    assert image.array.dtype == np.float32
    assert not image.has_geometry
    assert label.shape == (10, 9, 8)
    assert label.dtype == np.uint8
    assert label.sum() == 27
    assert data.has_label("a")
    assert "truth" in data.note


def test_lists_tolerate_blank_lines_and_file_names(folder):
    write_lists(folder, "\n a/mri_norm2.h5 \n\nb/\n\n", "c")
    assert LeftAtrium(folder).split().train == ("a", "b")


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "C:\\x", "..", "..\\x", "/"])
def test_a_case_outside_the_folder_is_refused(folder, name):
    write_lists(folder, f"a\n{name}\n")
    with pytest.raises(InputError, match="next to the list, got"):
        LeftAtrium(folder)


def test_a_case_in_both_lists_is_refused(folder):
    write_lists(folder, "a\nb\n", "b\n")
    with pytest.raises(InputError, match=r"both train\.list and test\.list, got b"):
        LeftAtrium(folder)


def test_a_case_listed_twice_is_refused(folder):
    write_lists(folder, "a\nb\na/mri_norm2.h5\n")
    with pytest.raises(InputError, match="got a twice"):
        LeftAtrium(folder)


def test_missing_and_empty_lists(folder):
    write_lists(folder, "\n\n")
    with pytest.raises(InputError, match="at least one case"):
        LeftAtrium(folder)
    (folder / "train.list").unlink()
    with pytest.raises(InputError, match=r"train\.list: the list must exist"):
        LeftAtrium(folder)


def test_no_path():
    with pytest.raises(InputError, match="got no path"):
        LeftAtrium()


def test_recognises(folder, tmp_path_factory):
    assert LeftAtrium.recognises(folder)
    assert not LeftAtrium.recognises(tmp_path_factory.mktemp("other"))


@pytest.mark.parametrize(
    ("depth", "option", "attr", "expected"),
    [
        (88, None, None, (0.625,) * 3),
        (44, None, None, (1.25,) * 3),
        (60, None, None, (0.625,) * 3),
        (44, 2.0, None, (2.0,) * 3),
        (44, 2.0, 0.5, (0.5,) * 3),
        (44, None, (1.0, 2.0, 3.0), (1.0, 2.0, 3.0)),
    ],
)
def test_spacing(folder, depth, option, attr, expected):
    write_case(folder, "a", depth=depth, attr=attr)
    assert tuple(LeftAtrium(folder, spacing=option).image("a").geometry.spacing) == expected


@pytest.mark.parametrize("attr", [0.0, (1.0, 2.0), "wide", float("nan")])
def test_a_senseless_spacing_attribute_is_refused(folder, attr):
    write_case(folder, "a", attr=attr)
    with pytest.raises(InputError, match=r"a.mri_norm2\.h5: the attribute 'spacing'"):
        LeftAtrium(folder).image("a")


def test_a_senseless_spacing_option_is_refused(folder):
    with pytest.raises(InputError, match="positive number of mm, got -1"):
        LeftAtrium(folder, spacing=-1)


def test_image_does_not_need_the_label(folder):
    path = write_case(folder, "a", label=False)
    data = LeftAtrium(folder)
    assert data.image("a").array.shape == (1, 10, 9, 8)
    assert not data.has_label("a")
    with pytest.raises(InputError, match="must have the key 'label', got the keys: image"):
        data.label("a")
    with h5py.File(path, "a") as file:  # a label whose voxels cannot be read at all
        file["label"] = h5py.ExternalLink("nowhere.h5", "/x")
    assert data.image("a").array.shape == (1, 10, 9, 8)


def test_a_label_that_would_wrap_around_is_refused(folder):
    path = write_case(folder, "a", label=False)
    with h5py.File(path, "a") as file:
        file["label"] = np.full((10, 9, 8), 256, np.int16)
    with pytest.raises(InputError, match="integers from 0 to 255, got 256"):
        LeftAtrium(folder).label("a")


def test_a_float_label_of_whole_numbers_is_taken(folder):
    path = write_case(folder, "a", label=False)
    with h5py.File(path, "a") as file:
        file["label"] = np.ones((10, 9, 8), np.float32)
    assert LeftAtrium(folder).label("a").sum() == 720


def test_real_half_resolution_data(shared):
    data = LeftAtrium(shared / "data" / "la_half")
    assert LeftAtrium.recognises(shared / "data" / "la_half")
    split = data.split()
    assert (len(split.train), len(split.test)) == (80, 20)
    image, label = data.image(split.train[0]), data.label(split.train[0])
    assert image.geometry.spacing == (1.25,) * 3
    assert image.array.shape == (1, *label.shape)
    assert set(np.unique(label)) == {0, 1}


def test_real_full_resolution_data(shared):
    data = LeftAtrium(shared / "data" / "la_full_sample")
    image = data.image(data.split().test[0])
    assert image.array.shape[-1] == 88
    assert image.geometry.spacing == (0.625,) * 3


@pytest.mark.parametrize(("folder", "want"), [("la_half", (64, 64, 48)), ("la_full_sample", None)])
def test_half_resolution_suggests_the_papers_patch_in_voxels(shared, folder, want):
    suggested = LeftAtrium(shared / "data" / folder).suggested
    assert suggested.get("patch") == want


def test_a_canvas_moves_image_and_label_together(folder):
    plain, moved = LeftAtrium(folder), LeftAtrium(folder, canvas=1.4)
    places = set()
    for case in "abc":
        image, label = moved.image(case).array[0], moved.label(case)
        assert image.shape == label.shape == (14, 13, 11)
        corner = np.argwhere(label).min(0) - np.argwhere(plain.label(case)).min(0)
        inside = tuple(slice(c, c + n) for c, n in zip(corner, (10, 9, 8), strict=True))
        assert np.array_equal(image[inside], plain.image(case).array[0])
        assert (np.delete(image, np.r_[inside[0]], 0) == image.min()).all()
        assert label.sum() == 27
        places.add(tuple(corner))
    assert len(places) == 3


@pytest.mark.parametrize("canvas", [0.9, 5.0, float("nan")])
def test_a_canvas_is_as_large_as_the_scan_or_more(folder, canvas):
    with pytest.raises(InputError, match="canvas must be from 1 to 4"):
        LeftAtrium(folder, canvas=canvas)
