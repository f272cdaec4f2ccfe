"""The page: its template and the values for it."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from semisam import __version__
from semisam.bench.columns import COLUMNS, Column, TableForm
from semisam.bench.formats import FORMATS
from semisam.bench.report.facts import cost, settings_tables, study
from semisam.bench.report.methods import Methods, methods
from semisam.bench.report.runs import Bench, Part, competes
from semisam.bench.report.slices import Slices
from semisam.bench.report.style import LIGHT, Made
from semisam.bench.sections import PAPER, sections
from semisam.bench.statistics import ALPHA
from semisam.bench.table_notes import UNITS, notes, out_of_reach
from semisam.bench.tables import Cells, best_text, cells, in_competition, left_out, signed
from semisam.core.layout import STUDY, TABLE
from semisam.run.folder import STATES


@dataclass(frozen=True)
class FigureGroup:
    """Figures under one heading; a single group has no heading."""

    heading: str
    figures: list[Made]


@dataclass(frozen=True)
class Chapter:
    """A section of the page.

    Attributes:
        id: of its link.
        heading: title of the section.
        lines: text before the figures.
        groups: the figures.
    """

    id: str
    heading: str
    lines: list[str]
    groups: list[FigureGroup] = field(default_factory=list)


@dataclass(frozen=True)
class Cell:
    """A cell of the comparison.

    Attributes:
        text: in the table.
        value: by which the table is sorted, of a number.
        small: below the text.
        look: its class in the page.
    """

    text: str
    value: str = ""
    small: str = ""
    look: str = ""


_USUAL = ("method", "labels", "dice", "gain", "p", "jaccard", "asd", "hd95", "empty", "runs")
_SHOWN = [COLUMNS[key] for key in _USUAL]


def page_style() -> str:
    """Return the CSS of a page, for light and dark screens and for paper."""
    return _own_file("style.css.j2")


def render(bench: Bench, chapters: list[Chapter], shown: Slices, refresh: int = 0) -> str:
    """Return the page as HTML; every text is escaped, names of files and runs included.

    The page has one script, and its security policy allows no other and no request.

    Args:
        bench: the runs.
        chapters: with figures.
        shown: the slices of test cases.
        refresh: seconds after which the page loads itself again; 0: never.
    """
    # Undefined names raise an error instead of leaving a gap in the page.
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    # matplotlib made the drawings, and it escapes their texts.
    environment.filters["safe_svg"] = Markup
    script = _own_file("script.js")
    digest = hashlib.sha256(script.encode()).digest()
    common, others = settings_tables(bench)
    paragraph = methods(bench)
    slices = shown.data if shown.data.get("cases") else None
    contents = [
        ("comparison", "Comparison"),
        *([("slices-of-cases", "Slices")] if slices else []),
        *((s.id, s.heading) for s in chapters),
        *([("methods", "Methods")] if paragraph else []),
        ("reproduce", "Settings and how to reproduce"),
    ]
    return environment.from_string(_own_file("template.html.j2")).render(
        css=page_style(),
        script=script,
        script_hash=base64.b64encode(digest).decode(),
        title=f"semisam report: {bench.folder.resolve().name}",
        refresh=refresh,
        summary=_summary(bench),
        findings=_findings(bench),
        contents=contents,
        columns=_SHOWN,
        parts=[{"title": part.title, "rows": _rows(part)} for part in bench.parts],
        notes=_notes(bench),
        unfinished=left_out(bench.runs),
        slices=slices,
        about_slices=_about_slices(shown),
        sections=chapters,
        methods=paragraph,
        study=study(bench),
        cost=[rows for part in bench.parts if (rows := cost(part))],
        common=common,
        others=others,
        files=_files(bench, chapters, paragraph),
        colors={**LIGHT, "--sans": "sans-serif"},
        version=__version__,
    )


def _own_file(name: str) -> str:
    return resources.files("semisam.bench.report").joinpath(name).read_text("utf-8")


def _about_slices(shown: Slices) -> str:
    known = any(case["letters"] for case in shown.data.get("cases", ()))
    lines = ["R and L are the patient's right and left, A is in front."] if known else []
    lines += [f"Some are missing: {'; '.join(shown.problems)}."] if shown.problems else []
    return " ".join(lines)


def _files(bench: Bench, chapters: Sequence[Chapter], paragraph: Methods | None) -> dict[str, str]:
    """Return the texts that the page copies and saves, by the names of their files."""
    found = {
        f"{made.name}.csv": made.data
        for section in chapters
        for group in section.groups
        for made in group.figures
    }
    if not bench.table.empty:
        whole = pd.concat([part.table for part in bench.parts], ignore_index=True)
        found |= {TABLE: FORMATS["csv"](whole, TableForm())}
        found |= {"table.tex": FORMATS["latex"](whole, TableForm(cite=True))}
    if paragraph is not None:
        found |= {"methods.txt": paragraph.text, "methods.tex": paragraph.latex}
        found |= {"references.bib": paragraph.bibtex}
    text = study(bench)
    return found | ({STUDY: text} if text else {})


def _summary(bench: Bench) -> str:
    counts = {state: sum(run.state == state for run in bench.runs) for state in STATES}
    text = ", ".join(f"{n} {state}" for state, n in counts.items() if n or state == "done")
    lines = [f"Runs: {text}."]
    if not bench.results.empty:
        names = sorted({str(name) for name in bench.results["data.dataset"]})
        found = sorted({str(note) for note in bench.results.get("data.note", []) if note})
        lines.append(f"Data: {', '.join(names)}" + (f" ({'; '.join(found)})." if found else "."))
        test = sorted({int(run.result["data"].get("test", 0)) for run in bench.runs if run.result})
        if test[-1]:
            lines.append(f"Test cases: {' or '.join(map(str, test))}.")
    return " ".join(lines)


def _findings(bench: Bench) -> list[str]:
    """Return the gain of SemiSAM in a sentence, without selecting rows."""
    if bench.table.empty:
        return []
    # Controls, and methods that train nothing, are no comparison of a method without and with it.
    table = bench.table[[competes(row) for row in bench.table.to_dict("records")]]
    gains = table["gain_dice"].dropna()
    if gains.empty:
        return ["No row with SemiSAM has a partner without it, so no gain is given."]
    sure = int((table["gain_p_holm"] < ALPHA).sum())
    sure_of = f"beyond chance over {UNITS} (Holm-corrected p < {ALPHA})."
    if len(gains) == 1:
        told = f"{signed(gains.iloc[0], 2)} points against the same method without it"
        first = f"SemiSAM changed Dice by {told}; this is {'' if sure else 'not '}{sure_of}"
    else:
        first = (
            f"SemiSAM changed Dice by {signed(gains.min(), 2)} to {signed(gains.max(), 2)} points "
            f"in {len(gains)} comparisons with the same method without it; {sure} of them "
            f"{'is' if sure == 1 else 'are'} {sure_of}"
        )
    return list(filter(None, [first, *_over_best(table), out_of_reach(bench.table)]))


def _over_best(table: pd.DataFrame) -> list[str]:
    """Return the gain of the best row with SemiSAM over the best without, by part and labels."""
    found = sections(table.dropna(subset=["over_best"]))
    lines = []
    for part in found:
        best = part.rows.sort_values("dice", ascending=False).groupby("labeled").head(1)
        told = [_told_over_best(row) for row in best.sort_values("labeled").to_dict("records")]
        where = f" ({part.title})" if len(found) > 1 else ""
        lines.append(f"Its best row against the best row without it{where}: {', '.join(told)}.")
    return lines


def _told_over_best(row: Mapping[Any, Any]) -> str:
    low, high = row["over_best_low"], row["over_best_high"]
    interval = "" if math.isnan(low) else f" ({signed(low, 1)} to {signed(high, 1)})"
    gain = f"{signed(row['over_best'], 2)}{interval}"
    return f"{gain} over {row['best_bare']} at {row['labeled']} labeled"


def _notes(bench: Bench) -> list[str]:
    if bench.table.empty:
        return []
    whole = pd.concat([part.table for part in bench.parts], ignore_index=True)
    lines = notes(whole)
    marked = any(PAPER in line for line in lines)
    lines.append("“cases ±” is the SD over test cases, each the mean of its runs.")
    lines.append(
        "An empty prediction of something scores Dice 0 and the image's diagonal as its distances; "
        "the column Empty counts them over all runs. ASD is from prediction to reference."
    )
    if len(bench.parts) > 1:
        lines.append("Figures of different tables were made differently; compare within a table.")
    return lines if marked or not bench.about_paper else [*lines, bench.about_paper]


def _rows(part: Part) -> list[dict[str, Any]]:
    """Return the rows of a part for the template."""
    records = part.table.to_dict("records")
    shown = [cells(record) for record in records]
    rivals = {
        labels: in_competition(own for own in shown if own.labels == labels)
        for labels in {own.labels for own in shown}
    }
    best = {
        labels: [best_text((own.figure(column) for own in rows), column.best) for column in _SHOWN]
        for labels, rows in rivals.items()
    }
    found = []
    previous = None
    for record, own in zip(records, shown, strict=True):
        looks = {
            "paper": own.paper,
            "sam": record["sam"] != "none",
            "first": previous not in (None, own.labels),
        }
        marked = best[own.labels] if own in rivals[own.labels] else [""] * len(_SHOWN)
        found.append(
            {
                "look": " ".join(look for look, has in looks.items() if has),
                "cells": [
                    _cell(column, record, own, most)
                    for column, most in zip(_SHOWN, marked, strict=True)
                ],
            }
        )
        previous = own.labels
    return found


def _cell(column: Column, record: Mapping[Any, Any], own: Cells, best: str) -> Cell:
    text = own.text(column)
    number = record.get(column.numbers[0], math.nan) if text and column.numbers else math.nan
    small = look = ""
    if column.metric:
        cases = own.metrics[column.metric].sd_cases
        small = f"cases ± {cases}" if cases else ""
        look = "best" if best and own.figure(column) == best else ""
    elif column.key == "gain":
        text, small, look = f"{own.gain}{own.star}", own.interval, "mark" if own.star else ""
    return Cell(text, _sortable(number), small, look)


def _sortable(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"
