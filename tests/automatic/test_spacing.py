"""The spacing of large scans by the budget of ``semisam auto``."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pictures import write_pictures
from scan_files import scan, write

from semisam.automatic.spacing import affordable_spacing
from semisam.automatic.survey import survey
from semisam.inference.sliding_window import window_starts

PATCH, STRIDE = (16, 16, 16), (5, 5, 5)
MM = (0.5, 0.5, 2.0)


def _folder(path, label=None, size=(80, 72, 20)):
    for n, case in enumerate("ab"):
        image, usual = scan(n, size, classes=2)
        write(path / f"{case}.nii.gz", image, MM)
        if case == "a":
            write(path / "a_label.nii.gz", usual if label is None else label, MM)
    return survey(path)


def _windows(spacing):
    sizes = [round(n * mm / new) for n, mm, new in zip((80, 72, 20), MM, spacing, strict=True)]
    return math.prod(len(window_starts(max(n, 16), 16, 5)) for n in sizes)


def test_the_fine_axes_of_a_large_scan_become_coarser_until_the_windows_fit(tmp_path):
    data = _folder(tmp_path)
    assert _windows(MM) == 14 * 13 * 2
    found = affordable_spacing(data, PATCH, STRIDE, 1.0, 100.0)
    assert found[0] == found[1] > 0.5 and found[2] == 2.0
    finer = tuple(max(mm, found[0] / 1.1) for mm in MM)
    assert _windows(found) <= 100 < _windows(finer)
    image = data.at(found).opened.image("b")
    assert image.geometry.spacing == pytest.approx(found, rel=0.05)
    assert data.at(None) is data


def test_a_larger_budget_gives_a_finer_spacing_and_the_scans_own_in_the_end(tmp_path):
    data = _folder(tmp_path)
    found = [affordable_spacing(data, PATCH, STRIDE, 1.0, most) for most in (80.0, 200.0, 400.0)]
    assert found[0][0] > found[1][0] > 0.5 and found[2] is None


def test_scans_of_micrometres_end_too(tmp_path):
    for n, case in enumerate("ab"):
        image, label = scan(n, (80, 72, 20), classes=2)
        write(tmp_path / f"{case}.nii.gz", image, (0.03, 0.03, 0.03))
        if case == "a":
            write(tmp_path / "a_label.nii.gz", label, (0.03, 0.03, 0.03))
    found = affordable_spacing(survey(tmp_path), PATCH, STRIDE, 1.0, 70.0)
    assert 0.03 < found[0] < 0.06


def test_a_small_scan_keeps_its_spacing_whatever_the_budget(tmp_path):
    data = _folder(tmp_path, size=(30, 30, 24))
    assert affordable_spacing(data, PATCH, STRIDE, 1.0, 1.0) is None


def test_no_labeled_scan_loses_a_class(tmp_path):
    label = np.zeros((80, 72, 20), np.uint8)
    label[40, 40, 10] = 1
    data = _folder(tmp_path, label)
    found = affordable_spacing(data, PATCH, STRIDE, 1.0, 70.0)
    assert found is None or data.at(found).opened.label("a").any()
    assert affordable_spacing(_folder(tmp_path / "whole"), PATCH, STRIDE, 1.0, 70.0) != found


def test_a_chosen_spacing_and_pictures_stay(tmp_path):
    _folder(tmp_path / "scans")
    data = survey(tmp_path / "scans", options={"spacing": MM})
    assert affordable_spacing(data, PATCH, STRIDE, 1.0, 1.0) is None
    write_pictures(tmp_path / "pictures")
    data = survey(tmp_path / "pictures")
    assert affordable_spacing(data, (16, 16), (5, 5), 1.0, 1.0) is None
