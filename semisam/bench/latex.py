"""The comparison as LaTeX tables that go into a paper.

A part of the table whose rows may be compared is a float with rules of booktabs. Its rows are in
groups of equal labels. Numbers are in ``S`` columns of siunitx, SD and intervals next to them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from semisam.bench.papers import Paper, papers_of
from semisam.bench.sections import sections
from semisam.bench.tables import (
    COLUMNS,
    TITLES,
    Cells,
    best_text,
    cells,
    in_competition,
    notes,
)
from semisam.run.protocols import BRANCH

_USUAL = ("dice", "jaccard", "asd", "hd95", "gain")
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
    }
)


@dataclass(frozen=True)
class Wishes:
    """The form of a table.

    Attributes:
        columns: keys of `COLUMNS`, in this order; empty: those of the format.
        caption: of a float; empty: the protocol and the departures from it.
        label: of a float; a second one gets ``-2`` at its end.
        cite: cite the papers of methods and promptable models.
    """

    columns: tuple[str, ...] = ()
    caption: str = ""
    label: str = ""
    cite: bool = False


@dataclass(frozen=True)
class _Column:
    """A column: its form in the preamble, its head, a row's text, and the key of its best value."""

    form: str
    head: str
    text: Callable[[Cells], str]
    key: str = ""


def floats(table: pd.DataFrame, wishes: Wishes) -> str:
    """Return a float for each part of a table that may be compared."""
    texts = [_HEAD]
    for number, part in enumerate(sections(table), start=1):
        label = f"{wishes.label}-{number}" if wishes.label and number > 1 else wishes.label
        title = f"{part.title}."
        lines = [*([title] if wishes.caption else []), *notes(table, part.rows)]
        texts.append(_float(part.rows, wishes, wishes.caption or title, label, lines))
    return "\n".join(texts)


def bibliography(table: pd.DataFrame) -> str:
    """Return the BibTeX entries that the rows of a table cite."""
    found = {paper.key: paper.text for row in table.to_dict("records") for paper in _papers(row)}
    return "\n\n".join(found.values()) + "\n"


def _float(
    rows: pd.DataFrame, wishes: Wishes, caption: str, label: str, lines: Sequence[str]
) -> str:
    records = rows.to_dict("records")
    shown = [cells(row) for row in records]
    usual = (*_USUAL, "rank") if "rank" in rows else _USUAL
    chosen = [key for key in wishes.columns or usual if key not in ("method", "labels")]
    columns = [column for key in chosen for column in _columns(key, shown)]
    body = []
    for group in dict.fromkeys(own.labels for own in shown):
        labeled, _, unlabeled = group.partition("/")
        title = f"\\emph{{{labeled} labeled, {unlabeled} unlabeled}}"
        body += [r"\midrule", rf"\multicolumn{{{1 + len(columns)}}}{{l}}{{{title}}} \\"]
        alike = [n for n, own in enumerate(shown) if own.labels == group]
        rivals = in_competition(shown[n] for n in alike)
        best = {
            column.key: best_text(map(column.text, rivals), column.key)
            for column in columns
            if column.key
        }
        for n in alike:
            cites = _cites(records[n]) if wishes.cite else ""
            rival = shown[n] in rivals
            texts = [
                _shown(column, shown[n], best.get(column.key, "") if rival else "")
                for column in columns
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


def _columns(key: str, shown: Sequence[Cells]) -> list[_Column]:
    """Return the column of a key, and one of text next to it for SD or interval."""
    title = COLUMNS[key]
    if title in TITLES:
        return _metric(key, title, TITLES[title], shown)
    if key == "classes":
        return [
            _class(name, shown) for name in dict.fromkeys(n for own in shown for n in own.classes)
        ]
    if key == "gain":
        return [_number(title, lambda own: own.gain, shown), _Column("@{\\,}l", "", _interval)]
    if key == "sd":
        return [_number(title, lambda own: own.metrics["dice"].sd_cases, shown)]
    if key in ("runs", "empty"):
        return [_number(title, lambda own: str(getattr(own, key)), shown)]
    if key in ("p", "rank"):
        return [_Column("r", plain_latex(title), lambda own: plain_latex(own.text(key)))]
    return [_Column("l", plain_latex(title), lambda own: plain_latex(own.against))]


def _metric(key: str, title: str, name: str, shown: Sequence[Cells]) -> list[_Column]:
    number = _number(title, lambda own: own.metrics[name].mean, shown, key)
    if not any(own.metrics[name].sd for own in shown):
        return [number]

    def deviation(own: Cells) -> str:
        sd = own.metrics[name].sd
        return rf"$\pm$ {sd}" if sd else ""

    return [number, _Column("@{\\,}l", "", deviation)]


def _class(name: str, shown: Sequence[Cells]) -> _Column:
    return _number(f"Dice {name} [%]", lambda own: own.classes.get(name, ""), shown, name)


def _number(
    title: str, text: Callable[[Cells], str], shown: Sequence[Cells], key: str = ""
) -> _Column:
    """Return an ``S`` column that is as wide as its numbers."""
    parts = [text(own).partition(".") for own in shown if text(own)]
    whole = max((len(part[0].lstrip("+-")) for part in parts), default=1)
    digits = max((len(part[2]) for part in parts), default=0)
    sign = "+" if any(part[0][:1] in ("+", "-") for part in parts) else ""
    return _Column(
        f"S[table-format={sign}{whole}.{digits}]", f"{{{plain_latex(title)}}}", text, key
    )


def _shown(column: _Column, own: Cells, best: str) -> str:
    text = column.text(own)
    return rf"\bfseries {text}" if best and text == best else text


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
