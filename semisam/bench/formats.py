"""The comparison table for other programs: CSV, Markdown, HTML, LaTeX, and a workbook."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path

import pandas as pd

from semisam.bench.columns import COLUMNS, Column, TableForm
from semisam.bench.latex import bibliography, floats
from semisam.bench.sections import sections
from semisam.bench.table_notes import notes
from semisam.bench.tables import numeric, readable
from semisam.core.errors import InputError
from semisam.core.files import csv_cell, replace_file
from semisam.plugins.registry import nearest

ENDINGS = {
    ".csv": "csv",
    ".md": "md",
    ".tex": "latex",
    ".html": "html",
    ".xlsx": "xlsx",
}
"""The format of a file by its ending."""


def format_of(kind: str | None, out: Path | None, form: TableForm) -> str:
    """Return the format of an output: the given one, that of the file's ending, or ``terminal``.

    Raises:
        InputError: the ending names no format, or the form is not for the format.
    """
    if kind is None and out is not None:
        kind = ENDINGS.get(out.suffix.lower())
        if kind is None:
            raise InputError(
                f"-o must end with one of {', '.join(ENDINGS)}, got {out}. Rename it, or add "
                "--format."
            )
    kind = kind or "terminal"
    if out is not None and kind == "terminal":
        raise InputError("-o must come with a format for files, got terminal. Leave --format out.")
    if out is None and kind == "xlsx":
        raise InputError("--format xlsx must come with -o FILE.xlsx, got no file. Add it.")
    for name in ("caption", "label", "cite"):
        if getattr(form, name) and kind != "latex":
            raise InputError(f"--{name} must come with the format latex, got {kind}. Leave it out.")
    for name in form.columns:
        if name not in COLUMNS:
            raise InputError(
                f"--columns must be of {', '.join(COLUMNS)}, got {name}{nearest(name, COLUMNS)}. "
                "Correct the name."
            )
    return kind


def write(table: pd.DataFrame, kind: str, form: TableForm, out: Path) -> list[Path]:
    """Write a table and return its files: of one that cites, its bibliography, too.

    Raises:
        InputError: the format needs a package that is not installed.
    """
    if kind == "xlsx":
        _write_workbook(numeric(table, form.columns), out)
        return [out]
    texts = {out: FORMATS[kind](table, form)}
    if form.cite:
        texts[out.with_suffix(".bib")] = bibliography(table)
    for path, text in texts.items():
        with replace_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return list(texts)


def _write_workbook(table: pd.DataFrame, out: Path) -> None:
    if importlib.util.find_spec("openpyxl") is None:
        raise InputError(
            "-o FILE.xlsx must have openpyxl, got an installation without it. Run pip install "
            "'semisam[excel]'."
        )
    with replace_file(out) as temporary, temporary.open("wb") as file:
        table.map(csv_cell).to_excel(file, sheet_name="comparison", index=False, engine="openpyxl")


def _csv(table: pd.DataFrame, form: TableForm) -> str:
    shown = numeric(table, form.columns)
    return str(shown.map(csv_cell).to_csv(index=False, float_format="%.6g", lineterminator="\n"))


def _markdown(table: pd.DataFrame, form: TableForm) -> str:
    texts = []
    for section in sections(table):
        columns, rows = readable(section.rows, form.columns)
        aligned = [_side(column) for column in columns]
        body = _safe(rows).to_markdown(index=False, disable_numparse=True, colalign=aligned)
        texts.append(f"{body}\n\n{_markdown_text(section.title)}.\n")
    return "\n".join([*texts, *map(_markdown_text, notes(table))]) + "\n"


def _safe(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose names cannot end a cell or begin a tag."""
    return rows.rename(columns=_markdown_text).map(lambda cell: _markdown_text(str(cell)))


def _markdown_text(text: str) -> str:
    """Return a text that a Markdown reader shows as it is."""
    plain = " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
    return re.sub(r"[*`]|(?<!\w)_|_(?!\w)", r"\\\g<0>", plain)  # within a word, _ is shown


def _html(table: pd.DataFrame, form: TableForm) -> str:
    texts = []
    for section in sections(table):
        columns, rows = readable(section.rows, form.columns)
        lines = [_html_row("th", columns, list(rows.columns))]
        lines += [_html_row("td", columns, row) for row in rows.to_numpy().tolist()]
        body = "\n".join(lines)
        texts.append(f"<table>\n{body}\n</table>\n<p>{escape(section.title)}.</p>\n")
    return "".join([*texts, *(f"<p>{escape(line)}</p>\n" for line in notes(table))])


def _html_row(tag: str, columns: Sequence[Column], row: Sequence[str]) -> str:
    found = [
        f'<{tag} style="text-align: {_side(column)}">{escape(text)}</{tag}>'
        for column, text in zip(columns, row, strict=True)
    ]
    return f"<tr>{''.join(found)}</tr>"


def _side(column: Column) -> str:
    return "left" if column.text else "right"


FORMATS: Mapping[str, Callable[[pd.DataFrame, TableForm], str]] = {
    "csv": _csv,
    "md": _markdown,
    "latex": floats,
    "html": _html,
}
"""Text of a table by the name of its format."""
