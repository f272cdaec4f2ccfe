"""Labels under the names that people and programs give them."""

import pytest
from scan_files import scan, write, write_series

from semisam.core.errors import InputError
from semisam.data.datasets.folder import ScanFolder
from semisam.data.datasets.pairing import ALL_ENDINGS, images_below, pair_files
from semisam.run.build import recognise_dataset

ENDINGS = ("_label", "-label", "_labels", "_seg", "-seg", "_segmentation", "_mask", "-mask", "_gt")
FILES = [f"{ending}.nii.gz" for ending in ENDINGS]
FILES += ["_LABEL.nii.gz", "-Seg.nrrd", ".seg.nrrd", ".seg.nii.gz", "_Mask.mha", ".label.nii"]


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def pairs_of(folder):
    pairs = pair_files(folder)
    assert not pairs.faults and not pairs.strays
    images = {case: path.relative_to(folder).as_posix() for case, path in pairs.images.items()}
    labels = {
        case: path.relative_to(folder).as_posix()
        for case, files in pairs.labels.items()
        for path in files.values()
    }
    return images, labels


@pytest.mark.parametrize("ending", FILES)
def test_endings_of_labels(tmp_path, ending):
    touch(tmp_path, "p1.nii.gz", "p2.nii.gz", f"p1{ending}")
    images, labels = pairs_of(tmp_path)
    assert set(images) == {"p1", "p2"} and labels == {"p1": f"p1{ending}"}


@pytest.mark.parametrize("images", ["", "images", "Images", "imagesTr", "image"])
@pytest.mark.parametrize("labels", ["labels", "label", "masks", "labelsTr", "Segmentations"])
@pytest.mark.parametrize("name", ["p1.nii.gz", "p1_label.nrrd", "p1_SEG.nii"])
def test_folders_of_labels(tmp_path, images, labels, name):
    place = f"{images}/" if images else ""
    touch(tmp_path, f"{place}p1.nii.gz", f"{place}p2.mha", f"{labels}/{name}", f"{labels}/x.txt")
    assert pairs_of(tmp_path)[1] == {"p1": f"{labels}/{name}"}
    assert recognise_dataset(tmp_path) == "folder"


def test_labels_of_nnunet_have_no_channel_number(tmp_path):
    touch(tmp_path, "imagesTr/p1_0000.nii.gz", "labelsTr/p1.nii.gz")
    assert pairs_of(tmp_path)[1] == {"p1_0000": "labelsTr/p1.nii.gz"}


def test_two_channels_of_nnunet_without_a_declaration_are_a_fault(tmp_path):
    """They would be two patients, of which one has the label."""
    names = ("imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz", "labelsTr/a.nii.gz")
    (fault,) = pair_files(touch(tmp_path, *names)).faults
    assert "a_0001" in fault.file and "got two of a" in fault.problem
    # Numbers of scans are no channels.
    names = ("b_0000.nii.gz", "b_0001.nii.gz", "b_0000_label.nii.gz")
    assert len(pairs_of(touch(tmp_path / "numbered", *names))[0]) == 2


def test_a_scan_whose_name_ends_like_that_of_a_label(tmp_path):
    touch(
        tmp_path, "head_mask.nii.gz", "head_mask_label.nii.gz", "lung-gt.nii.gz", "lung-gt_seg.nii"
    )
    images, labels = pairs_of(tmp_path)
    assert set(images) == set(labels) == {"head_mask", "lung-gt"}


def test_words_within_a_name_are_no_endings(tmp_path):
    touch(tmp_path, "mask.nii.gz", "labeled_1.nii.gz", "p1_2.nii.gz", "unmask.nii.gz", "gt2.nii.gz")
    assert len(pairs_of(tmp_path)[0]) == 5


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("p1_label.nii.gz", "p1_seg.nii.gz"),
        ("p1_label.nii.gz", "p1_label.nrrd"),
        ("labels/p1.nii.gz", "p1_mask.nii.gz"),
        ("labels/p1.nii.gz", "masks/p1.nii.gz"),
    ],
)
def test_a_second_label_is_a_fault_that_names_both(tmp_path, one, other):
    touch(tmp_path, "p1.nii.gz", one, other)
    (fault,) = pair_files(tmp_path).faults
    text = f"{fault.file} {fault.problem}"
    assert one in text and other in text and "one label" in text


def test_the_same_scan_in_two_places_is_a_fault(tmp_path):
    touch(tmp_path, "p1.nii.gz", "images/p1.nii.gz", "labels/p1.nii.gz")
    (fault,) = pair_files(tmp_path).faults
    assert fault.file.endswith("images/p1.nii.gz") and "also p1.nii.gz" in fault.problem


def test_labels_without_an_image(tmp_path):
    touch(tmp_path, "p1.nii.gz", "p2_seg.nii.gz", "labels/p3.nii.gz")
    assert set(pair_files(tmp_path).strays) == {"p2", "p3"}


def test_a_folder_of_images_and_one_of_labels_trains(tmp_path):
    for n in range(3):
        image, label = scan(n, classes=2)
        write(tmp_path / "images" / f"p{n}.nrrd", image)
        write(tmp_path / "labels" / f"p{n}.nii.gz", label)
    write_series(tmp_path / "images" / "d", scan(3)[0], (1.0, 1.0, 1.0))
    assert recognise_dataset(tmp_path) == "folder"
    data = ScanFolder(tmp_path)
    assert data.has_label("p0") and not data.has_label("d")
    assert data.label("p1").tolist() == scan(1, classes=2)[1].tolist()


@pytest.mark.parametrize(
    ("names", "place"),
    [
        (("p1.nii.gz", "p0.nii.gz", "p0_seg.nii.gz"), None),
        (("p1.nii.gz", "labels/p0.nii.gz", "p0.nrrd"), "labels/p1.nii.gz"),
        (("images/p1.nii.gz",), "labels/p1.nii.gz"),
        (("images/p1.nii.gz", "images/p0.nrrd", "images/p0_label.nrrd"), None),
        (("images/p1.nii.gz", "images/p0.nrrd", "Masks/p0.nii"), "Masks/p1.nii.gz"),
        (("images/p1.png", "images/p0.png", "masks/p0.png"), "masks/p1.png"),
        # A label there would hide those of one class each.
        (("images/p1.png", "images/p0.png", "masks/cup/p0.png"), None),
    ],
)
def test_a_new_label_belongs_where_the_others_are(tmp_path, names, place):
    touch(tmp_path, *names)
    pairs = pair_files(tmp_path, ALL_ENDINGS, classes=("cup",))
    found = pairs.place("p1")
    assert found == (None if place is None else tmp_path / place)


def test_a_folder_of_images_needs_none_of_labels(tmp_path):
    touch(tmp_path, "images/p1.nii.gz", "images/p2.nii.gz", "notes.txt")
    assert recognise_dataset(tmp_path) == "folder"
    assert set(pairs_of(tmp_path)[0]) == {"p1", "p2"}
    touch(tmp_path, "p3.nii.gz")  # so the folder may hold anything
    assert set(pairs_of(tmp_path)[0]) == {"p3"}


def test_images_in_folders_are_named_with_the_way_out(tmp_path):
    touch(tmp_path, *(f"pat{n}/{name}.nii.gz" for n in range(2) for name in ("scan", "mask")))
    with pytest.raises(InputError, match=r"with 4 in folders \(pat0/mask.nii.gz, .* Copy or link"):
        recognise_dataset(tmp_path)


def test_folders_that_are_no_layout(tmp_path):
    for names in (("labels/p1.nii.gz",), ("images/x.txt", "labels/y.txt"), ("images/x.txt",)):
        folder = touch(tmp_path / str(len(list(tmp_path.iterdir()))), *names)
        with pytest.raises(InputError, match=r"recognises|no reader knows|with all images in it"):
            recognise_dataset(folder)


def test_images_in_hidden_folders_are_not_named(tmp_path):
    touch(tmp_path, "a/images/p1.png", "b/p2.png", ".git/objects/p3.png")
    found = [path.relative_to(tmp_path).as_posix() for path in images_below(tmp_path)]
    assert found == ["a/images/p1.png", "b/p2.png"]
