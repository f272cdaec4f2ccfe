"""The papers of plugins: BibTeX entries, found by what a docstring cites."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from semisam.core.errors import PluginError
from semisam.plugins import registry
from semisam.run.protocols import BRANCH


@dataclass(frozen=True)
class Paper:
    """An entry of ``papers.bib``.

    Attributes:
        key: by which a text cites it.
        text: the entry.
        fields: its fields, such as ``title`` and ``eprint``.
    """

    key: str
    text: str
    fields: Mapping[str, str]


def papers() -> Iterator[Paper]:
    """Yield every paper that the package cites."""
    text = resources.files("semisam.bench").joinpath("papers.bib").read_text(encoding="utf-8")
    for entry in re.split(r"\n(?=@)", text.strip()):
        (key,) = re.findall(r"^@\w+\{(\w+),$", entry, re.M)
        yield Paper(key, entry.strip(), dict(re.findall(r"^  (\w+) = \{(.*)\},$", entry, re.M)))


def cited_by(loaded: Any) -> list[Paper]:
    """Return the papers whose arXiv number, DOI or title is in the docstrings of a plugin."""
    doc = f"{inspect.getdoc(inspect.getmodule(loaded)) or ''}\n{inspect.getdoc(loaded) or ''}"
    words = _plain(doc)
    found = []
    for paper in papers():
        marks = [paper.fields.get("eprint", ""), paper.fields.get("doi", "")]
        if any(mark and mark in doc for mark in marks) or _plain(paper.fields["title"]) in words:
            found.append(paper)
    return found


def papers_of(kind: str, name: str) -> list[Paper]:
    """Return the papers that the docstrings of a plugin cite, or of the branch (``semisam``).

    Joined plugins have the papers of each; one that is not installed has no papers.
    """
    if (kind, name) == ("framework", BRANCH):
        from semisam.frameworks.semisam import SemiSAM

        return cited_by(SemiSAM)
    try:
        found = cited_by(registry.load(kind, name))
    except PluginError:
        return []
    if len(parts := registry.members(kind, name)) > 1:
        found += [paper for part in parts for paper in papers_of(kind, part)]
    return list({paper.key: paper for paper in found}.values())


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", text.lower())
