"""A folder of scans and their labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from semisam.core.errors import InputError
from semisam.data.datasets.faults import Fault
from semisam.data.datasets.grids import count_channels
from semisam.data.datasets.lookalikes import label_fault
from semisam.data.datasets.pairing import (
    CLASSES,
    has_image_folder,
    holds_pictures,
    pair_files,
    read_classes,
)
from semisam.data.datasets.scans import (
    ENDINGS,
    Layout,
    ScanDataset,
    ScanFiles,
    without_ending,
)
from semisam.data.images.dicom import is_series
from semisam.data.images.preprocessing import Modality

_OTHERS = ("dataset.json", "manifest.json", "unfinished.json", "train_slices.list")
_OTHERS_PER_CASE = ("mri_norm2.h5", "lgemri.nrrd")


class ScanFolder(ScanDataset):
    """A folder of images and their labels, such as ``<case>_label``.

    An image is ``<folder>/<case>.<ending>``, or ``<folder>/<case>/`` with the slices of one DICOM
    series. Its label is ``<folder>/<case>_label.<ending>``. For ``_label`` the name may have
    ``_labels``, ``_seg``, ``_segmentation``, ``_mask`` or ``_gt``, in any letter case and with any
    of ``-_.`` before it. Or the label has the image's name in a folder such as ``labels`` or
    ``masks``. The images may be in a folder ``images``. Formats of image and label may differ.

    A case without a label file is unlabeled. An image without a label that looks like a label is
    refused. The names of the foreground classes are in ``classes.list``, one per line, or in the
    option ``classes``; without both there is one class. Several channels are several values per
    voxel in one file.

    Each class may have a mask of its own, in which every value but 0 is the class. It is
    ``<case>_<class>.<ending>`` or, in the folder ``masks``, ``<class>/<case>.<ending>``. A class
    without a mask is not in the image.
    """

    name: ClassVar[str] = "folder"
    endings: ClassVar[tuple[str, ...]] = ENDINGS
    example: ClassVar[str] = "<case>.nii.gz (or .nrrd, .mha, a DICOM folder ...)"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Return whether the folder holds a scan and no file of another layout."""
        if is_other_layout(path):
            return False
        found = has_image_folder(path) or any(map(_is_image, path.iterdir()))
        return found and not holds_pictures(path)

    @classmethod
    def discover(cls, path: Path, classes: tuple[str, ...] = ()) -> Layout:
        """Pair images and labels by their names."""
        names = classes or read_classes(path)
        pairs = pair_files(path, cls.endings, names)
        images, labels = pairs.images, pairs.labels
        faults = list(pairs.faults)
        faults += [
            Fault(
                str(label),
                f"a label must have an image, got no {case} of any image format",
                "add the image or correct the name",
                case,
            )
            for case, label in sorted(pairs.strays.items())
        ]
        if not images:
            raise InputError(
                f"{path}: a folder must hold images {cls.example}, got none. Their labels are "
                "<case>_label with such an ending."
            )
        names = names or pairs.classes() or ("foreground",)
        cases = {
            case: _files(images[case], labels.get(case, {}), names, pairs.place(case))
            for case in images
        }
        unlabeled = (case for case in images if case not in labels)
        faults += [fault for case in unlabeled if (fault := label_fault(case, cases))]
        channels = count_channels(images.values())
        usual: Modality = "mr"
        return Layout(cases, ("background", *names), (usual,) * channels, faults=tuple(faults))


def is_other_layout(path: Path) -> bool:
    """Return whether a folder has the layout of another dataset, even with pictures in it."""
    if any((path / other).exists() for other in _OTHERS):
        return True
    return any(any(path.glob(f"*/{name}")) for name in _OTHERS_PER_CASE)


def _is_image(entry: Path) -> bool:
    if entry.name.startswith("."):
        return False
    return is_series(entry) if entry.is_dir() else without_ending(entry.name) is not None


def _files(
    image: Path, labels: Mapping[str, Path], names: Sequence[str], place: Path | None
) -> ScanFiles:
    """Return the files of a case; the labels are by class, with "" for that of all classes."""
    unknown = [name for name in labels if name and name not in names]
    if unknown:
        raise InputError(
            f"{labels[unknown[0]].parent}: a folder of masks must have the name of a class "
            f"({', '.join(names)}), got {unknown[0]}. Rename it, or add it to {CLASSES}."
        )
    classes = {k: labels[name] for k, name in enumerate(names, start=1) if name in labels}
    return ScanFiles((image,), next(iter((classes or labels).values()), None), classes, place)
