"""Texts that people write, texts for a terminal, and cells of CSV files."""

import codecs
import csv
import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semisam.core.errors import InputError
from semisam.core.files import (
    csv_cell,
    csv_text,
    printable,
    read_text,
    remove_leftovers,
    system_fault,
    write_csv,
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_texts_in_any_utf(tmp_path, encoding):
    path = tmp_path / "a.list"
    mark = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}.get(encoding, b"")
    path.write_bytes(mark + "Müller\r\nb\n".encode(encoding))
    assert read_text(path).splitlines() == ["Müller", "b"]


@pytest.mark.parametrize(
    "raw",
    ["Müller".encode("latin-1"), "ab".encode("utf-32"), "ab".encode("utf-16-le"), b"\xff\xfea"],
)
def test_other_encodings_are_refused_in_one_sentence(tmp_path, raw):
    (tmp_path / "a.list").write_bytes(raw)
    with pytest.raises(InputError, match=r"a\.list: it must be a text in UTF-8"):
        read_text(tmp_path / "a.list")


def test_a_terminal_gets_no_escape_sequence():
    assert printable("p1\x1b[2J\x07 \u202e é\nb") == "p1\\x1b[2J\\x07 \\u202e é\nb"


def test_an_error_of_the_system_is_one_sentence_with_its_remedy():
    full = system_fault(OSError(errno.ENOSPC, "No space left on device", "a.pt"))
    assert "the disk must have room, got a full one for a.pt" in full
    few = system_fault(OSError(errno.EMFILE, "Too many open files"), "runs")
    assert "got 'Too many open files' for runs. Raise the limit of open files" in few
    other = system_fault(
        FileNotFoundError(errno.ENOENT, "No such file or directory", "a", None, "b")
    )
    assert other == (
        "the system must provide what the command needs, got 'No such file or directory' for a. "
        "Correct that, and run the same command again."
    )
    assert "got 'a b'" in system_fault(OSError("a b\nc"))


def test_leftovers_of_a_killed_process_are_removed_and_nothing_else(tmp_path):
    (tmp_path / "predictions").mkdir()
    (tmp_path / "predictions" / "site").mkdir(parents=True)
    (tmp_path / "notes").mkdir()
    of_runs = {"progress.tmp", "checkpoint.previous.tmp", "predictions/.p.nii.gz.0123abcd.tmp"}
    of_runs |= {"predictions/site/..p.nii.gz.12345678.tmp.nii.gz.0123abcd.tmp.nii.gz"}
    ours = {".a.json.12345678.tmp", ".12345678.tmp", ".p.nii.gz.0123abcd.tmp.nii.gz"}
    kept = {"model.pt", "predictions/p.nii.gz", "sketch.tmp", ".draft.tmp", ".a.json.1234567g.tmp"}
    kept |= {"predictions/p.tmp", "predictions/.p.tmp.nii.gz", "notes/.a.json.12345678.tmp"}
    for name in ours | of_runs | kept:
        (tmp_path / name).touch()

    def found():
        return {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}

    remove_leftovers(tmp_path, inside=False)  # of a study or of masks
    assert found() == kept | of_runs
    remove_leftovers(tmp_path)
    assert found() == kept


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
    write_csv(tmp_path / "cases.csv", [{"case": "=1+1", "class": "@x", "dice": -0.5, "asd": 2}])
    with (tmp_path / "cases.csv").open(newline="") as file:
        assert list(csv.reader(file))[1] == ["'=1+1", "'@x", "-0.5", "2"]


def test_rows_may_have_columns_of_their_own(tmp_path):
    write_csv(tmp_path / "sizes.csv", [{"scan": "a", "pixels": 3}, {"scan": "b", "mm²": 0.5}])
    text = (tmp_path / "sizes.csv").read_text(encoding="utf-8")
    assert text.splitlines() == ["scan,pixels,mm²", "a,3,", "b,,0.5"]


def test_a_name_that_is_no_utf_8_loses_no_table(tmp_path):
    write_csv(tmp_path / "sizes.csv", [{"scan": "p\udcff é", "ml": 0.5}])
    text = (tmp_path / "sizes.csv").read_text(encoding="utf-8")
    assert text.splitlines() == ["scan,ml", r"p\udcff é,0.5"]
