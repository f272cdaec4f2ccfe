"""Texts that people write, and texts for a terminal."""

import codecs

import pytest

from semisam.core.errors import InputError
from semisam.core.files import printable, read_text, remove_leftovers


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


def test_leftovers_of_a_killed_process_are_removed_and_nothing_else(tmp_path):
    (tmp_path / "predictions").mkdir()
    for name in (".a.json.12345678.tmp", "checkpoint.previous.tmp", "predictions/.p.nii.gz.1.tmp"):
        (tmp_path / name).touch()
    (tmp_path / "predictions" / ".p.nii.gz.12345678.tmp.nii.gz").touch()
    kept = {"model.pt", "predictions/p.nii.gz"}
    for name in kept:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    found = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert found == kept
