"""What ``semisam auto`` writes for a person, without a training."""

from __future__ import annotations

import csv

import numpy as np
from scan_files import scan, write

from semisam.automatic.page import write_page
from semisam.automatic.plan import Plan
from semisam.automatic.shelf import FINAL, Entry, Shelf
from semisam.automatic.survey import survey
from semisam.inference.volumes import volumes

PLAN = Plan("", "", "", "cpu", 1, 1, (8, 8, 8), {}, 1.0)


def test_a_mask_in_part_says_nothing_about_the_usual_volume(tmp_path):
    """Of two organs one slice each is annotated; the third, found whole, is no outlier."""
    scans, masks = tmp_path / "scans", tmp_path / "masks"
    masks.mkdir()
    for n in range(2):
        image, label = scan(n, classes=2)
        part = np.full_like(label, 9)
        at = int(label.sum((0, 1)).argmax())
        part[..., at] = label[..., at]
        write(scans / f"p{n}.nii.gz", image)
        write(scans / f"p{n}_label.nii.gz", part)
    image, label = scan(2, classes=2)
    write(scans / "p2.nii.gz", image)
    write(masks / "p2.nii.gz", label)
    data = survey(scans, options={"ignore": (9,)})
    shelf = Shelf(masks)
    found = tuple(volumes("p2", label, data.opened.image("p2").geometry, data.opened.class_names))
    shelf.finish("p2", Entry("p2.nii.gz", FINAL, "run", volumes=found))
    write_page(data, shelf, PLAN, {})
    with (masks / "volumes.csv").open() as file:
        rows = {row["scan"]: row for row in csv.DictReader(file)}
    assert {name: row["mask"] for name, row in rows.items()} == {
        "p0": "yours, in part", "p1": "yours, in part", "p2": "final",
    }  # fmt: skip
    assert float(rows["p2"]["ml"]) > 2 * float(rows["p0"]["ml"])
    assert rows["p2"]["reasons"] == ""
