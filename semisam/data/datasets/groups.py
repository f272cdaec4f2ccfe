"""The patients of a dataset's cases, whose scans are never divided between training and test."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from semisam.core.errors import InputError
from semisam.core.files import read_text
from semisam.data.datasets.dataset import Split

GROUPS = "groups.csv"
_LONGEST_PATTERN = 200


def find_groups(folder: Path, cases: Iterable[str], pattern: str = "") -> dict[str, str]:
    """Return the patient of each case.

    Args:
        folder: of the dataset, whose ``groups.csv`` has the columns ``case`` and ``group``.
        cases: of the dataset.
        pattern: a regular expression whose first group in a case's name is its patient; it
            overrides the file.

    Returns:
        Nothing if there is neither file nor pattern.

    Raises:
        InputError: the file or the pattern is wrong, or leaves a case without a patient.
    """
    if pattern:
        return _by_pattern(tuple(cases), pattern)
    path = folder / GROUPS
    if not path.is_file():
        return {}
    rows = list(csv.reader(io.StringIO(read_text(path), newline="")))
    head = [name.strip().lower() for name in rows[0]] if rows else []
    if not {"case", "group"} <= set(head):
        raise InputError(
            f"{path}: it must have the columns case and group, got {', '.join(head) or 'nothing'}. "
            "Write them into the first line."
        )
    at, where = head.index("case"), head.index("group")
    known = {row[at].strip(): row[where].strip() for row in rows[1:] if len(row) > max(at, where)}
    missing = [case for case in cases if not known.get(case)]
    if missing:
        raise InputError(
            f"{path}: every case must have a group, got {missing[0]} without one"
            f"{f' and {len(missing) - 1} more' if len(missing) > 1 else ''}. Add its line."
        )
    return {case: known[case] for case in cases}


def _by_pattern(cases: Sequence[str], pattern: str) -> dict[str, str]:
    try:
        if len(pattern) > _LONGEST_PATTERN:
            raise re.error(f"longer than {_LONGEST_PATTERN} characters")
        compiled = re.compile(pattern)
        if not compiled.groups:
            raise re.error("without a group in parentheses")
    except re.error as error:
        raise InputError(
            f"groups must be a regular expression with one group, got '{pattern[:80]}' ({error}). "
            "Write for example ^([^_]+)_ for the part before the first underscore."
        ) from None
    found = {case: match[1] for case in cases if (match := compiled.search(case)) and match[1]}
    missing = [case for case in cases if case not in found]
    if missing:
        raise InputError(
            f"groups must match every case, got '{pattern}', which does not match {missing[0]}. "
            "Correct it, or write groups.csv."
        )
    return found


def patients_of(cases: Iterable[str], groups: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the cases of each patient; without groups every case is one."""
    found: dict[str, list[str]] = {}
    for case in cases:
        found.setdefault(groups.get(case, case), []).append(case)
    return found


def split_without(
    cases: Iterable[str], test: Collection[str], groups: Mapping[str, str], source: str
) -> Split:
    """Return a split with these test cases, whose patients have no other scan in training."""
    cases = tuple(cases)
    held = {groups.get(case, case) for case in test}
    train = tuple(case for case in cases if groups.get(case, case) not in held)
    tested = tuple(case for case in cases if case in test)
    rest = set(cases) - {*train, *tested}
    return Split(train, tested, source, tuple(case for case in cases if case in rest))
