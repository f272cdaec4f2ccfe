"""A folder of pictures as a dataset."""

import numpy as np
import pytest
from pictures import picture, save, write_pictures
from PIL import Image

from semisam.core.errors import InputError
from semisam.data.datasets.images import ImageFolder
from semisam.data.loading.store import VolumeStore
from semisam.data.tools.check import check_folder
from semisam.inference.inputs import gather_scans, left_out
from semisam.run.build import recognise_dataset


@pytest.mark.parametrize("folders", [True, False])
def test_pictures_and_masks_are_paired(tmp_path, folders):
    write_pictures(tmp_path, folders=folders)
    assert recognise_dataset(tmp_path) == "images"
    data = ImageFolder(tmp_path, longest=0)
    cases = (*data.split().train, *data.split().test)
    assert sorted(cases) == [f"p{n // 2}_{n}" for n in range(6)]
    assert [case for case in sorted(cases) if not data.has_label(case)] == ["p2_5"]
    assert (data.channels, data.num_classes, data.label_values) == (3, 2, (0, 255))
    array, label = picture(0)
    image = data.image("p0_0")
    assert image.array.shape == (3, *label.shape)
    assert np.allclose(image.array.mean((1, 2)), 0, atol=1e-5)
    want = (array - array.mean((1, 2), keepdims=True)) / array.std((1, 2), keepdims=True)
    assert np.allclose(image.array, want, atol=1e-4)  # colours are not mixed
    assert np.array_equal(data.label("p0_0"), label)
    assert not check_folder(tmp_path, "images", {}).faults


def test_a_grey_picture_among_coloured_ones_has_three_channels(tmp_path):
    write_pictures(tmp_path, grey=(1,))
    image = ImageFolder(tmp_path).image("p0_1").array
    assert len(image) == 3 and np.array_equal(image[0], image[2])
    write_pictures(tmp_path / "all", grey=range(6))
    assert ImageFolder(tmp_path / "all").channels == 1


def test_large_pictures_are_shrunk_and_scored_at_their_own_size(tmp_path):
    write_pictures(tmp_path)
    data = ImageFolder(tmp_path, longest=20)
    _, drawn = picture(1)
    image = data.image("p0_1")
    assert max(image.array.shape[1:]) == 20 and min(drawn.shape) > 20
    assert data.label("p0_1").shape == image.array.shape[1:]
    assert np.array_equal(data.drawn_label("p0_1"), drawn)
    share = data.label("p0_1").astype(np.float32)
    found = image.placement.classes(np.stack([1 - share, share]))
    assert 2 * (found & drawn).sum() / (found.sum() + drawn.sum()) > 0.85
    assert data.suggested["patch"] == (16, 16)


def test_the_check_shrinks_pictures_as_the_training_does(tmp_path):
    """It names the classes that a shrunk label loses, which is no fault, as in a training."""
    write_pictures(tmp_path)
    for n in range(5):
        label = np.zeros(picture(n)[1].shape, np.uint8)
        label[9, 9] = 255
        save(tmp_path / "masks" / f"p{n // 2}_{n}.png", label)
    assert not ImageFolder(tmp_path, longest=10).label("p0_0").any()
    for longest, said in ((0, False), (10, True)):
        report = check_folder(tmp_path, "images", {"longest": longest})
        assert any(case.lost for case in report.cases if case.case == "p0_0") is said
        assert not report.faults


def test_class_numbers_and_patients(tmp_path):
    write_pictures(tmp_path, value=1)
    data = ImageFolder(tmp_path, groups=r"^(p\d)")
    assert data.label_values is None
    assert len({case[:2] for case in data.split().train} & {c[:2] for c in data.split().test}) == 0


def test_a_mask_may_be_empty(tmp_path):
    write_pictures(tmp_path)
    empty = np.zeros(picture(0)[1].shape, np.uint8)
    save(tmp_path / "masks" / "p0_0.png", empty)
    data = ImageFolder(tmp_path)
    assert data.label_values == (0, 255)  # from the next mask
    store = VolumeStore(data, labeled=["p0_0", "p0_1"], unlabeled=[], test=[])
    store.check()
    assert not check_folder(tmp_path, "images", {}).faults
    with pytest.raises(InputError, match="must contain a foreground class, got none in p0_0"):
        VolumeStore(data, labeled=["p0_0"], unlabeled=["p0_1"], test=[]).check()


def test_unknown_values_are_one_sentence(tmp_path):
    write_pictures(tmp_path, value=7)
    data = ImageFolder(tmp_path)
    with pytest.raises(InputError, match=r"got 7. Map them with --set images.labels=7=1"):
        data.label("p0_0")
    with pytest.raises(InputError, match="must hold images <case>"):
        (tmp_path / "none").mkdir()
        ImageFolder(tmp_path / "none")


def test_masks_that_may_be_inverted_are_noted(tmp_path):
    write_pictures(tmp_path)
    for n in range(5):
        _, label = picture(n)
        save(tmp_path / "masks" / f"p{n // 2}_{n}.png", 255 * (1 - label))
    store = VolumeStore(ImageFolder(tmp_path), labeled=["p0_0", "p0_1"], unlabeled=[], test=[])
    store.check()
    for notes in (check_folder(tmp_path, "images", {}).notes, store.notes()):
        assert len(notes) == 1 and "images.labels=255=0,0=1" in notes[0]
    assert not check_folder(tmp_path, "images", {"labels": {255: 0, 0: 1}}).notes
    save(tmp_path / "masks" / "p0_0.png", 255 * picture(0)[1])
    assert not check_folder(tmp_path, "images", {}).notes


def test_pictures_that_viewers_turn_are_noted(tmp_path):
    write_pictures(tmp_path)
    array, _ = picture(0)
    turned = Image.fromarray(np.ascontiguousarray(array.T))
    turned.getexif()[0x0112] = 6
    turned.save(tmp_path / "images" / "p0_0.png", exif=turned.getexif())
    report = check_folder(tmp_path, "images", {})
    assert "The files of p0_0 state a turn" in report.notes[0]
    (fault,) = report.faults
    assert fault.remedy == "turn the label as viewers show the image"


def test_values_without_a_zero_are_background_and_object(tmp_path):
    write_pictures(tmp_path)
    for n in range(5):
        save(tmp_path / "masks" / f"p{n // 2}_{n}.png", picture(n)[1] + 1)
    (fault,) = check_folder(tmp_path, "images", {}).faults
    assert "images.labels=1=0,2=1, if 1 is the background" in fault.remedy


def test_masks_with_soft_edges_are_to_be_saved_again(tmp_path):
    write_pictures(tmp_path)
    size = picture(0)[1].shape
    save(tmp_path / "masks" / "p0_0.png", np.arange(np.prod(size)).reshape(size).astype(np.uint8))
    (fault,) = check_folder(tmp_path, "images", {}).faults
    assert fault.remedy.endswith("smoothed or compressed, save the masks again without")


def test_a_mask_with_the_name_of_its_picture(tmp_path):
    write_pictures(tmp_path, folders=False)
    (tmp_path / "p0_0_mask.png").rename(tmp_path / "p0_0.jpg")
    (fault,) = check_folder(tmp_path, "images", {}).faults
    assert fault.remedy.endswith("or name the mask p0_0_mask.png")


def test_masks_in_a_format_of_volumes_are_a_fault(tmp_path):
    write_pictures(tmp_path, folders=False)
    (tmp_path / "p0_0_mask.png").rename(tmp_path / "p0_0_mask.nii.gz")
    (fault,) = check_folder(tmp_path, "images", {}).faults
    assert fault.problem == "the mask of a picture must be a picture, got another format"
    with pytest.raises(InputError, match=r"p0_0_mask\.nii\.gz: the mask of a picture"):
        ImageFolder(tmp_path)


def test_a_stray_mask_does_not_hide_the_folders_of_classes(tmp_path):
    write_masks(tmp_path, LAYOUTS[0])
    save(tmp_path / "masks" / "legend.png", picture(0)[1])
    report = check_folder(tmp_path, "images", {})
    assert sum(case.labeled for case in report.cases) == 5
    assert [fault.file for fault in report.faults] == [str(tmp_path / "masks" / "legend.png")]


def test_a_second_mask_of_a_picture_is_to_be_merged(tmp_path):
    write_pictures(tmp_path, folders=False)
    save(tmp_path / "p0_0_mask_1.png", 255 * picture(0)[1])
    (fault,) = check_folder(tmp_path, "images", {}).faults
    assert fault.remedy.startswith(f"merge it into {tmp_path / 'p0_0_mask.png'}")


def test_pictures_of_an_unknown_format_are_named(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.webp").write_bytes(b"RIFF")
    save(tmp_path / "labels" / "a.png", picture(0)[1])
    with pytest.raises(InputError, match=r"1 files that no reader knows \(a.webp\)"):
        recognise_dataset(tmp_path)


LAYOUTS = ("masks/{}/{}.png", "{1}_{0}.png", "masks/{1}-{0}.png")


def write_masks(folder, layout, *, names="rim\ncup\n", shared=0):
    """Six pictures; five have one mask of the upper half and four also one of the lower half."""
    place = folder / "images" if layout.startswith("masks") else folder
    for n in range(6):
        array, label = picture(n)
        save(place / f"p{n}.png", array)
        rim, cup = label.copy(), label.copy()
        rim[:, 14 + shared :], cup[:, :14] = 0, 0
        if n < 5:
            save(folder / layout.format("rim", f"p{n}"), 255 * rim)
        if n < 4:
            save(folder / layout.format("cup", f"p{n}"), 7 * cup)
    if names:
        (folder / "classes.list").write_text(names)
    return folder


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_class_has_a_mask_of_its_own(tmp_path, layout):
    data = ImageFolder(write_masks(tmp_path, layout))
    assert data.class_names == ("background", "rim", "cup") and data.label_values is None
    _, want = picture(2)
    want[:, 14:] *= 2
    assert np.array_equal(data.label("p2"), want)
    assert set(np.unique(data.label("p4"))) == {0, 1}  # a class without a mask
    assert not data.has_label("p5")
    assert [path.name for path in data.files("p2")[1:]] == [
        (tmp_path / layout.format(name, "p2")).name for name in ("rim", "cup")
    ]
    assert not check_folder(tmp_path, "images", {}).faults
    assert list(gather_scans([tmp_path], 1)) == [f"p{n}" for n in range(6)]
    assert len(left_out([tmp_path])[0]) == 9


def test_folders_of_masks_name_the_classes(tmp_path):
    write_masks(tmp_path, LAYOUTS[0], names="")
    assert ImageFolder(tmp_path).class_names == ("background", "cup", "rim")
    with pytest.raises(InputError, match=r"name of a class \(rim, disc\), got cup"):
        ImageFolder(tmp_path, classes=("rim", "disc"))
    save(tmp_path / "p2_mask.png", picture(2)[1])
    faults = check_folder(tmp_path, "images", {}).faults
    assert all("one label, got also p2_mask.png" in fault.problem for fault in faults)
    assert len(faults) == 2


def test_masks_of_one_class_in_its_folder(tmp_path):
    for n in range(6):
        save(tmp_path / "images" / f"p{n}.png", picture(n)[0])
        save(tmp_path / "masks" / "polyp" / f"p{n}.png", 255 * picture(n)[1])
    data = ImageFolder(tmp_path)
    assert data.class_names == ("background", "polyp")
    assert np.array_equal(data.label("p1"), picture(1)[1])


def test_masks_of_two_classes_that_overlap_or_differ_in_size(tmp_path):
    write_masks(tmp_path, LAYOUTS[0], shared=2)
    save(tmp_path / "masks" / "cup" / "p3.png", picture(2)[1])
    faults = check_folder(tmp_path, "images", {}).faults
    assert len(faults) == 4
    for fault in faults[:3]:
        name = f"{fault.file.rpartition('/')[2]}"
        assert "must not overlap, got 24 voxels that are in both" in fault.problem
        assert f"rim/{name} and " in fault.problem and f"cup/{name}" in fault.problem
    assert "must have one grid" in faults[3].problem
    with pytest.raises(InputError, match=r"must not overlap, got 24 .* Remove them from one"):
        ImageFolder(tmp_path).label("p0")
