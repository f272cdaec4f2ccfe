"""The comparison as LaTeX tables that go into a paper.

A part of the table whose rows may be compared is a float with rules of booktabs. Its rows are in
groups of equal labels. Numbers are in ``S`` columns of siunitx, SD and intervals next to them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from semisam.bench.columns import Column, TableForm, expanded, usual
from semisam.bench.papers import Paper, papers_of
from semisam.bench.sections import sections
from semisam.bench.table_notes import notes
from semisam.bench.tables import Cells, best_text, cells, in_competition
from semisam.run.protocols import BRANCH

_USUAL = ("dice", "jaccard", "asd", "hd95", "gain", "rank")
_HEAD = """\
% \\usepackage{booktabs, etoolbox, siunitx}
% \\robustify\\bfseries
% \\sisetup{detect-weight = true, mode = text, retain-explicit-plus = true}
"""
_SPECIAL = str.maketrans(
    {
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "<": "$<$",
        ">": "$>$",
        "|": r"\textbar{}",
    }
)


@dataclass(frozen=True)
class _Column:
    """A column: its form in the preamble, its head, a row's text, and the best of its numbers."""

    form: str
    head: str
    text: Callable[[Cells], str]
    best: str = ""


def floats(table: pd.DataFrame, form: TableForm) -> str:
    """Return a float for each part of a table that may be compared."""
    texts = [_HEAD]
    for number, part in enumerate(sections(table), start=1):
        label = f"{form.label}-{number}" if form.label and number > 1 else form.label
        title = f"{part.title}."
        lines = [*([title] if form.caption else []), *notes(table, part.rows)]
        texts.append(_float(part.rows, form, form.caption or title, label, lines))
    return "\n".join(texts)


def bibliography(table: pd.DataFrame) -> str:
    """Return the BibTeX entries that the rows of a table cite."""
    found = {paper.key: paper.text for row in table.to_dict("records") for paper in _papers(row)}
    return "\n\n".join(found.values()) + "\n"


def _float(
    rows: pd.DataFrame, form: TableForm, caption: str, label: str, lines: Sequence[str]
) -> str:
    records = rows.to_dict("records")
    shown = [cells(row) for row in records]
    keys = form.columns or usual(_USUAL, ranked="rank" in rows)
    chosen = expanded(
        (key for key in keys if key not in ("method", "labels")),
        (name for own in shown for name in own.classes),
    )
    columns = [part for column in chosen for part in _columns(column, shown)]
    body = []
    for group in dict.fromkeys(own.labels for own in shown):
        labeled, _, unlabeled = group.partition("/")
        title = f"\\emph{{{labeled} labeled, {unlabeled} unlabeled}}"
        body += [r"\midrule", rf"\multicolumn{{{1 + len(columns)}}}{{l}}{{{title}}} \\"]
        alike = [n for n, own in enumerate(shown) if own.labels == group]
        rivals = in_competition(shown[n] for n in alike)
        best = [best_text(map(column.text, rivals), column.best) for column in columns]
        for n in alike:
            cites = _cites(records[n]) if form.cite else ""
            texts = [column.text(shown[n]) for column in columns]
            if shown[n] in rivals:
                texts = [
                    rf"\bfseries {text}" if text and text == most else text
                    for text, most in zip(texts, best, strict=True)
                ]
            body.append(rf"{' & '.join([plain_latex(shown[n].title) + cites, *texts])} \\")
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{plain_latex(caption)}}}",
            *([rf"\label{{{label}}}"] if label else []),
            rf"\begin{{tabular}}{{l{''.join(column.form for column in columns)}}}",
            r"\toprule",
            rf"{' & '.join(['Method', *(column.head for column in columns)])} \\",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            *([r"\par\smallskip\footnotesize"] if lines else []),
            *map(plain_latex, lines),
            r"\end{table}",
            "",
        ]
    )


def _columns(column: Column, shown: Sequence[Cells]) -> list[_Column]:
    """Return a column, and one of text next to it for SD or interval.

    An ``S`` column is as wide as its numbers.
    """
    head = plain_latex(column.title)
    if column.form != "S":
        return [_Column(column.form, head, lambda own: plain_latex(own.text(column)))]
    parts = [own.figure(column).partition(".") for own in shown if own.figure(column)]
    whole = max((len(part[0].lstrip("+-")) for part in parts), default=1)
    digits = max((len(part[2]) for part in parts), default=0)
    sign = "+" if any(part[0][:1] in ("+", "-") for part in parts) else ""
    wide = f"S[table-format={sign}{whole}.{digits}]"
    number = _Column(wide, f"{{{head}}}", lambda own: own.figure(column), column.best)
    if column.key == "gain":
        return [number, _Column("@{\\,}l", "", _interval)]
    if not column.metric or not any(own.metrics[column.metric].sd for own in shown):
        return [number]

    def deviation(own: Cells) -> str:
        sd = own.metrics[column.metric].sd
        return rf"$\pm$ {sd}" if sd else ""

    return [number, _Column("@{\\,}l", "", deviation)]


def _interval(own: Cells) -> str:
    """Return ``$[+1.2, +7.9]^{*}$``."""
    low, _, high = own.interval.partition("..")
    star = "^{*}" if own.star else ""
    return f"$[{low}, {high}]{star}$" if own.interval else ""


def _cites(row: Mapping[Any, Any]) -> str:
    keys = ",".join(paper.key for paper in _papers(row))
    return rf"~\cite{{{keys}}}" if keys else ""


def _papers(row: Mapping[Any, Any]) -> list[Paper]:
    """Return the papers of a row: of its method, and of the branch and its promptable model."""
    found = papers_of("framework", row["method"])
    if row["sam"] != "none":
        found = [*found, *papers_of("framework", BRANCH), *papers_of("backend", row["sam"])]
    return list({paper.key: paper for paper in found}.values())


def plain_latex(text: str) -> str:
    """Return a text that LaTeX prints as it is."""
    return text.translate(_SPECIAL)
