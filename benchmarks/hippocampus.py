"""Make a folder of scans of the hippocampus and their labels, for the dataset ``folder``.

    git clone https://github.com/udacity/nd320-c3-3d-imaging-starter
    python benchmarks/hippocampus.py nd320-c3-3d-imaging-starter/data/TrainingSet HIPPO

The source holds the training set of task 4 of the Medical Segmentation Decathlon (CC BY-SA 4.0),
crops of MR scans around one hippocampus, with its anterior and its posterior part. A seed draws 60
test cases. With ``--choices`` they are left out, and 40 of the other 200 are the test cases, to
make choices on. The first training cases are the same in both. The source does not name patients,
and a patient may have two scans.
"""

from __future__ import annotations

import argparse
import random
import shutil
from pathlib import Path

CHOICES, TEST = 40, 60


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--choices", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    images, labels = (arguments.source / name for name in ("images", "labels"))
    # An image without label, and a label without image, are left out.
    names = {path.name for path in images.glob("*.nii.gz") if path.stat().st_size}
    names &= {path.name for path in labels.iterdir()}
    cases = sorted(name.removesuffix(".nii.gz") for name in names)
    random.Random(arguments.seed).shuffle(cases)
    test, held_out, rest = cases[:TEST], cases[TEST : TEST + CHOICES], cases[TEST + CHOICES :]
    if arguments.choices:
        test = held_out
    else:
        rest += held_out
    arguments.folder.mkdir(parents=True)
    for case in rest + test:
        shutil.copy2(images / f"{case}.nii.gz", arguments.folder)
        shutil.copy2(labels / f"{case}.nii.gz", arguments.folder / f"{case}_label.nii.gz")
    for name, lines in (("train", rest), ("test", test), ("classes", ["anterior", "posterior"])):
        (arguments.folder / f"{name}.list").write_text("".join(f"{line}\n" for line in lines))
    print(f"{len(cases)} cases, {len(rest)} for training, {len(test)} for the test")


if __name__ == "__main__":
    main()
