"""A tiny folder in the layout of ACDC that SSL4MIS published."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

PATIENTS = ("patient009", "patient001", "patient005", "patient002")
TEST = ("patient011_frame01", "patient012_frame01")


def volume(number: int, depth: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """An image ``(z, y, x)`` in [0, 1] and its label, whose first slice is empty."""
    rng = np.random.default_rng(number)
    label = np.zeros((depth, 20, 16), np.uint8)
    for k in (1, 2, 3):
        label[1:, 4 * k : 4 * k + 3, 2 * k : 2 * k + 6] = k
    return (label / 4 + 0.1 * rng.random(label.shape)).astype(np.float32), label


def write_published_slices(folder: Path) -> Path:
    """Four training patients of two frames, two test volumes, and a volume for validation."""
    (folder / "data" / "slices").mkdir(parents=True)
    names = []
    for n, patient in enumerate(PATIENTS):
        for frame in (1, 2):
            image, label = volume(2 * n + frame)
            for z in reversed(range(len(image))):  # the published list is not in order
                name = f"{patient}_frame{frame:02d}_slice_{z + 9}"
                _write(folder / "data" / "slices" / f"{name}.h5", image[z], label[z])
                names.append(name)
    for n, case in enumerate((*TEST, "patient020_frame01")):
        _write(folder / "data" / f"{case}.h5", *volume(20 + n, depth=4))
    for name, lines in (("train_slices", names), ("test", TEST), ("val", ["patient020_frame01"])):
        (folder / f"{name}.list").write_text("\n".join(lines) + "\n")
    return folder


def _write(path: Path, image: np.ndarray, label: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file["image"], file["label"] = image, label
