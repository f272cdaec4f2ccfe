"""Names for differences of runs that no setting shows: data, plugins, version of the numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import pandas as pd

from semisam.frameworks.controls import NEED_TRUTH
from semisam.run.settings import PLUGINS

T = TypeVar("T", bound=Hashable)

_TESTED_ON = ("dataset", "dataset_options", "test")
"""Settings of which runs have the same test cases over all folds if their data are the same."""
_CHOSEN = ("labels", "subset", "first", "fold")
"""Further settings that decide which cases train with their label."""
TRAINED_ON = (*_TESTED_ON, *_CHOSEN)
"""Settings of which runs have the same cases in each part of the training."""
_SCANS = "scans"
"""The name of the images that a run reads."""


def versions_of_test(frame: pd.DataFrame) -> pd.Series[Any]:
    """Return a name for the test data of each run, over all folds; empty where there is one.

    A fold has test cases of its own, so hashes are compared within a fold. Where a fold has two
    hashes, each is a version. The folds of a study are of one version, and so are studies that
    share the data of a fold, unless a fold would have two hashes.

    Args:
        frame: results of `semisam.bench.results.Finished`.
    """
    found = pd.Series("", frame.index, dtype=object)
    study = frame["study"] if "study" in frame else pd.Series(0, frame.index)
    fold, tested = as_text(frame["fold"]), as_text(frame.get("data.test_hash", found))
    known = frame[tested != ""]
    for _, group in known.groupby([as_text(known[name]) for name in _TESTED_ON], sort=False):
        at = group.index
        items = pd.Series(list(zip(fold[at], tested[at], strict=True)), at)
        if not _contradict(set(items)):
            continue
        studies = [frozenset(own) for _, own in items.groupby(study[at])]
        clear = [own for own in studies if not _contradict(own)]
        names = {}
        for joined in join_sets([*clear, *(frozenset([item]) for item in items)]):
            for item in joined:
                names[item] = _name([item] if _contradict(joined) else joined)
        found[at] = items.map(names)
    return found


def differences(frame: pd.DataFrame) -> pd.Series[Any]:
    """Return a text for each run of what differs between runs that could else share a row.

    A value is named where runs that should have the same have another: the scans; the cases of each
    part of the training, and the label of a case, for equal scans; a plugin's distribution or file;
    the version of the numbers.

    Args:
        frame: runs with ``data`` of `versions_of_test` and ``data_key``.
    """
    runs = [list(_items(run)) for run in frame.to_dict("records")]
    seen: dict[tuple[str, Hashable], set[str]] = {}
    for items in runs:
        for name, among, value in items:
            seen.setdefault((name, among), set()).add(value)
    differing = {place for place, values in seen.items() if len(values) > 1}
    # Patients leave out other scans in each fold and subset, so scans are compared within these.
    # What differs in one is named in all, so that a row keeps its folds and subsets.
    scans = {value for place in differing if place[0] == _SCANS for value in seen[place]}
    texts = [
        "; ".join(
            f"{name} {value[:12]}"
            for name, among, value in items
            if (name, among) in differing or (name == _SCANS and value in scans)
        )
        for items in runs
    ]
    return pd.Series(texts, frame.index, dtype=object)


def join_sets(sets: Iterable[frozenset[T]]) -> list[frozenset[T]]:
    """Return disjoint sets: those that share a member, directly or through others, are one.

    Example:
        >>> [sorted(joined) for joined in join_sets(map(frozenset, ("ab", "cd", "be")))]
        [['c', 'd'], ['a', 'b', 'e']]
    """
    joined: list[frozenset[T]] = []
    for own in sets:
        touched = [other for other in joined if own & other]
        joined = [other for other in joined if not own & other]
        joined.append(own.union(*touched))
    return joined


def as_text(column: pd.Series[Any]) -> pd.Series[Any]:
    """Return a column as texts, empty where a value is missing."""
    return column.astype(object).where(column.notna(), "").map(str)


def _items(run: Mapping[Any, Any]) -> Iterator[tuple[str, Hashable, str]]:
    """Yield names, the runs among which a value should be one (by what they share), and values."""
    text = {name: str(value) if pd.notna(value) else "" for name, value in run.items()}
    tested = tuple(text[name] for name in (*_TESTED_ON, "data"))
    chosen = tuple(text[name] for name in _CHOSEN)
    if scans := text.get("data.scans", ""):
        yield _SCANS, (tested, chosen), scans
    # A result of before has the hash of all that the run read, of a control also the truth.
    whole, _, parts = text["data_key"].partition("-")
    if parts or (whole and text.get("sam_control") not in NEED_TRUTH):
        yield "parts", (tested, scans, chosen), parts or whole
    for case, digest in json.loads(text.get("data.labels") or "{}").items():
        yield f"label {case}", (tested, scans), digest
    for column in ("sources", "sam_sources"):
        for name, value in json.loads(text.get(column) or "{}").items():
            # A plugin's, among all rows that have it; the version of the numbers among all.
            place = name.partition(".")[0]
            yield name, text[place] if place in PLUGINS else (), value


_Item = tuple[str, str]
"""A fold, empty without folds, and the hash of its test data."""


def _contradict(items: Collection[_Item]) -> bool:
    """Return whether a fold has two hashes."""
    return len({fold for fold, _ in items}) < len(items)


def _name(items: Collection[_Item]) -> str:
    """Return eight digits: the first of the only hash, or of a hash of all."""
    digests = sorted({digest for _, digest in items})
    if len(digests) == 1:
        return digests[0][:8]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()[:8]
