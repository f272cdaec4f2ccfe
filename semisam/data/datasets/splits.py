"""Splits into training and test cases: given lists, or a reproducible seeded draw.

Names in lists and in JSON may come from an untrusted author, so they must not lead out of the
dataset's folder.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import MappingProxyType
from typing import Any

from semisam.core.errors import InputError
from semisam.core.files import read_text
from semisam.data.datasets.dataset import Split

TRAIN_LIST, TEST_LIST = "train.list", "test.list"
GROUPS = "groups.csv"
FOLDS = "splits_final.json"
_LARGEST_JSON = 64 << 20
_LONGEST_PATTERN = 200
_FOLDS = re.compile(r"([0-9]{1,4})-fold")


@dataclass(frozen=True)
class Fault:
    """A fault in a dataset.

    Attributes:
        file: the faulty file or folder.
        problem: the rule and the value that breaks it.
        remedy: the advice, in lower case and without a period.
    """

    file: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.file}: {self.problem}. {self.remedy[:1].upper()}{self.remedy[1:]}."


def stays_inside(name: str) -> bool:
    """Return whether a name stays in its folder, by the rules of POSIX and of Windows."""
    windows = PureWindowsPath(name)
    absolute = PurePosixPath(name).is_absolute() or bool(windows.drive or windows.root)
    return bool(windows.parts) and not absolute and ".." not in windows.parts


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: it is missing, far too large or not JSON.
    """
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise ValueError("it is larger than any list of cases")
        return json.loads(read_text(path))
    except InputError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: it must be a readable JSON file, got '{error}'. Write it again."
        ) from error


def find_split(
    folder: Path,
    labeled: Mapping[str, bool],
    given: Split | None,
    *,
    fold: int = 0,
    test_share: float = 0.2,
    seed: int = 0,
    groups: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Split, list[Fault]]:
    """Return the split of a dataset's cases and the faults of a given split.

    The split is the first of these that exists: ``train.list`` and ``test.list`` in the folder
    (with only ``test.list``, all other cases train), nnU-Net's ``splits_final.json``, ``given``, a
    seeded draw.

    Args:
        folder: folder of the dataset.
        labeled: whether each case has a label, in the order of the dataset.
        given: the split that the dataset states.
        fold: fold of ``splits_final.json``, whose validation cases are the test cases.
        test_share: share of the labeled cases to draw.
        seed: seed of the draw.
        groups: the patient of each case, as of `find_groups`.
    """
    if (folder / TEST_LIST).is_file():
        split, faults = _from_lists(folder, labeled)
    elif (folder / FOLDS).is_file():
        split, faults = _from_folds(folder / FOLDS, labeled, fold)
    elif given is not None:
        split, faults = given, []
    else:
        split, faults = draw_split(labeled, test_share, seed, groups), []
    return split, faults + _faults_of(split, labeled, folder, groups)


def draw_split(
    labeled: Mapping[str, bool],
    test_share: float,
    seed: int,
    groups: Mapping[str, str] = MappingProxyType({}),
) -> Split:
    """Draw test cases among those with a label, at least one if two cases have a label.

    The rank of a case depends only on seed and name, so an added case hardly changes the draw.
    Training cases keep their order. With ``groups``, patients are drawn, until their labeled scans
    are as many as the share asks for; a patient's scans without a label are then left out.
    """
    patients = _patients(labeled, groups)
    usable = [name for name, cases in patients.items() if any(labeled[case] for case in cases)]
    scans = sum(labeled.values())
    wanted = max(1, round(test_share * scans))
    ranked = sorted(usable, key=lambda name: hashlib.sha256(f"{seed}|{name}".encode()).digest())
    test: set[str] = set()
    for name in ranked[: len(usable) - 1]:
        if len(test) >= wanted:
            break
        test.update(case for case in patients[name] if labeled[case])
    source = f"drawn from {scans} labeled cases with seed {seed}"
    return _without(labeled, test, groups, source)


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
    cases = (*split.train, *split.test)
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


def _patients(cases: Iterable[str], groups: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the cases of each patient; without groups every case is one."""
    found: dict[str, list[str]] = {}
    for case in cases:
        found.setdefault(groups.get(case, case), []).append(case)
    return found


def _without(
    cases: Iterable[str], test: Collection[str], groups: Mapping[str, str], source: str
) -> Split:
    """Return a split with these test cases, whose patients have no other scan in training."""
    cases = tuple(cases)
    held = {groups.get(case, case) for case in test}
    train = tuple(case for case in cases if groups.get(case, case) not in held)
    return Split(train, tuple(case for case in cases if case in test), source)


def _fold(
    cases: Sequence[str],
    count: int,
    fold: int,
    has_label: Callable[[str], bool],
    groups: Mapping[str, str],
) -> Split:
    """Return one of K parts; patients with many labeled scans are dealt first, for equal parts."""
    labeled = [case for case in cases if has_label(case)]
    patients = _patients(labeled, groups)
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
    return _without(cases, set(parts[fold - 1]), groups, source)


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
    return _without(cases, set(names), groups, "named with --test")


def _from_lists(folder: Path, labeled: Mapping[str, bool]) -> tuple[Split, list[Fault]]:
    test, faults = _read_list(folder / TEST_LIST)
    if not (folder / TRAIN_LIST).is_file():
        return Split(tuple(c for c in labeled if c not in test), test, TEST_LIST), faults
    train, more = _read_list(folder / TRAIN_LIST)
    return Split(train, test, TEST_LIST), faults + more


def _read_list(path: Path) -> tuple[tuple[str, ...], list[Fault]]:
    lines = (line.strip() for line in read_text(path).splitlines())
    # Lists of the published layout may name the file in the case's folder.
    cases = [line.split("/mri_norm2.h5")[0].rstrip("/") for line in lines if line]
    faults = [
        Fault(str(path), f"each case must be listed once, got {case} twice", "remove one")
        for case, count in Counter(cases).items()
        if count > 1
    ]
    return tuple(dict.fromkeys(cases)), faults


def _from_folds(path: Path, labeled: Mapping[str, bool], fold: int) -> tuple[Split, list[Fault]]:
    raw = read_json(path)
    try:
        parts = [[str(case) for case in raw[fold][key]] for key in ("train", "val")]
        if fold < 0:
            raise IndexError(fold)
    except (LookupError, TypeError):
        count = len(raw) if isinstance(raw, list) else 0
        raise InputError(
            f"{path}: the fold must be one of {count}, each with 'train' and 'val', got {fold}. "
            "Set the dataset's option fold."
        ) from None
    # nnU-Net's folds list only labeled cases: the others can only be unlabeled training cases.
    rest = [c for c, has in labeled.items() if not has and c not in (*parts[0], *parts[1])]
    return Split((*parts[0], *rest), tuple(parts[1]), f"fold {fold} of {FOLDS}"), []


def _faults_of(
    split: Split, labeled: Mapping[str, bool], folder: Path, groups: Mapping[str, str]
) -> list[Fault]:
    faults = [
        Fault(
            str(folder),
            f"no case may be in both training and test, got {case}",
            "remove it from one of them",
        )
        for case in sorted(set(split.train) & set(split.test))
    ]
    for case in dict.fromkeys((*split.train, *split.test)):
        if case not in labeled:
            faults.append(
                Fault(
                    str(folder),
                    f"every case of the split must be in the folder, got '{case}'",
                    "copy it there or remove it from the list",
                )
            )
    for case in split.test:
        if case in labeled and not labeled[case]:
            faults.append(
                Fault(
                    str(folder),
                    f"a test case must have a label, got {case} without one",
                    "add its label or remove it from the test cases",
                )
            )
    held = {groups.get(case, case) for case in split.test}
    faults += [
        Fault(
            str(folder),
            f"no patient may be in both training and test, got {groups[case]}, whose scan {case} "
            "is a training case",
            "move all scans of a patient to one part",
        )
        for case in split.train
        if case in groups and groups[case] in held
    ]
    if not split.train:
        faults.append(
            Fault(
                str(folder),
                "the split must have at least one training case, got none",
                "provide at least one case that is not a test case",
            )
        )
    return faults
