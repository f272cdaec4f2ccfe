"""The labeled cases of a run and the seed of its prompts."""

from __future__ import annotations

import pytest
from tiny_runs import changed

from semisam.core.errors import InputError
from semisam.data.datasets.dataset import Split
from semisam.run.build import choose_labeled, make_framework

CASES = tuple(f"c{n:02}" for n in range(30))
SPLIT = Split(CASES, ("t0",))


def _draw(subset, labels=4, has_label=lambda case: True):
    return choose_labeled(SPLIT, labels, subset, has_label)


def test_subset_0_is_the_first_of_the_list():
    assert _draw(0) == (CASES[:4], CASES[4:])


def test_every_subset_is_a_draw_of_its_own():
    drawn = [frozenset(_draw(subset)[0]) for subset in range(6)]
    assert len(set(drawn)) == 6
    assert drawn == [frozenset(_draw(subset)[0]) for subset in range(6)], "and stays the same"


@pytest.mark.parametrize("subset", [0, 1, 5])
def test_more_labels_hold_the_fewer_and_every_case_is_used_once(subset):
    for labels in range(1, 8):
        labeled, unlabeled = _draw(subset, labels)
        assert labeled == _draw(subset, 8)[0][:labels]
        assert sorted((*labeled, *unlabeled)) == sorted(CASES)


@pytest.mark.parametrize("subset", [0, 3])
def test_cases_without_a_label_are_never_labeled(subset):
    drawn = set(CASES[::3])
    labeled, unlabeled = _draw(subset, 5, drawn.__contains__)
    assert set(labeled) <= drawn and set(CASES) - drawn <= set(unlabeled)
    with pytest.raises(InputError, match="that have a label, 10 of 30, got 11"):
        _draw(subset, 11, drawn.__contains__)
    with pytest.raises(InputError, match="training cases, 30, got 31"):
        _draw(subset, 31)


def test_the_prompts_have_the_seed_of_the_run_or_their_own(tiny_settings):
    settings = changed(tiny_settings, sam="geodesic", seed=7)
    assert make_framework(settings, 1, 2).seed == 7
    own = changed(settings, semisam_options={"seed": 3})
    assert make_framework(own, 1, 2).seed == 3
