"""The report of a bench folder, from its runs to the page."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from semisam.bench.report.choice import RULE, RULE_ALONE, Shown, choose
from semisam.bench.report.curves import Logs, read_logs, sam_quality, training_curves
from semisam.bench.report.masks import MaskSource
from semisam.bench.report.page import Chapter, FigureGroup, render
from semisam.bench.report.pictures import pictures
from semisam.bench.report.runs import Bench, Part, read_bench
from semisam.bench.report.scores import (
    ABOUT_CASES,
    by_case,
    dice_against_labels,
    gains,
    gains_of_controls,
)
from semisam.bench.report.slices import Slices, slices
from semisam.bench.report.style import Gallery, Look, Made, looks, styled
from semisam.core.files import replace_file, writable_folder

PAGE = "report.html"
FIGURES = "figures"

Progress = Callable[[str, int, int], None]
"""A function called with the current task, the steps done and the number of steps."""


@dataclass(frozen=True)
class Contents:
    """The contents of a report.

    Attributes:
        predict: compute masks that are not saved.
        all_cases: compute the mask of every test case for the slices, of one pair of runs per row.
        figures: draw figures, pictures and slices; without them the page has tables only.
        cases: largest number of test cases in pictures.
        data: present folder of the scans; ``None``: the folder that the runs read.
        refresh: seconds after which the page loads itself again; 0: never.
    """

    predict: bool = True
    all_cases: bool = False
    figures: bool = True
    cases: int = 6
    data: Path | None = None
    refresh: int = 0


@dataclass
class _Making:
    """The data that every section needs."""

    bench: Bench
    look: Mapping[str, Look]
    gallery: Gallery
    options: Contents
    masks: MaskSource
    progress: Progress


def make_report(folder: Path, out: Path, options: Contents, progress: Progress) -> Path:
    """Write ``report.html`` and ``figures/`` and return the path of the page.

    Args:
        folder: the output folder of ``semisam bench``, or a run's.
        out: folder of page and figures.
        options: contents of the report.
        progress: called with the progress.

    Raises:
        InputError: if the folder holds no run, or ``out`` cannot be written.
    """
    bench = read_bench(folder)
    writable_folder(out)
    sections, shown = _drawn(bench, out, options, progress) if options.figures else ([], Slices({}))
    page = out / PAGE
    with replace_file(page) as temporary:
        temporary.write_text(render(bench, sections, shown, options.refresh), encoding="utf-8")
    return page


def _drawn(
    bench: Bench, out: Path, options: Contents, progress: Progress
) -> tuple[list[Chapter], Slices]:
    """Return the sections with figures, whose files are written, and the slices."""
    gallery = Gallery(writable_folder(out / FIGURES))
    look = looks(row for part in bench.parts for row in part.rows)
    masks = MaskSource(bench, options.data, compute=options.predict)
    making = _Making(bench, look, gallery, options, masks, progress)
    with styled():
        logs = read_logs(bench.runs, _counter(progress, "reading logs", len(bench.runs)))
        sections = [
            _gains(making),
            _against_labels(making),
            _cases(making),
            _qualitative(making),
            _training(making, logs),
            _quality(making, logs),
        ]
    packing = functools.partial(_counter, progress, "packing slices")
    shown = slices(bench, masks, packing, all_cases=options.all_cases)
    return sections, shown


def _counter(progress: Progress, what: str, total: int) -> Callable[[], None]:
    done = 0

    def one() -> None:
        nonlocal done
        done += 1
        progress(what, done, total)

    return one


def _heading(making: _Making, part: Part) -> str:
    """Return the part's title if there are several parts."""
    return part.title if len(making.bench.parts) > 1 else ""


def _labels(part: Part) -> list[int]:
    return sorted({row.labels for row in part.rows})


def _each(making: _Making, what: str) -> list[tuple[int, Part, int, Callable[[], None]]]:
    """Return every part and its numbers of labels, each with the function that counts it."""
    places = [
        (number, part, labels)
        for number, part in enumerate(making.bench.parts, start=1)
        for labels in _labels(part)
    ]
    step = _counter(making.progress, what, len(places))
    return [(number, part, labels, step) for number, part, labels in places]


def _title(making: _Making, part: Part, labels: int) -> str:
    whose = _heading(making, part)
    return f"{labels} labeled" + (f". {whose}" if whose else "")


def _each_part(
    making: _Making,
    stem: str,
    draw: Callable[[Bench, Part, Mapping[str, Look], Gallery, str], Made | None],
) -> list[FigureGroup]:
    """Return the figure of each part that has one."""
    groups = []
    for number, part in enumerate(making.bench.parts, start=1):
        made = draw(making.bench, part, making.look, making.gallery, f"{stem}-{number}")
        if made is not None:
            groups.append(FigureGroup(_heading(making, part), [made]))
    return groups


def _gains(making: _Making) -> Chapter:
    groups = _each_part(making, "gains", gains)
    groups += _each_part(making, "gains-of-controls", gains_of_controls)
    lines = [] if groups else ["No row with SemiSAM has a partner without it."]
    return Chapter("gains", "Paired gains", lines, groups)


def _against_labels(making: _Making) -> Chapter:
    groups = _each_part(making, "dice-labels", dice_against_labels)
    lines = [] if groups else ["No finished run has a test, so there are no scores."]
    return Chapter("labels", "Dice against labels", lines, groups)


def _cases(making: _Making) -> Chapter:
    groups = []
    for number, part, labels, step in _each(making, "drawing test cases"):
        name = f"cases-{number}-n{labels}"
        made = by_case(making.bench, part, labels, making.look, making.gallery, name)
        if made is not None:
            groups.append(FigureGroup(_heading(making, part), [made]))
        step()
    lines = [ABOUT_CASES if groups else "No finished run has a test, so no test case has a score."]
    return Chapter("cases", "Every test case", lines, _merged(groups))


def _merged(groups: list[FigureGroup]) -> list[FigureGroup]:
    """Join neighbours of one heading, so that their figures are side by side."""
    found: list[FigureGroup] = []
    for group in groups:
        if found and found[-1].heading == group.heading:
            found[-1].figures.extend(group.figures)
        else:
            found.append(FigureGroup(group.heading, list(group.figures)))
    return found


def _logged(
    making: _Making,
    what: str,
    stem: str,
    logs: Logs,
    draw: Callable[[Logs, Part, int, Mapping[str, Look], Gallery, str], list[Made]],
) -> list[FigureGroup]:
    """Return the figures that are drawn from the logs, by part and number of labels."""
    groups = []
    for number, part, labels, step in _each(making, what):
        made = draw(logs, part, labels, making.look, making.gallery, f"{stem}-{number}-n{labels}")
        if made:
            groups.append(FigureGroup(_title(making, part, labels), made))
        step()
    return groups


def _training(making: _Making, logs: Logs) -> Chapter:
    groups = _logged(making, "drawing training curves", "training", logs, training_curves)
    lines = [
        f"{log.damaged} line{'s' * (log.damaged > 1)} of the log of {_folder(making, run)} could "
        "not be read and were passed over."
        for run, log in logs.by_run.items()
        if log.damaged
    ]
    missing = [_folder(making, run) for run, log in logs.by_run.items() if log.frame.empty]
    if missing and groups:
        lines.append(f"Without a readable log: {', '.join(missing)}.")
    if not groups:
        lines.append("No finished run has a readable log, so there are no training curves.")
    return Chapter("training", "Training", lines, groups)


def _folder(making: _Making, run: str) -> str:
    return making.bench.folder_of(run).path.name


def _quality(making: _Making, logs: Logs) -> Chapter:
    groups = _logged(making, "drawing SAM's predictions", "sam", logs, sam_quality)
    lines = ["SAM is queried for labeled rows too, only to measure it. They do not enter the loss."]
    if not groups:
        lines = ["No finished run with SemiSAM has logged the quality of SAM's predictions."]
    return Chapter("sam", "SAM's pseudo-labels over the training", lines, groups)


def _qualitative(making: _Making) -> Chapter:
    bench, options = making.bench, making.options
    chosen: list[tuple[int, Part, list[Shown]]] = []
    left = options.cases
    for number, part in enumerate(bench.parts, start=1):
        shown = choose(bench, part, left)
        left -= len(shown)
        chosen.append((number, part, shown))
    total = sum(len(shown) for _, _, shown in chosen)
    alone = any(one.wrapped is None for _, _, shown in chosen for one in shown)
    lines = [RULE_ALONE if alone else RULE, f"At most {options.cases} cases are shown (--cases)."]
    step = _counter(making.progress, "segmenting and drawing test cases", total)
    groups, problems = [], []
    for number, part, shown in chosen:
        name = f"pictures-{number}"
        found = pictures(bench, shown, making.masks, making.gallery, name, step)
        problems += found.problems
        if found.made:
            groups.append(FigureGroup(_heading(making, part), found.made))
    if not total:
        lines = ["No test case is shown: " + _why_none(bench, options)]
    told = list(dict.fromkeys(problems))
    if told and not groups:
        lines = []
    lines += [f"{_count(groups, total)} could be shown: {'; '.join(told)}."] if told else []
    return Chapter("pictures", "Test cases in pictures", lines, groups)


def _count(groups: list[FigureGroup], total: int) -> str:
    made = sum(len(group.figures) for group in groups)
    return f"{made} of {total} cases" if made else "No test case"


def _why_none(bench: Bench, options: Contents) -> str:
    return "--cases is 0." if bench.parts and not options.cases else "no finished run has a test."
