"""Agreement of masks, the Dice predicted from it, and the reasons for distrust."""

from __future__ import annotations

import pytest
import torch

from semisam.automatic.trust import (
    SIGNALS,
    Correction,
    Judge,
    correction_of,
    predicted_dice,
    ranked_dice,
    reasons_for_distrust,
)
from semisam.core.types import IGNORE
from semisam.frameworks.queries import Queries
from semisam.inference.components import OneComponent
from semisam.inference.volumes import Volume
from semisam.prompters.center_points import CenterPoints

SIZE = (24, 20, 16)


def _cube(start):
    mask = torch.zeros(SIZE)
    mask[tuple(slice(at, at + 8) for at in start)] = 1
    return mask


def _probs(mask):
    return torch.stack([1 - mask, mask]) * 0.8 + 0.1


class _Thresholds:
    """A promptable model that finds what is bright, whatever the prompt is."""

    ndim = 3
    accepts = frozenset({"points"})

    def encode(self, image):
        return image

    def segment(self, embedding, prompt):
        return 8 * (embedding[0] - 0.5)


@pytest.fixture
def judge():
    """A judge whose models all find what is bright, and one labeled scan."""
    queries = Queries(_Thresholds(), CenterPoints(max_uncertainty=1.0))
    bright = _cube((9, 7, 4))

    def found(image):
        return _probs((image[0] > image.mean() + image.std()).float())

    labeled = [(bright[None], bright.long())]
    return Judge(queries, [1], lambda image: found(image[0])[None], found, labeled)


def test_a_right_mask_agrees_with_everything_and_a_wrong_one_with_nothing(judge):
    bright = _cube((4, 5, 6))
    (right,) = judge(bright[None], _probs(bright))
    (wrong,) = judge(bright[None], _probs(_cube((14, 11, 0))))
    assert right.model == right.first == 1 and right.view > 0.95
    assert right.back > 0.8
    assert wrong.first == wrong.view == 0 and wrong.back < 0.2
    assert right.entropy == pytest.approx(wrong.entropy, abs=1e-6)
    (nothing,) = judge(bright[None], _probs(torch.zeros(SIZE)))
    assert nothing.values() == dict.fromkeys(SIGNALS, 0)


def test_a_label_that_is_annotated_in_part_judges_by_that_part(judge):
    bright = _cube((4, 5, 6))
    (whole,) = judge(bright[None], _probs(bright))
    image, label = judge.labeled[0]
    part = torch.full_like(label, IGNORE)
    part[..., 6:9] = label[..., 6:9]
    judge.labeled = [(image, part)]
    (found,) = judge(bright[None], _probs(bright))
    assert found.back > 0.8 and found.back == pytest.approx(whole.back, abs=0.15)


def test_a_class_that_the_model_is_not_queried_for_has_no_such_signal(judge):
    """With the proposal as the prediction it would agree with itself."""
    bright = _cube((4, 5, 6))
    (asked,) = judge(bright[None], _probs(bright))
    judge.classes = ()
    (left,) = judge(bright[None], _probs(bright))
    assert left.model is None and "model" not in left.values()
    assert left.values() == {k: v for k, v in asked.values().items() if k != "model"}
    low = {**left.values(), "first": 0.1}
    assert [one.dice for one in ranked_dice([left.values(), low])] == [
        predicted_dice(left.values()).dice,
        predicted_dice(low).dice,
    ]
    size = (Volume("a", "organ", 8, 1.0, "ml"),)
    assert reasons_for_distrust(size, [size], [low]) == (
        "the first mask is elsewhere or empty (Dice 10)",
    )


def test_an_empty_mask_is_the_least_trusted_and_takes_no_value_of_another(judge):
    """Other models find nothing in an empty scan, either; that is no agreement about an organ."""
    scans = [_cube((4, 5, n)) for n in (2, 4, 6)]
    signals = [judge(scan[None], _probs(scan))[0].values() for scan in scans]
    (empty,) = judge(torch.zeros(1, *SIZE), _probs(torch.zeros(SIZE)))
    *others, lowest = ranked_dice([*signals, empty.values()])
    assert lowest == predicted_dice(empty.values()) and lowest.dice < 0.1
    assert {one.dice for one in others} == {predicted_dice(one).dice for one in signals}
    size = (Volume("a", "organ", 0, 0.0, "ml"),)
    assert reasons_for_distrust(size, [size], [empty.values()]) == ("nothing was found",)


def test_the_judged_mask_is_the_written_one(judge):
    """A stray component is removed from a mask before it is written."""
    bright = _cube((4, 5, 6))
    stray = bright.clone()
    stray[0, 0, 0] = 1
    (whole,) = judge(bright[None], _probs(bright))
    assert judge(bright[None], _probs(stray)) != [whole]
    judge.one_component = OneComponent((1,))
    (kept,) = judge(bright[None], _probs(stray))
    assert (kept.model, kept.first, kept.view, kept.back) == (
        *(whole.model, whole.first, whole.view, whole.back),
    )


def test_equal_scans_have_equal_signals(judge):
    torch.manual_seed(0)
    image = torch.rand(1, *SIZE)
    torch.manual_seed(1)
    one = judge(image, _probs(_cube((4, 5, 6))))
    torch.manual_seed(2)
    assert judge(image, _probs(_cube((4, 5, 6)))) == one


def test_the_predicted_dice_rises_with_the_signals():
    levels = [predicted_dice(dict.fromkeys(SIGNALS, x / 10)) for x in range(11)]
    assert [level.dice for level in levels] == sorted(level.dice for level in levels)
    for level in levels:
        assert 0 <= level.low <= level.dice <= level.high <= 1
    assert levels[0].dice < 0.2 and levels[-1].dice > 0.85


def test_the_signals_of_all_masks_order_them_and_the_map_gives_the_values():
    # The map counts entropy most. All other signals rank the second mask higher.
    first = {**dict.fromkeys(SIGNALS, 0.6), "entropy": 0.99}
    second = {**dict.fromkeys(SIGNALS, 0.7), "entropy": 0.6}
    worst = dict.fromkeys(SIGNALS, 0.3)
    alone = [predicted_dice(signals).dice for signals in (first, second, worst)]
    assert alone[0] > alone[1] > alone[2]
    together = [interval.dice for interval in ranked_dice([first, second, worst])]
    assert together == [alone[1], alone[0], alone[2]]
    assert ranked_dice([first]) == [predicted_dice(first)] and ranked_dice([]) == []


def test_true_dice_correct_the_predicted_ones():
    pairs = [(0.9, 0.8), (0.8, 0.72), (0.7, 0.6), (0.85, 0.76)]
    by = correction_of(pairs)
    assert by.shift == pytest.approx(-0.095) and by.pairs == 4
    assert by.width == pytest.approx(0.015)
    signals = dict.fromkeys(SIGNALS, 0.9)
    plain, corrected = predicted_dice(signals), predicted_dice(signals, by)
    assert corrected.dice == pytest.approx(plain.dice + by.shift)
    assert corrected.high - corrected.low == pytest.approx(2 * by.width)
    assert predicted_dice(signals, Correction(1.0, 0.1, 3)).high == 1
    # Nine of ten are held where there are enough of them.
    many = correction_of([(0.5, 0.5 + n / 1000) for n in range(-30, 31)])
    assert many.width < 0.03


def test_reasons_name_what_is_unusual():
    usual = [(Volume("a", "organ", 1000, 50.0, "ml"),)] * 5
    good = [dict.fromkeys(SIGNALS, 0.95)]
    assert reasons_for_distrust(usual[0], usual, good) == ("",)
    large = (Volume("b", "organ", 4000, 200.0, "ml"),)
    (text,) = reasons_for_distrust(large, [*usual, large], good)
    assert text == "its volume is far from the usual 50.0 ml"
    (text,) = reasons_for_distrust(usual[0], usual, [{**good[0], "model": 0.2}])
    assert text == "the promptable model disagrees (Dice 20)"
    others = [[dict.fromkeys(SIGNALS, 0.95 + 0.001 * n)] for n in range(8)]
    low = [{**good[0], "view": 0.9}]
    (text,) = reasons_for_distrust(usual[0], usual, low, [*others, low])
    assert text == "it changes with contrast and noise more than usual (Dice 90, not 95)"
    assert reasons_for_distrust(usual[0], usual, low, [*others[:6], low]) == ("",), "too few"
    assert reasons_for_distrust(usual[0], usual, good, [*others, low]) == ("",)
    empty = (Volume("c", "organ", 0, 0.0, "ml"),)
    assert reasons_for_distrust(empty, [*usual, empty], ()) == ("nothing was found",)
