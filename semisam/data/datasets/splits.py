"""Splits into training and test cases: given lists, or a reproducible seeded draw.

Names in lists and in JSON may come from an untrusted author, so they must not lead out of the
dataset's folder.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import MappingProxyType
from typing import Any

from semisam.core.errors import InputError
from semisam.core.files import read_text
from semisam.data.datasets.dataset import Split
from semisam.data.datasets.faults import Fault
from semisam.data.datasets.groups import patients_of, split_without

TRAIN_LIST, TEST_LIST = "train.list", "test.list"
FOLDS = "splits_final.json"
_LARGEST_JSON = 64 << 20


def stays_inside(name: str) -> bool:
    """Return whether a name stays in its folder, by the rules of POSIX and of Windows."""
    windows = PureWindowsPath(name)
    absolute = PurePosixPath(name).is_absolute() or bool(windows.drive or windows.root)
    return bool(windows.parts) and not absolute and ".." not in windows.parts


def read_list(path: Path, ending: str) -> tuple[str, ...]:
    """Return the names in a list of a published layout, one per line.

    Args:
        path: of the list.
        ending: that is cut off a name, if it has it.

    Raises:
        InputError: the list is missing or empty, or names a case twice or one outside the folder.
    """
    if not path.is_file():
        raise InputError(
            f"{path}: the list must exist, got none. Write one case per line, as in the published "
            "layout."
        )
    names: dict[str, None] = {}
    for line in read_text(path).splitlines():
        name = line.strip().removesuffix(ending).rstrip("/")
        if not line.strip():
            continue
        if not stays_inside(name):
            raise InputError(
                f"{path}: a case must be next to the list, got {line.strip()}. Give its name "
                "relative to the list, without '..'."
            )
        if name in names:
            raise InputError(f"{path}: each case may be listed once, got {name} twice. Remove one.")
        names[name] = None
    if not names:
        raise InputError(f"{path}: the list must name at least one case, got none. Add one.")
    return tuple(names)


def load_json(path: Path) -> Any:
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
    lone = folder / TRAIN_LIST
    if lone.is_file() and not any((folder / name).is_file() for name in (TEST_LIST, FOLDS)):
        rule = f"{TRAIN_LIST} must come with {TEST_LIST}, got it without"
        faults.append(Fault(str(lone), rule, f"write {TEST_LIST}, or remove {TRAIN_LIST}"))
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
    patients = patients_of(labeled, groups)
    usable = [name for name, cases in patients.items() if any(labeled[case] for case in cases)]
    scans = sum(labeled.values())
    wanted = max(1, round(test_share * scans))
    ranked = sorted(usable, key=lambda name: _draw(seed, name))
    test: set[str] = set()
    for name in ranked[: len(usable) - 1]:
        if len(test) >= wanted:
            break
        test.update(case for case in patients[name] if labeled[case])
    source = f"drawn from {scans} labeled cases with seed {seed}"
    return split_without(labeled, test, groups, source)


def _draw(seed: int, name: str) -> bytes:
    """Return the rank of a case; a name of another encoding is a fault of its own."""
    return hashlib.sha256(f"{seed}|{name}".encode(errors="surrogateescape")).digest()


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
    raw = load_json(path)
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
