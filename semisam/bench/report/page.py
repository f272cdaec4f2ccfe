"""The page: its template and the values for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from semisam import __version__
from semisam.bench.report.facts import cost, settings_tables, states, study
from semisam.bench.report.runs import Bench, Part
from semisam.bench.report.style import Made
from semisam.bench.statistics import ALPHA
from semisam.bench.tables import PAPER, TITLES, cells, notes
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


def page_style() -> str:
    """Return the CSS of a page, for light and dark screens and for paper."""
    return resources.files("semisam.bench.report").joinpath("style.css.j2").read_text("utf-8")


def render(bench: Bench, sections: list[Chapter]) -> str:
    """Return the page as HTML; every text is escaped, names of files and runs included."""
    # Undefined names raise an error instead of leaving a gap in the page.
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    # matplotlib made the drawings, and it escapes their texts.
    environment.filters["safe_svg"] = Markup
    text = resources.files("semisam.bench.report").joinpath("template.html.j2").read_text("utf-8")
    common, others = settings_tables(bench)
    contents = [("comparison", "Comparison"), *((s.id, s.heading) for s in sections)]
    return environment.from_string(text).render(
        css=page_style(),
        title=f"semisam report: {bench.folder.resolve().name}",
        summary=_summary(bench),
        findings=_findings(bench),
        contents=[*contents, ("reproduce", "Settings and how to reproduce")],
        parts=[{"title": part.title, "rows": _rows(part)} for part in bench.parts],
        notes=_notes(bench),
        sections=sections,
        unfinished=states(bench),
        study=study(bench),
        cost=[rows for part in bench.parts if (rows := cost(part))],
        common=common,
        others=others,
        version=__version__,
    )


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
    gains = bench.table["gain_dice"].dropna()
    if gains.empty:
        return ["No row with SemiSAM has a partner without it, so no gain is given."]
    sure = int((bench.table["gain_p_holm"] < ALPHA).sum())
    sure_of = f"beyond chance over test cases (Holm-corrected p < {ALPHA})."
    if len(gains) == 1:
        told = f"{gains.iloc[0]:+.2f} points against the same method without it"
        return [f"SemiSAM changed Dice by {told}; this is {'' if sure else 'not '}{sure_of}"]
    return [
        f"SemiSAM changed Dice by {gains.min():+.2f} to {gains.max():+.2f} points in {len(gains)} "
        f"comparisons with the same method without it; {sure} of them "
        f"{'is' if sure == 1 else 'are'} {sure_of}"
    ]


def _notes(bench: Bench) -> list[str]:
    if bench.table.empty:
        return []
    import pandas as pd

    whole = pd.concat([part.table for part in bench.parts], ignore_index=True)
    lines = [line.replace("next to it", "below it") for line in notes(whole)]
    marked = any(PAPER in line for line in lines)
    lines.append("“cases ±” is the SD over test cases, each the mean of its runs.")
    lines.append(
        "An empty prediction scores Dice 0 and the image's diagonal as its distances; the column "
        "Empty counts them over all runs. ASD is from prediction to reference."
    )
    if len(bench.parts) > 1:
        lines.append("Figures of different tables were made differently; compare within a table.")
    return lines if marked or not bench.about_paper else [*lines, bench.about_paper]


def _rows(part: Part) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    previous = None
    for row in part.table.to_dict("records"):
        first = previous not in (None, row["labeled"])
        shown = cells(row)
        metrics = [shown.metrics[name] for name in TITLES.values()]
        found.append(
            {"cells": shown, "metrics": metrics, "sam": row["sam"] != "none", "first": first}
        )
        previous = row["labeled"]
    return found
