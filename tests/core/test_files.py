"""Cells of CSV files that a spreadsheet shows as they are."""

import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semisam.core.files import csv_cell, csv_text
from semisam.run.execute import write_cases


@pytest.mark.parametrize(
    "text",
    ["=1+1", "+A1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "-", "=", "-cmd|' /C calc'!A0", "'=1"],
)
def test_a_text_that_begins_as_a_formula_is_shown_as_text(text):
    assert csv_cell(text) == f"'{text}"


@pytest.mark.parametrize(
    "value", ["p1", "b=1", "'a'", "", "-1", "-0.25", "+1e-05", "-inf", 2, -3.5, None]
)
def test_ordinary_names_and_numbers_stay(value):
    assert csv_cell(value) == value


@given(st.text(alphabet="'=+-@1e.\ta", max_size=5))
def test_every_cell_has_one_text(text):
    assert csv_text(csv_cell(text)) == text


def test_the_scores_of_a_case_whose_name_is_a_formula(tmp_path):
    write_cases(tmp_path / "cases.csv", [{"case": "=1+1", "class": "@x", "dice": -0.5, "asd": 2}])
    with (tmp_path / "cases.csv").open(newline="") as file:
        assert list(csv.reader(file))[1] == ["'=1+1", "'@x", "-0.5", "2"]
