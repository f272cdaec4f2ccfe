"""Cards of images with two axes, and refused cards."""

import json
import math

import pytest

from semisam.core.errors import InputError
from semisam.inference.card import Card, read_card, write_card

NAMES = ("background", "nodule")
FLAT = {"channels": 1, "class_names": list(NAMES), "spacing": [0.5, 2.0]}


def test_a_card_of_two_axes_comes_back_and_turns_nothing():
    card = Card(3, NAMES, (0.5, 2.0), label_values=(0, 255))
    back = Card.from_json(json.loads(json.dumps(card.to_json())))
    assert back == card
    assert back.axes_of_lps() == ((0, 1), (False, False))
    assert back.preparation().spacing == (0.5, 2.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"spacing": [1.0]},
        {"spacing": [1.0] * 4},
        {"class_names": ["background"]},
        {"channels": 0},
        {"spacing": [0.0, 1.0]},
        {"spacing": [1.0, math.inf]},
        {"orientation": "LP"},
    ],
)
def test_a_card_that_does_not_fit_is_refused(wrong):
    assert Card.from_json(FLAT).spacing == (0.5, 2.0)
    with pytest.raises(ValueError, match=r"a card must have|(orientation|spacing) must be"):
        Card.from_json(FLAT | wrong)


@pytest.mark.parametrize("old, new", [("0.5", "1.5"), ("nodule", "module"), ("{", "["), ("{", "")])
def test_a_damaged_card_is_noticed(tmp_path, old, new):
    path, card = tmp_path / "model.json", Card(1, NAMES, (0.5, 2.0), label_values=(0, 255))
    write_card(path, card)
    assert read_card(path) == card
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(InputError, match="got a damaged one"):
        read_card(path)
