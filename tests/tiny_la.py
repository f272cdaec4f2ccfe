"""A tiny dataset in the published Left Atrium layout."""

from __future__ import annotations

from pathlib import Path

import h5py

from semisam.data.datasets.phantom import Phantom


def write_tiny_la(folder: Path) -> Path:
    """Write four training and two test cases in the published Left Atrium layout, tiny."""
    phantom = Phantom(cases=4, test_cases=2, size=32)
    split = phantom.split()
    for case in (*split.train, *split.test):
        (folder / case).mkdir(parents=True)
        with h5py.File(folder / case / "mri_norm2.h5", "w") as file:
            file["image"] = phantom.image(case).array[0]
            file["label"] = phantom.label(case)
    (folder / "train.list").write_text("\n".join(split.train) + "\n")
    (folder / "test.list").write_text("\n".join(split.test) + "\n")
    return folder
