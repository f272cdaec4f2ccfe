"""Small scans on disk, as scanners, challenges and nnU-Net leave them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

SIZE = (20, 18, 16)
OBLIQUE = (0.96, -0.28, 0.0, 0.28, 0.96, 0.0, 0.0, 0.0, 1.0)


def scan(seed: int, size: Sequence[int] = SIZE, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """An image ``(i, j, k)`` int16 with blocks of two grey values, and their label."""
    rng = np.random.default_rng(seed)
    image = rng.integers(20, 60, size)
    label = np.zeros(size, np.uint8)
    for number in range(1, classes):
        at = [int(rng.integers(1, n // 3)) + (number - 1) * n // 2 for n in size]
        block = tuple(slice(a, a + n // 4) for a, n in zip(at, size, strict=True))
        image[block] += 200 * number
        label[block] = number
    return image.astype(np.int16), label


def write(
    path: Path,
    array: np.ndarray,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    origin: Sequence[float] = (0.0, 0.0, 0.0),
    direction: Sequence[float] | None = None,
) -> Path:
    """Write ``(i, j, k)``, or channels ``(C, i, j, k)`` as several values per voxel."""
    vector = array.ndim == len(spacing) + 1
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T), isVector=vector)
    image.SetSpacing(list(spacing))
    image.SetOrigin(list(origin))
    if direction is not None:
        image.SetDirection(list(direction))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path), useCompression=path.name.endswith((".gz", ".nrrd")))
    return path


def with_other_labels(folder: Path, pattern: str, copy: Path) -> Path:
    """A copy of a folder whose labels, the files of a pattern, have the classes in reverse."""
    shutil.copytree(folder, copy)
    for path in copy.glob(pattern):
        label = sitk.ReadImage(str(path))
        voxels = sitk.GetArrayFromImage(label)
        other = sitk.GetImageFromArray(voxels.max() - voxels)
        other.CopyInformation(label)
        sitk.WriteImage(other, str(path))
    return copy


def write_series(folder: Path, array: np.ndarray, spacing: Sequence[float]) -> None:
    """Write a DICOM series, one file a slice."""
    folder.mkdir(parents=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k in range(array.shape[2]):
        image = sitk.GetImageFromArray(np.ascontiguousarray(array[:, :, k].T)[None])
        image.SetSpacing(list(spacing))
        tags = {
            "0008|0060": "MR",
            "0020|000d": "1.2.3",
            "0020|000e": "1.2.3.4",
            "0008|0018": f"1.2.3.4.{k + 1}",
            "0020|0032": f"0\\0\\{spacing[2] * k}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0020|0013": str(k + 1),
        }
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"slice_{k:03d}.dcm"))
        writer.Execute(image)


def write_folder(folder: Path, labeled: int = 4, unlabeled: int = 1, classes: int = 3) -> Path:
    """A folder of scans in several formats, oblique and anisotropic, and its classes."""
    endings = (".nii.gz", ".nrrd", ".mha", ".nii")
    for n in range(labeled + unlabeled):
        image, label = scan(n, classes=classes)
        ending = endings[n % len(endings)]
        place = ((1.0, 1.0, 1.5), (3.0, -4.0, 5.0), OBLIQUE if n % 2 else None)
        # The unlabeled ones come first by name: what is labeled must not follow from the order.
        case = f"b{n}" if n < labeled else f"a{n}"
        write(folder / f"{case}{ending}", image, *place)
        if n < labeled:
            write(folder / f"{case}_label.nii.gz", label, *place)
    names = ("organ", "lesion", "vessel")[: classes - 1]
    (folder / "classes.list").write_text("\n".join(names) + "\n")
    return folder


def write_msd(
    folder: Path,
    style: str = "nnunet2",
    channels: int = 2,
    cases: int = 4,
    unlabeled: int = 1,
    classes: int = 3,
) -> Path:
    """A folder as MSD (``msd``), nnU-Net v1 (``nnunet1``) or v2 (``nnunet2``) has it."""
    training = []
    for n in range(cases + unlabeled):
        case = f"case_{n:03d}"
        image, label = scan(n, classes=classes)
        stack = np.stack([image + 7 * c for c in range(channels)])
        if style == "msd" and channels > 1:
            fourth = np.moveaxis(stack, 0, -1)
            write(folder / "imagesTr" / f"{case}.nii.gz", fourth, (1.0, 1.0, 2.0, 1.0), (0.0,) * 4)
        elif style == "msd":
            write(folder / "imagesTr" / f"{case}.nii.gz", image, (1.0, 1.0, 2.0))
        else:
            for c in range(channels):
                name = f"{case}_{c:04d}.nii.gz"
                write(folder / "imagesTr" / name, stack[c], (1.0, 1.0, 2.0))
        if n < cases:
            write(folder / "labelsTr" / f"{case}.nii.gz", label, (1.0, 1.0, 2.0))
            name = f"{case}.nii.gz"
            training.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    names = ("background", "organ", "lesion", "vessel")[:classes]
    numbered = {str(c): "MRI" for c in range(channels)}
    if style == "nnunet2":
        labels = {name: n for n, name in enumerate(names)}
        about = {"channel_names": numbered, "labels": labels, "file_ending": ".nii.gz"}
    else:
        labels = {str(n): name for n, name in enumerate(names)}
        about = {"modality": numbered, "labels": labels, "training": training, "test": []}
    (folder / "dataset.json").write_text(json.dumps(about))
    return folder
