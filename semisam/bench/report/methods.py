"""The methods paragraph of a paper on the runs, with the papers of what they used."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from semisam.bench import statistics
from semisam.bench.latex import plain_latex
from semisam.bench.papers import Paper, cited_by, papers_of
from semisam.bench.report.runs import Bench
from semisam.bench.statistics import RESAMPLES
from semisam.run.protocols import BRANCH
from semisam.run.settings import show_value

_Part = str | tuple[Paper, ...]
"""A piece of the paragraph: a text, or papers that are cited there."""


@dataclass(frozen=True)
class Reference:
    """An entry of the list of references: its text, and its address or an empty text."""

    text: str
    url: str


@dataclass(frozen=True)
class Methods:
    """The methods paragraph.

    Attributes:
        text: with the numbers of the references.
        latex: with the keys of the BibTeX entries.
        references: in the order of their numbers.
        bibtex: their entries.
    """

    text: str
    latex: str
    references: list[Reference]
    bibtex: str


_KEPT = {
    "all": "Masks kept all components of a class.",
    "as-labeled": "A class that is one component in every labeled mask kept its largest component.",
    "largest": "Masks kept the largest component of each class.",
    "surest": "Masks kept the component of each class of which the network was surest.",
}


def methods(bench: Bench) -> Methods | None:
    """Return the paragraph on the finished runs; ``None`` if there is no such run."""
    if bench.results.empty:
        return None
    parts = [part for sentence in _sentences(bench) for part in (*sentence, " ")]
    order = list({p.key: p for part in parts if isinstance(part, tuple) for p in part}.values())
    numbers = {paper.key: str(number) for number, paper in enumerate(order, start=1)}

    def written(part: _Part, *, latex: bool) -> str:
        if isinstance(part, str):
            return plain_latex(part) if latex else part
        if not part:
            return ""
        if latex:
            return rf"~\cite{{{','.join(paper.key for paper in part)}}}"
        return f" [{', '.join(numbers[paper.key] for paper in part)}]"

    return Methods(
        "".join(written(part, latex=False) for part in parts).strip(),
        "".join(written(part, latex=True) for part in parts).strip() + "\n",
        [_reference(paper) for paper in order],
        "\n\n".join(paper.text for paper in order) + "\n",
    )


def _sentences(bench: Bench) -> Iterable[list[_Part]]:
    frame = bench.results
    wrapped = frame[frame["sam"] != "none"]
    compared: list[_Part] = ["We compared ", *_named("framework", frame["method"])]
    if not wrapped.empty:
        both = " without and with SemiSAM" if len(wrapped) < len(frame) else " with SemiSAM"
        compared += [both, _papers("framework", BRANCH), ", which queried "]
        compared += [*_named("backend", wrapped["sam"]), " with prompts of "]
        compared += _named("prompter", wrapped["prompter"])
    yield [*compared, "."]
    adapted = sorted({int(steps) for steps in wrapped.get("sam_adapt", []) if steps})
    if adapted:
        every = bool((wrapped["sam_adapt"] > 0).all())
        yield [
            "The promptable model was first adapted to the labeled scans in "
            f"{_list(adapted, 'or')} steps{'' if every else ' in some runs'}."
        ]
    controls = [name for name in dict.fromkeys(wrapped["sam_control"]) if name]
    if controls:
        yield [f"Controls of SemiSAM were {_list(controls)}."]
    networks = _named("network", frame["network"])
    noun = "The network was " if frame["network"].nunique() == 1 else "The networks were "
    yield [noun, *networks, "."]
    yield [
        f"Each training had {_values(bench, 'iterations')} iterations on batches of "
        f"{_values(bench, 'batch')} patches of {_values(bench, 'patch')} voxels by "
        f"{_values(bench, 'optimizer')} with a learning rate of {_values(bench, 'lr')}."
    ]
    labeled, unlabeled = (sorted(set(frame[f"data.{n}"])) for n in ("labeled", "unlabeled"))
    yield [
        f"The runs had {_list(labeled, 'or')} labeled and {_list(unlabeled, 'or')} unlabeled "
        f"scans, {_counted(frame['seed'].nunique(), 'seed')} and "
        f"{_counted(frame['subset'].nunique(), 'labeled subset')}."
    ]
    notes = {str(note): None for note in frame.get("data.note", []) if note}
    about = f" ({'; '.join(notes)})" if notes else ""
    yield [f"The data were {_list(dict.fromkeys(frame['data.dataset']))}{about}."]
    for protocol, own in frame.groupby("protocol", sort=False):
        departures, choices = _of_runs(own["departures"]), _of_runs(own["choices"])
        besides = f", except {departures}" if departures else ""
        yield [f"Settings were those of the protocol {protocol} of semisam{besides}."]
        if choices:
            yield [f"Settings that it does not prescribe were {choices}."]
    tests = sorted(set(frame["data.test"]) - {0}) if "data.test" in frame else []
    if tests:
        yield [
            f"Dice, Jaccard, ASD and 95HD were computed on {_list(tests, 'or')} test scans by a "
            f"sliding window with a stride of {_values(bench, 'stride')} voxels."
        ]
        for way in sorted(frame["components"].unique()):
            yield [_KEPT[way]]
    compared_pairs = int(bench.table["gain_p"].notna().sum())
    if compared_pairs:
        efron, wilcoxon, holm = _statistics()
        yield [
            "Gains are differences in Dice paired over test scans, with 95 % percentile bootstrap "
            f"intervals of {RESAMPLES:,} resamples",
            *(efron, "; p is of the two-sided Wilcoxon signed-rank test", wilcoxon),
            *(", corrected by Holm's method", holm),
            f" for {_counted(compared_pairs, 'comparison')}.",
        ]
    found = [run.result["versions"] for run in bench.runs if run.result and run.state == "done"]
    used = [_versions(found, name) for name in ("semisam", "torch")]
    yield [f"The software was {' with '.join(text for text in used if text)}."]


def _of_runs(texts: Iterable[str]) -> str:
    """Return the departures or the choices of runs, those of some of the runs last."""
    runs = [[part for part in text.split("; ") if part] for text in texts]
    every = list(dict.fromkeys(part for run in runs for part in run))
    shared = [part for part in every if all(part in run for run in runs)]
    some = [part for part in every if part not in shared]
    found = [", ".join(shared)] if shared else []
    return ", and ".join([*found, *([f"{', '.join(some)} in some runs"] if some else [])])


def _named(kind: str, names: Iterable[str]) -> list[_Part]:
    """Return the names of plugins, each with its papers, as a list in a sentence."""
    found = list(dict.fromkeys(str(name) for name in names))
    parts: list[_Part] = []
    for place, name in enumerate(found):
        if place:
            parts.append(" and " if place == len(found) - 1 else ", ")
        parts += [name, _papers(kind, name)]
    return parts


def _papers(kind: str, name: str) -> tuple[Paper, ...]:
    return tuple(papers_of(kind, name))


def _statistics() -> list[tuple[Paper, ...]]:
    by_key = {paper.key: paper for paper in cited_by(statistics)}
    return [(by_key[key],) for key in ("efron1993bootstrap", "wilcoxon1945", "holm1979")]


def _values(bench: Bench, name: str) -> str:
    """Return the values of a setting in the finished runs."""
    found: dict[str, None] = {}
    for run in bench.runs:
        if run.state == "done":
            value = run.settings[name]
            found[show_value(tuple(value) if isinstance(value, list) else value)] = None
    return _list(found, "or")


def _versions(found: Sequence[dict[str, str]], name: str) -> str:
    versions = sorted({own[name] for own in found if name in own})
    return f"{name} {_list(versions)}" if versions else ""


def _list(values: Iterable[object], word: str = "and") -> str:
    texts = [str(value) for value in values]
    if len(texts) < 2:
        return "".join(texts)
    return f"{', '.join(texts[:-1])} {word} {texts[-1]}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _reference(paper: Paper) -> Reference:
    fields = {name: re.sub(r"[{}\\]", "", text) for name, text in paper.fields.items()}
    authors = [author.split(",")[0] for author in fields.get("author", "").split(" and ")]
    who = ", ".join(authors[:3]) + (" et al" if len(authors) > 3 else "")
    venue = next((fields[n] for n in ("booktitle", "journal", "publisher") if n in fields), "")
    text = ". ".join(filter(None, (who, fields["title"], venue))) + f", {fields['year']}."
    url = ""
    if "eprint" in fields:
        url = f"https://arxiv.org/abs/{fields['eprint']}"
    elif "doi" in fields:
        url = f"https://doi.org/{fields['doi']}"
    return Reference(text, url)
