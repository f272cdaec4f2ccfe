"""DICOM series as semisam reads them against dcm2niix, voxel by voxel in world space.

    python benchmarks/dicom_qa.py FOLDER [--out benchmarks/results/dicom_qa.csv]

FOLDER holds series in folders of their own, for example the clones of neurolabusc/dcm_qa*. Of each
accepted series, every voxel is looked up in dcm2niix's volume at the same place in the patient:
`equal` is the share of voxels with the same value, `off_mm` the largest distance from the centre of
a voxel there. Needs dcm2niix and nibabel.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel
import numpy as np
from rows import write_rows

from semisam.core.errors import InputError
from semisam.data.images.dicom import is_dicom
from semisam.data.images.files import read_image


def series_folders(folder):
    """Yield the folders that hold DICOM files themselves."""
    for path in sorted([folder, *(p for p in folder.rglob("*") if p.is_dir())]):
        if ".git" not in path.parts and any(p.is_file() and is_dicom(p) for p in path.iterdir()):
            yield path


def converted(folder, work):
    """Return the volumes that dcm2niix makes, and its messages."""
    run = Path(sys.executable).with_name("dcm2niix")
    command = [run, "-z", "n", "-f", "%s_%p", "-o", work, folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return sorted(Path(work).glob("*.nii")), done.stdout


def compare(array, geometry, path):
    """Return the share of equal voxels and the largest distance to a voxel's centre in mm."""
    other = nibabel.load(path)
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(geometry.direction, (3, 3)) * geometry.spacing
    affine[:3, 3] = geometry.origin
    to_other = np.linalg.inv(other.affine) @ np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    index = np.indices(array.shape).reshape(3, -1)
    place = to_other[:3, :3] @ index + to_other[:3, 3:]
    nearest = np.rint(place).astype(int)
    inside = np.all((nearest >= 0) & (nearest < np.reshape(other.shape[:3], (3, 1))), axis=0)
    off = np.linalg.norm(other.affine[:3, :3] @ (place - nearest), axis=0).max()
    theirs = np.asarray(other.dataobj)[tuple(nearest[:, inside])]
    ours = array.reshape(-1)[inside]
    same = np.isclose(ours, theirs, rtol=1e-5, atol=1e-3).sum()
    return same / index.shape[1], off


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/dicom_qa.csv"))
    args = parser.parse_args()
    rows = []
    for folder in series_folders(args.folder):
        row = {"series": str(folder.relative_to(args.folder)), "read": "yes", "reason": ""}
        with tempfile.TemporaryDirectory() as work:
            found, said = converted(folder, work)
            row["dcm2niix_volumes"] = len(found)
            shapes = ["x".join(map(str, nibabel.load(path).shape)) for path in found]
            row["dcm2niix_shapes"] = " ".join(shapes)
            row["equal"] = row["off_mm"] = ""
            try:
                array, geometry = read_image(folder)
                if len(found) == 1:
                    equal, off = compare(array, geometry, found[0])
                    row |= {"equal": round(float(equal), 6), "off_mm": f"{off:.1e}"}
            except InputError as error:
                row |= {"read": "no", "reason": str(error).replace(str(folder), "the folder")}
                row["reason"] = row["reason"].replace(str(args.folder) + "/", "")
        rows.append(row)
        print(json.dumps(row), flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_rows(args.out, rows)
