"""The test cases that a run's settings ask for."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from semisam.core.errors import InputError
from semisam.data.datasets.dataset import Split
from semisam.data.datasets.groups import patients_of, split_without

_FOLDS = re.compile(r"([0-9]{1,4})-fold")


def hold_out(
    split: Split,
    test: str,
    fold: int | None,
    has_label: Callable[[str], bool],
    groups: Mapping[str, str] = MappingProxyType({}),
) -> Split:
    """Return the split that a run's settings ask for.

    Args:
        split: of the dataset.
        test: ``auto``: the dataset's; ``none``: all cases train; ``K-fold``: the labeled cases,
            drawn into K parts of equal size, of which one is tested; else names of test cases,
            separated by commas.
        fold: the part that is tested, from 1; ``None`` without folds.
        has_label: returns True if a case has a label.
        groups: the patient of each case.

    Raises:
        InputError: a name is unknown or has no label, a number is out of range, or no case is left.
    """
    count = folds_of(test)
    if (fold is None) != (count is None) or not 1 <= (fold or 1) <= (count or 1):
        rule = "be given with --test K-fold" if count is None else f"be from 1 to {count}"
        raise InputError(f"--fold must {rule}, got {fold}. Correct it.")
    cases = split.cases
    if test == "none":
        return Split(cases, (), "no test")
    if count is not None and fold is not None:
        found = _fold(cases, count, fold, has_label, groups)
    elif test != "auto":
        found = _named(cases, test, has_label, groups)
    else:
        found = split
    if not found.test:
        raise InputError(
            "the split must have at least one test case, got none. Provide at least two cases "
            "with a label, or give --test none."
        )
    return found


def folds_of(test: str) -> int | None:
    """Return K of ``K-fold``, or ``None`` for other ways to choose the test cases."""
    match = _FOLDS.fullmatch(test)
    return int(match[1]) if match else None


def _fold(
    cases: Sequence[str],
    count: int,
    fold: int,
    has_label: Callable[[str], bool],
    groups: Mapping[str, str],
) -> Split:
    """Return one of K parts; patients with many labeled scans are dealt first, for equal parts."""
    labeled = [case for case in cases if has_label(case)]
    patients = patients_of(labeled, groups)
    if not 2 <= count <= len(patients):
        what = "patients with a label" if groups else "labeled cases"
        raise InputError(
            f"--test K-fold must have K from 2 to the number of {what}, {len(patients)}, got "
            f"{count}. Choose another K."
        )
    order = sorted(
        patients, key=lambda p: (-len(patients[p]), hashlib.sha256(f"fold|{p}".encode()).digest())
    )
    parts: list[list[str]] = [[] for _ in range(count)]
    for patient in order:
        min(parts, key=len).extend(patients[patient])
    source = f"fold {fold} of {count} of the {len(labeled)} labeled cases"
    return split_without(cases, set(parts[fold - 1]), groups, source)


def _named(
    cases: Sequence[str], test: str, has_label: Callable[[str], bool], groups: Mapping[str, str]
) -> Split:
    names = [name.strip() for name in test.split(",") if name.strip()]
    for name in names:
        if name not in cases:
            near = difflib.get_close_matches(name, cases, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InputError(
                f"--test must be auto, none, K-fold or names of cases, got {name}{hint}. Correct "
                "it."
            )
        if not has_label(name):
            raise InputError(
                f"--test must name cases with a label, got {name} without one. Choose another."
            )
    return split_without(cases, set(names), groups, "named with --test")
