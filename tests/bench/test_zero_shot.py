"""Promptable models alone: clicks from the truth, and only here."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

from semisam.backends.geodesic import Geodesic
from semisam.bench import zero_shot
from semisam.cli.main import main
from semisam.core.errors import InputError
from semisam.data.datasets.phantom import Phantom
from semisam.data.loading.store import VolumeStore


class Perfect:
    """Knows the truth, a click at a time: a ball around each positive click within it."""

    ndim = 3
    accepts = frozenset({"points"})

    def __init__(self, truth, reach=1):
        self.truth, self.reach = torch.from_numpy(truth), reach
        self.encoded, self.prompts = 0, []

    def encode(self, image):
        self.encoded += 1
        return image

    def segment(self, embedding, prompt):
        self.prompts.append(prompt)
        index = torch.stack(torch.meshgrid(*map(torch.arange, self.truth.shape), indexing="ij"))
        logits = torch.full(self.truth.shape, -1.0)
        for point in prompt.points[prompt.labels == 1]:
            apart = (index - point.view(-1, *[1] * self.truth.ndim)).abs().amax(0)
            logits[(apart <= self.reach) & self.truth] = 1.0
        return logits


def _truth():
    truth = np.zeros((12, 10, 8), bool)
    truth[2:9, 3:8, 2:6] = True
    return truth


@pytest.mark.parametrize("draw", [zero_shot.random_click, zero_shot.deep_click])
def test_clicks_lie_where_the_answer_is_wrong_and_their_sign_is_the_truth(draw):
    truth, rng = _truth(), np.random.default_rng(0)
    answer = np.roll(truth, 2, axis=0)
    for _ in range(50):
        point, label = draw(truth, answer, rng)
        assert truth[point] != answer[point] and label == truth[point]
    first, label = draw(truth, np.zeros_like(truth), rng)
    assert truth[first] and label == 1
    assert draw(truth, truth, rng) is None


def test_random_clicks_are_of_both_signs():
    truth, rng = _truth(), np.random.default_rng(0)
    answer = np.roll(truth, 2, axis=0)
    assert {zero_shot.random_click(truth, answer, rng)[1] for _ in range(50)} == {0, 1}


def test_deep_clicks_lie_in_the_inner_half_of_the_deeper_error():
    truth = np.zeros((20, 12, 12), bool)
    truth[3:12, 2:11, 2:11] = True  # 9 voxels across: 5 deep in the middle
    answer = truth.copy()
    answer[3:6] = False  # missed, 3 voxels thick: 2 deep
    answer[13:20, 2:11, 2:11] = True  # surplus up to the border, 7 thick: 4 deep
    rng = np.random.default_rng(0)
    drawn = {zero_shot.deep_click(truth, answer, rng) for _ in range(200)}
    assert {label for _, label in drawn} == {0}
    # Deeper than 2 means the third layer at least; the volume's border counts as one.
    assert {point[0] for point, _ in drawn} == {15, 16, 17}
    assert {point[1] for point, _ in drawn} == {4, 5, 6, 7, 8}
    answer[13:20] = False
    assert {zero_shot.deep_click(truth, answer, rng)[1] for _ in range(20)} == {1}


def test_the_published_dialogue_clicks_deep_twice_and_then_anywhere(monkeypatch):
    drawn = []
    for name in ("deep_click", "random_click"):
        real = getattr(zero_shot, name)
        monkeypatch.setattr(
            zero_shot, name, lambda *given, name=name, real=real: drawn.append(name) or real(*given)
        )
    truth = _truth()

    def names(clicks, axis=None):
        drawn.clear()
        backend = Perfect(truth, reach=0)
        if axis is not None:
            backend.slice_axis = axis
        image = torch.zeros(1, *truth.shape)
        zero_shot.interact(backend, image, truth, [4], np.random.default_rng(0), clicks)
        return list(drawn)

    assert names("published") == 2 * ["deep_click"] + 2 * ["random_click"]
    assert names("random") == 4 * ["random_click"]
    assert set(names("published", axis=0)) == {"random_click"}


@pytest.mark.parametrize(
    ("memory", "lengths", "masks"),
    [
        (None, [1, 2, 3], [False, False, False]),
        ("mask", [1, 1, 1], [False, True, True]),
        ("both", [1, 2, 3], [False, True, True]),
    ],
)
def test_a_backend_is_told_of_earlier_clicks_as_it_was_trained(memory, lengths, masks):
    truth = _truth()
    backend = Perfect(truth, reach=0)
    if memory is not None:
        backend.memory = memory
    image = torch.zeros(1, *truth.shape)
    rng = np.random.default_rng(0)
    zero_shot.interact(backend, image, truth, [3], rng, class_name="atrium")
    prompts = list(backend.prompts)
    assert [len(p.labels) for p in prompts] == lengths
    assert {p.class_name for p in prompts} == {"atrium"}
    last = [None, *prompts[:-1]] if memory is None else [None] * 3
    assert all(p.last is before for p, before in zip(prompts, last, strict=True))
    assert [p.mask is not None for p in prompts] == masks
    for before, prompt in pairwise(prompts):
        if prompt.mask is not None:
            assert torch.equal(prompt.mask, backend.segment(None, before).sigmoid())


def test_a_volume_is_encoded_once_and_all_clicks_are_kept():
    truth = _truth()
    backend = Perfect(truth)
    found = zero_shot.interact(
        backend, torch.zeros(1, *truth.shape), truth, [1, 4], np.random.default_rng(1)
    )
    assert backend.encoded == 1 and [count for count, *_ in found] == [1, 4]
    assert [len(p.labels) for p in backend.prompts] == [1, 2, 3, 4]
    for early, late in zip(backend.prompts, backend.prompts[1:], strict=False):
        assert torch.equal(late.points[: len(early.points)], early.points)
    overlap = [int(((answer > 0.5) & truth).sum()) for _, answer, *_ in found]
    assert overlap[0] < overlap[1]


def test_nothing_more_is_asked_once_all_is_right():
    truth = _truth()
    backend = Perfect(truth, reach=99)
    found = zero_shot.interact(
        backend, torch.zeros(1, *truth.shape), truth, [1, 3], np.random.default_rng(1)
    )
    assert [len(p.labels) for p in backend.prompts] == [1]
    assert [count for count, *_ in found] == [1, 3]
    assert all(np.array_equal(answer > 0.5, truth) for _, answer, *_ in found)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_slice_models_get_a_click_on_every_slice_of_the_target(axis):
    truth = _truth()
    backend = Perfect(truth)
    backend.slice_axis = axis
    zero_shot.interact(backend, torch.zeros(1, *truth.shape), truth, [1], np.random.default_rng(1))
    points = backend.prompts[0].points
    others = tuple(a for a in range(3) if a != axis % 3)
    assert sorted(points[:, axis].tolist()) == np.flatnonzero(truth.any(axis=others)).tolist()
    assert truth[tuple(points.numpy().T)].all()


def test_slice_models_get_the_clicks_of_any_model_on_an_image():
    truth = _truth()[..., _truth().any((0, 1)).argmax()]
    backend = Perfect(truth)
    backend.slice_axis = -1
    zero_shot.interact(backend, torch.zeros(1, *truth.shape), truth, [1], np.random.default_rng(1))
    assert backend.prompts[0].points.shape == (1, 2)


def test_the_table_has_a_row_per_number_of_clicks_and_says_who_made_them(tmp_path):
    command = ["zero-shot", "--points", "3,1", "--seeds", "0,1", "--cases", "2"]
    options = ["--set", "phantom.size=32", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(main, [*command, "--sam", "geodesic", *options])
    assert result.exit_code == 0, result.output
    again = CliRunner().invoke(main, [*command, *options])
    assert again.exit_code == 2 and "without the table of an earlier call" in again.stderr
    assert "clicks simulated from the truth of the test cases" in result.output
    table = pd.read_csv(tmp_path / "out" / "table.csv")
    assert table["points"].tolist() == [1, 3]
    assert (table["clicks"] == "published").all()
    assert (table["prompts"] == zero_shot.NOTE).all() and (table["source"] == "measured").all()
    cases = pd.read_csv(tmp_path / "out" / "cases.csv")
    assert len(cases) == 2 * 2 * 2
    want = 100 * cases[cases.points == 3].groupby("case").dice.mean().mean()
    assert table["dice"][1] == pytest.approx(want, rel=1e-4)


def test_without_a_test_case_it_is_one_sentence():
    dataset = Phantom(cases=1, test_cases=0, size=32)
    store = VolumeStore(dataset, labeled=[], unlabeled=[], test=[])
    with pytest.raises(InputError, match="the test cases must be at least one"):
        zero_shot.run({"geodesic": Geodesic()}, store, [1], [0])


def test_the_same_seed_gives_the_same_clicks():
    frames = []
    for _ in range(2):
        dataset = Phantom(cases=1, test_cases=2, size=32)
        store = VolumeStore(dataset, labeled=[], unlabeled=[], test=dataset.split().test)
        frames.append(zero_shot.run({"geodesic": Geodesic()}, store, [1, 2], [0]))
    same = [c for c in frames[0].columns if "seconds" not in c]
    pd.testing.assert_frame_equal(frames[0][same], frames[1][same])


def test_on_the_left_atrium_the_papers_rows_stand_beside_as_the_papers(tiny_la, tmp_path):
    command = ["zero-shot", "--data", str(tiny_la), "--points", "1", "--sam", "geodesic"]
    result = CliRunner().invoke(main, [*command, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    table = pd.read_csv(tmp_path / "out" / "table.csv", dtype={"points": str})
    paper = table[table.source != "measured"]
    assert paper["points"].tolist() == ["N", "2N", "5N", "10N", "1", "2", "5", "10"]
    assert paper.source.str.contains("Table I").all() and "(paper" in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--points", "0"], "--points must be at least 1, got 0"),
        (["--set", "mt.ema_decay=0.9"], "--set must name a backend or the dataset, got mt"),
        (["--sam", "geodesik"], "geodesic"),
    ],
)
def test_bad_input_is_one_sentence(arguments, said):
    result = CliRunner().invoke(main, ["zero-shot", *arguments])
    assert result.exit_code != 0 and said in result.output and "Traceback" not in result.output
