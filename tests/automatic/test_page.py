"""The table and the page of ``semisam auto``, without a training."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
from scan_files import scan, write

from semisam.automatic.page import Line, write_page
from semisam.automatic.plan import Plan
from semisam.automatic.shelf import FINAL, Entry, Shelf
from semisam.automatic.survey import survey
from semisam.automatic.trust import NOTHING, Agreement, Interval
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
    classes = data.opened.class_names[1:]
    shelf.finish("p2", Entry("p2.nii.gz", FINAL, "run", volumes=found, classes=classes))
    write_page(data, shelf, PLAN, {})
    with (masks / "volumes.csv").open() as file:
        rows = {row["scan"]: row for row in csv.DictReader(file)}
    assert {name: row["mask"] for name, row in rows.items()} == {
        "p0": "yours, in part", "p1": "yours, in part", "p2": "final",
    }  # fmt: skip
    assert float(rows["p2"]["ml"]) > 2 * float(rows["p0"]["ml"])
    assert rows["p2"]["reasons"] == ""


@pytest.mark.parametrize("always", [True, False])
def test_a_class_that_may_be_rightly_nowhere_is_no_reason_for_distrust(tmp_path, always):
    """Of three classes one is in every mask, one in the first (or in both), one in no mask."""
    scans, masks = tmp_path / "scans", tmp_path / "masks"
    masks.mkdir()
    for n in range(4):
        image, label = scan(n, classes=3)
        write(scans / f"p{n}.nii.gz", image)
        if n < 2:
            label = label if always or not n else np.minimum(label, 1)
            write(scans / f"p{n}_label.nii.gz", label)
    (scans / "classes.list").write_text("organ\nlesion\nstent\n")
    data = survey(scans)
    shelf, place = Shelf(masks), data.opened.image("p2").geometry
    for case, trust in (("p2", 0.9), ("p3", 0.5)):
        label = np.minimum(scan(int(case[1]), classes=3)[1], 1)  # the second class is found nowhere
        write(masks / f"{case}.nii.gz", label)
        found = tuple(volumes(case, label, place, data.opened.class_names))
        good = Agreement(*[trust] * 5).values()
        signals = (good, NOTHING.values(), NOTHING.values())
        entry = Entry(f"{case}.nii.gz", FINAL, "run", volumes=found, agreement=signals)
        shelf.finish(case, replace(entry, classes=data.opened.class_names[1:]))
    # One of before the classes changed, whose figures are of others.
    old = Entry("p3.nii.gz", FINAL, "run", agreement=signals[:1], classes=("organ",))
    assert not shelf.holds("p2", old)
    shelf.finish("p9", old)
    write_page(data, shelf, PLAN, {})
    with (masks / "volumes.csv").open() as file:
        rows = {(row["scan"], row["class"]): row for row in csv.DictReader(file)}
    assert float(rows["p2", "organ"]["predicted_dice"]) > float(
        rows["p3", "organ"]["predicted_dice"]
    )
    missed = rows["p2", "lesion"]
    assert (missed["predicted_dice"] != "") == always and missed["reasons"] == "nothing was found"
    unknown = rows["p2", "stent"]
    assert (unknown["predicted_dice"], unknown["reasons"]) == ("", "")
    order = list(dict.fromkeys(name for name, _ in rows))
    if not always:
        assert order[:2] == ["p3", "p2"]


def test_the_order_of_lines():
    sure, unsure = Interval(0.9, 0.8, 1.0), Interval(0.4, 0.3, 0.5)
    lines = [
        Line("yours", "yours", ()),
        Line("good", "final", (), (None, sure)),
        Line("bad", "final", (), (sure, unsure)),
        Line("empty", "final", (), (None, None)),
    ]
    assert [line.case for line in sorted(lines, key=lambda line: line.rank)] == [
        "empty", "bad", "good", "yours",
    ]  # fmt: skip
    assert [line.lowest for line in lines] == [None, 0.9, 0.4, None]
