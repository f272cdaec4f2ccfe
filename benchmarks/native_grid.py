"""Scores on the scan's own grid: a perfect model on a coarser training grid, and the memory needed.

    python benchmarks/native_grid.py [--out benchmarks/results/native_grid.csv]

Twelve phantoms of 1 mm with two classes are written to disk. A model that gives the true label of
the training grid is evaluated at three training spacings, and its saved masks are compared with the
label files by SimpleITK. Then probabilities of six classes are brought to a scan of
512x512x600 voxels, all at once and by slabs; `peak` is the memory beyond the probabilities.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from rows import write_rows

from semisam.data.datasets.folder import ScanFolder
from semisam.data.datasets.phantom import Phantom
from semisam.data.loading.store import VolumeStore
from semisam.inference.evaluation import evaluate

CLASSES, CASES, SHAPE = 3, 12, (48, 48, 36)
SPACINGS = ((2.0, 2.0, 2.0), (3.0, 3.0, 3.0), (1.0, 1.0, 6.0))
_CHILD = """
import resource, sys, time
import numpy as np
from semisam.data.images.files import Geometry
from semisam.data.images.preprocessing import Recipe
size, spacing = (512, 512, 600), (0.7, 0.7, 1.0)
scan = np.zeros((1, *size), np.float32)
placement = Recipe((1.5,) * 3, ("none",), crop="none").apply(scan, Geometry(spacing))[2]
del scan
probs = np.random.default_rng(0).random((6, *placement.size), np.float32)
def status(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(key)) / 1024
open("/proc/self/clear_refs", "w").write("5")  # the peak starts here
before, began = status("VmRSS"), time.process_time()
slabs = sys.argv[1] == "slabs"
found = placement.classes(probs) if slabs else placement.probabilities(probs).argmax(0)
print(status("VmHWM") - before, time.process_time() - began, int(found.sum(dtype=np.int64)))
"""


class Perfect(torch.nn.Module):
    """The truth of a training grid, found by the image."""

    def __init__(self, store, cases):
        super().__init__()
        self.known = {}
        for case in cases:
            truth = torch.from_numpy(store.label(case).astype(np.int64))
            one_hot = torch.nn.functional.one_hot(truth, CLASSES).movedim(-1, 0).float()
            self.known[store.image(case).array.tobytes()] = one_hot

    def forward(self, window):
        return torch.stack([self.known[row.contiguous().numpy().tobytes()] for row in window])


def write(folder):
    data = Phantom(cases=CASES - 2, test_cases=2, classes=CLASSES)
    cases = (*data.split().train, *data.split().test)
    for case in cases:
        cut = tuple(slice(0, n) for n in SHAPE)
        image = (400 * data.image(case).array[0][cut]).astype(np.int16)
        label = data.label(case)[cut]
        for name, array in ((case, image), (f"{case}_label", label)):
            sitk.WriteImage(sitk.GetImageFromArray(array.T.copy()), str(folder / f"{name}.nii.gz"))
    return cases


def dice(folder, masks, case):
    """Return Dice per class of a saved mask, from the files."""
    truth = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{case}_label.nii.gz")))
    mask = sitk.GetArrayFromImage(sitk.ReadImage(str(masks / f"{case}.nii.gz")))
    pairs = [(mask == k, truth == k) for k in range(1, CLASSES)]
    return [2 * (a & b).sum() / max(a.sum() + b.sum(), 1) for a, b in pairs]


def accuracy():
    rows = []
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work, "scans")
        folder.mkdir()
        cases = write(folder)
        for spacing in SPACINGS:
            data = ScanFolder(folder, spacing=spacing, crop="none", classes=("one", "two"))
            store = VolumeStore(data, labeled=[], unlabeled=[], test=cases)
            size = store.image(cases[0]).array.shape[1:]
            masks = Path(work, "x".join(map(str, spacing)))
            masks.mkdir()
            scored = evaluate(
                Perfect(store, cases),
                store,
                cases,
                size,
                size,
                device=torch.device("cpu"),
                precision="fp32",
                predictions=masks,
            )
            ours = np.array([row["dice"] for row in scored]).reshape(-1, CLASSES - 1)
            theirs = np.array([dice(folder, masks, case) for case in cases])
            row = {"what": f"perfect model at {'x'.join(f'{s:g}' for s in spacing)} mm"}
            for k in range(CLASSES - 1):
                row[f"dice_class_{k + 1}"] = round(float(100 * ours[:, k].mean()), 2)
            row["largest_difference"] = f"{np.abs(ours - theirs).max():.1e}"
            rows.append(row)
    return rows


def memory():
    rows, sums = [], set()
    for way in ("all at once", "slabs"):
        done = subprocess.run(
            [sys.executable, "-c", _CHILD, way], capture_output=True, text=True, check=True
        )
        peak, seconds, total = done.stdout.split()
        sums.add(total)
        rows.append(
            {
                "what": f"512x512x600, six classes, {way}",
                "peak_MiB": round(float(peak)),
                "cpu_seconds": round(float(seconds), 1),
            }
        )
    rows[-1]["largest_difference"] = "0 voxels" if len(sums) == 1 else "voxels differ"
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/native_grid.csv"))
    args = parser.parse_args()
    found = [*accuracy(), *memory()]
    columns = list(dict.fromkeys(key for row in found for key in row))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_rows(args.out, [{key: row.get(key, "") for key in columns} for row in found])
    for row in found:
        print(row)
