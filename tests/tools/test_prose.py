"""The prose check finds misuse in every kind of text and spares code."""

import importlib.util
from pathlib import Path

import pytest

_PATH = Path(__file__).parents[2] / "tools" / "prose.py"
_SPEC = importlib.util.spec_from_file_location("prose", _PATH)
assert _SPEC and _SPEC.loader
prose = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(prose)


@pytest.mark.parametrize(
    ("text", "line", "found"),
    [
        ('"""What a run leaves."""\n', 1, "What"),
        ('def f():\n    """Whether it is so."""\n', 2, "Whether"),
        ('"""Read a file.\n\nIt lies\nin a folder."""\n', 3, "lies in"),
        ("x = 1  # computed afresh\n", 1, "afresh"),
        ('raise ValueError("masks " "alone are required")\n', 1, "alone"),
        ('raise ValueError(f"{1} files beside it")\n', 1, "beside"),
        ('"""Return it.\n\nThe spacing is told."""\n', 3, "is told"),
        ("x = 1  # a case that has none\n", 1, "has none"),
    ],
)
def test_misuse_is_found_with_its_line(tmp_path, text, line, found):
    path = tmp_path / "module.py"
    path.write_text(text)
    (fault,) = prose.faults(path)
    assert fault.startswith(f"{path}:{line}: '{found}")


@pytest.mark.parametrize(
    "text",
    [
        '"""Return x, or ``None`` where it is None."""\n',
        '"""Return the value.\n\nValues lie in [0, 1]; `alone` is a name."""\n',
        'x = "What is required comes first"\n',
        "alone = beside = 1\n",
    ],
)
def test_ordinary_text_passes(tmp_path, text):
    path = tmp_path / "module.py"
    path.write_text(text)
    assert prose.faults(path) == []


def test_markdown_is_checked_but_not_its_code(tmp_path, capsys):
    path = tmp_path / "page.md"
    path.write_text("# A page\n\n```\nalone\n```\n\nThe job goes on.\n")
    assert prose.main([str(path)]) == 1
    assert capsys.readouterr().out == f"{path}:7: 'goes on': write continue\n"
