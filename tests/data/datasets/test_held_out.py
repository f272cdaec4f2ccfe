"""The choice of test cases, which keeps the scans of a patient together."""

import pytest

from semisam.core.errors import InputError
from semisam.data.datasets.dataset import Split
from semisam.data.datasets.folder import ScanFolder
from semisam.data.datasets.groups import find_groups
from semisam.data.datasets.held_out import hold_out
from semisam.data.datasets.splits import draw_split

CASES = tuple(f"p{n // 2}_{n}" for n in range(10))
LABELED = set(CASES[:7])
SPLIT = Split(CASES[2:], CASES[:2], "of a test")
GROUPS = {case: case.split("_")[0] for case in CASES}


def held(test, fold=None, groups=None, split=SPLIT):
    return hold_out(split, test, fold, LABELED.__contains__, groups or {})


def test_auto_is_the_split_of_the_data():
    assert held("auto") == SPLIT


def test_none_trains_on_all():
    assert held("none") == Split((*SPLIT.train, *SPLIT.test), ())


@pytest.mark.parametrize("groups", [None, GROUPS])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_each_labeled_case_is_tested_once(count, groups):
    folds = [held(f"{count}-fold", n + 1, groups) for n in range(count)]
    tested = [case for fold in folds for case in fold.test]
    assert sorted(tested) == sorted(LABELED)
    sizes = [len(fold.test) for fold in folds]
    assert max(sizes) - min(sizes) <= (2 if groups else 1)
    for fold in folds:
        patient = (groups or {c: c for c in CASES}).__getitem__
        assert not {patient(c) for c in fold.train} & {patient(c) for c in fold.test}
        if not groups:
            assert sorted((*fold.train, *fold.test)) == sorted(CASES)
    assert folds == [held(f"{count}-fold", n + 1, groups) for n in range(count)]
    other = Split(tuple(reversed(CASES)), ())
    again = [held(f"{count}-fold", n + 1, groups, other) for n in range(count)]
    assert [set(fold.test) for fold in again] == [set(fold.test) for fold in folds]


def test_named_cases_and_the_other_scans_of_their_patients():
    assert held("p1_2, p0_0").test == ("p1_2", "p0_0")
    assert len(held("p1_2,p0_0").train) == 8
    kept = held("p1_2,p0_0", groups=GROUPS)
    assert not [case for case in kept.train if case.startswith(("p0_", "p1_"))]


@pytest.mark.parametrize(
    ("test", "fold", "message"),
    [
        ("p1_3x", None, "did you mean p1_3"),
        ("p4_9", None, "got p4_9 without one"),
        ("8-fold", 1, "from 2 to the number of labeled cases, 7, got 8"),
        ("1-fold", 1, "got 1"),
        ("3-fold", 4, "from 1 to 3, got 4"),
        ("3-fold", None, "from 1 to 3, got None"),
        ("auto", 2, "given with --test K-fold"),
    ],
)
def test_what_does_not_fit_is_refused(test, fold, message):
    with pytest.raises(InputError, match=message):
        held(test, fold)


def test_a_split_without_a_test_says_what_to_do():
    with pytest.raises(InputError, match="give --test none"):
        held("auto", split=Split(CASES, ()))


def test_every_scan_trains_or_is_held_whatever_a_draw_left_out():
    """The unlabeled scans of a patient in the drawn test are in no part of that draw."""
    drawn = draw_split({case: case in LABELED for case in CASES}, 0.3, 0, GROUPS)
    assert len(drawn.train) + len(drawn.test) + len(drawn.left_out) == len(CASES)
    some = next(
        split
        for seed in range(50)
        if (
            split := draw_split(dict.fromkeys(CASES, True) | {CASES[0]: False}, 0.2, seed, GROUPS)
        ).left_out
    )
    assert some.left_out == (CASES[0],)
    assert sorted(held("none", groups=GROUPS, split=some).train) == sorted(CASES)
    fold = held("2-fold", 1, GROUPS, some)
    patients = {GROUPS[case] for case in fold.test}
    assert set(fold.train) == {case for case in CASES if GROUPS[case] not in patients}


def test_a_draw_keeps_patients_together():
    labeled = {case: case in LABELED for case in CASES}
    for seed in range(20):
        split = draw_split(labeled, 0.3, seed, GROUPS)
        assert split.test and set(split.test) <= LABELED
        assert not {GROUPS[c] for c in split.train} & {GROUPS[c] for c in split.test}
        alone = draw_split(labeled, 0.3, seed)
        assert len(alone.test) == 2 and len(alone.train) == 8


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_groups_from_a_file(tmp_path, encoding):
    text = "Group,Age,Case\nanna,3,a\nanna,4,b\nbert,5,c\n"
    (tmp_path / "groups.csv").write_text(text, encoding=encoding)
    assert find_groups(tmp_path, "abc") == {"a": "anna", "b": "anna", "c": "bert"}
    with pytest.raises(InputError, match=r"groups\.csv: every case must have a group, got d"):
        find_groups(tmp_path, "abcde")
    (tmp_path / "groups.csv").write_text("case;group\n")
    with pytest.raises(InputError, match="columns case and group"):
        find_groups(tmp_path, "abc")


def test_groups_from_names(tmp_path):
    assert find_groups(tmp_path, CASES, "^([^_]+)_") == GROUPS
    assert find_groups(tmp_path, CASES) == {}
    for pattern in ("(", "p", "x" * 300):
        with pytest.raises(InputError, match="regular expression with one group"):
            find_groups(tmp_path, CASES, pattern)
    with pytest.raises(InputError, match="does not match p4_8"):
        find_groups(tmp_path, CASES, "^(p[0-3])")


def test_lists_that_divide_a_patient_are_a_fault(tmp_path):
    from scan_files import scan, write

    for case in ("a_1", "a_2", "b_1"):
        image, label = scan(0)
        write(tmp_path / f"{case}.nii.gz", image)
        write(tmp_path / f"{case}_label.nii.gz", label)
    (tmp_path / "test.list").write_text("a_1\n")
    with pytest.raises(InputError, match="no patient may be in both training and test, got a"):
        ScanFolder(tmp_path, groups="^(.)_")
