"""The kinds of a prompt, and what it has that the query before had not."""

from __future__ import annotations

import torch

from semisam.core.types import Prompt


def clicks(*at: int) -> Prompt:
    return Prompt(torch.tensor([[i, i] for i in at]), torch.ones(len(at), dtype=torch.int64))


def test_the_kinds_are_those_that_it_holds():
    mask = torch.zeros(2, 2)
    assert Prompt().kinds == frozenset()
    assert Prompt(mask=mask, more={"text": "aorta", "scribble": None}).kinds == {"mask", "text"}


def test_the_first_prompt_is_new_as_a_whole():
    prompt = clicks(1, 2)
    assert prompt.added() is prompt


def test_only_later_points_and_replaced_parts_are_new():
    mask, scribble = torch.zeros(2, 2), torch.ones(2, 2)
    one = clicks(1)
    first = Prompt(one.points, one.labels, mask=mask, more={"text": "aorta"})
    both = clicks(1, 2)
    more = {"text": first.more["text"], "scribble": scribble}
    second = Prompt(both.points, both.labels, mask=mask, more=more, class_name="a", last=first)
    added = second.added()
    assert added.points.tolist() == [[2, 2]] and added.labels.tolist() == [1]
    assert added.mask is None and added.box is None and added.last is None
    assert added.more == {"scribble": scribble} and added.class_name == "a"
    third = Prompt(both.points, both.labels, mask=mask.clone(), last=second)
    assert third.added().kinds == {"mask"}
    assert third.added().labels is None
