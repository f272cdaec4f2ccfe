from collections.abc import Callable

import pytest
import torch

from semisam.core.backend import PROMPT_KINDS, Prompter
from semisam.core.errors import InputError
from semisam.core.regions import deepest_points
from semisam.core.types import View
from semisam.prompters.box import BoxPrompter
from semisam.prompters.box_points import BoxAndPoints
from semisam.prompters.center_points import CenterPoints
from semisam.prompters.corrective_points import CorrectivePoints
from semisam.prompters.mask import MaskPrompter
from semisam.prompters.mask_points import MaskAndPoints
from semisam.prompters.random_points import RandomPoints
from semisam.prompters.uncertainty_points import UncertaintyPoints

Make = Callable[[], Prompter]
ALL: list[Make] = [
    UncertaintyPoints,
    RandomPoints,
    CenterPoints,
    CorrectivePoints,
    BoxPrompter,
    MaskPrompter,
    BoxAndPoints,
    MaskAndPoints,
]
POINTS: list[Make] = [UncertaintyPoints, RandomPoints, CorrectivePoints]
SHAPES = [(20, 16, 12), (24, 18)]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blob(shape: tuple[int, ...]) -> torch.Tensor:
    """A block off the centre, so that swapped axes or a wrong origin show."""
    prob = torch.full(shape, 0.1)
    prob[tuple(slice(s // 4, s // 4 + 2 + s // 3) for s in shape)] = 0.9
    return prob


def sure(prob: torch.Tensor, previous: torch.Tensor | None = None) -> View:
    return View(prob=prob, uncertainty=torch.zeros_like(prob), previous=previous)


def at(mask: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    return mask[tuple(points.T)]


@pytest.mark.parametrize("make", ALL)
def test_declares_what_it_emits(make: Make) -> None:
    prompter = make()
    assert isinstance(prompter, Prompter)
    assert prompter.emits and prompter.emits <= PROMPT_KINDS
    assert prompter.rounds >= 1
    prompt = prompter(sure(blob((20, 16, 12))), rng())
    assert prompt is not None
    made = {kind for kind in PROMPT_KINDS if getattr(prompt, kind) is not None}
    assert made == prompter.emits


@pytest.mark.parametrize("make", [UncertaintyPoints, RandomPoints, BoxAndPoints, MaskAndPoints])
def test_the_least_numbers_are_one_click_in_the_proposals_own_box(make: Callable[..., Prompter]):
    prob = blob((20, 16, 12))
    prompt = make(positive=1, negative=0, margin=0)(sure(prob), rng())
    assert prompt is not None and prompt.points is not None and prompt.labels is not None
    assert prompt.labels.tolist() == [1] and float(at(prob, prompt.points)) > 0.5
    for wrong in ({"positive": 0}, {"negative": -1}, {"margin": -1}):
        with pytest.raises(InputError, match="must be at least"):
            make(**wrong)


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("shape", SHAPES)
def test_empty_proposal_gives_none(make: Make, shape: tuple[int, ...]) -> None:
    assert make()(sure(torch.full(shape, 0.5)), rng()) is None


@pytest.mark.parametrize(
    "make",
    [UncertaintyPoints, CenterPoints, CorrectivePoints, BoxPrompter, BoxAndPoints, MaskAndPoints],
)
def test_uncertain_foreground_gives_none(make: Make) -> None:
    prob = blob((20, 16, 12))
    assert make()(View(prob=prob, uncertainty=(prob > 0.5).float()), rng()) is None


@pytest.mark.parametrize("shape", SHAPES)
def test_no_click_lies_in_the_uncertain_region(shape: tuple[int, ...]) -> None:
    prob = blob(shape)
    uncertainty = torch.rand(shape, generator=rng(7))
    uncertainty.view(-1)[::2] = 0.5  # "below": the threshold itself is excluded
    prompter = UncertaintyPoints(positive=400, negative=400, max_uncertainty=0.5, margin=30)
    prompt = prompter(View(prob=prob, uncertainty=uncertainty), rng())
    assert prompt is not None and prompt.points is not None and prompt.labels is not None
    assert bool((at(uncertainty, prompt.points) < 0.5).all())
    # As many are asked for as there are: all the sure voxels come out, each once.
    expected = int(((uncertainty < 0.5) & (prob > 0.5)).sum())
    assert int(prompt.labels.sum()) == min(expected, 400)
    assert len(torch.unique(prompt.points, dim=0)) == len(prompt.points)


def test_the_ablation_does_use_the_uncertain_region() -> None:
    prob = blob((20, 16, 12))
    prompt = RandomPoints()(View(prob=prob, uncertainty=torch.ones_like(prob)), rng())
    assert prompt is not None and prompt.points is not None
    assert len(prompt.points) == 10


@pytest.mark.parametrize("make", POINTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_sign_is_the_proposal_at_the_click(make: Make, shape: tuple[int, ...]) -> None:
    prob = blob(shape)
    target = prob > 0.5
    seen = set()
    for seed in range(20):
        # A random earlier answer, mostly foreground or mostly background, gives both errors.
        answer = (torch.rand(shape, generator=rng(seed)) < (0.95 if seed % 2 else 0.05)).float()
        previous = answer if make is CorrectivePoints and seed else None
        prompt = make()(sure(prob, previous), rng(seed))
        assert prompt is not None and prompt.points is not None and prompt.labels is not None
        assert prompt.points.dtype == prompt.labels.dtype == torch.int64
        assert prompt.points.shape == (len(prompt.labels), len(shape))
        assert torch.equal(at(target, prompt.points).long(), prompt.labels)
        seen |= set(prompt.labels.tolist())
    assert seen == {0, 1}


@pytest.mark.parametrize("make", POINTS)
def test_generator_decides(make: Make) -> None:
    view = sure(blob((20, 16, 12)))
    torch.manual_seed(1)
    one, again, other = make()(view, rng(3)), make()(view, rng(3)), make()(view, rng(4))
    assert one is not None and again is not None and other is not None
    assert one.points is not None and again.points is not None and other.points is not None
    assert torch.equal(one.points, again.points)
    assert not torch.equal(one.points, other.points)
    state = torch.random.get_rng_state()
    make()(view, rng(5))
    assert torch.equal(state, torch.random.get_rng_state())


def test_negatives_lie_near_the_object() -> None:
    prob = torch.zeros(40, 40, 40)
    prob[10:14, 20:23, 30:31] = 1
    prompt = UncertaintyPoints(positive=1, negative=10_000, margin=2)(sure(prob), rng())
    assert prompt is not None and prompt.points is not None and prompt.labels is not None
    negatives = prompt.points[prompt.labels == 0]
    assert negatives.amin(0).tolist() == [8, 18, 28]
    assert negatives.amax(0).tolist() == [15, 24, 32]
    assert len(negatives) == 8 * 7 * 5 - 12


def test_corrective_click_lies_in_the_larger_error() -> None:
    prob = torch.zeros(16, 16, 16)
    prob[4:12, 4:12, 4:12] = 1
    missed, surplus = torch.zeros_like(prob), torch.zeros_like(prob)
    missed[4:12, 4:12, 4:6] = 1  # 128 voxels of the object
    surplus[0:2, 0:4, 0:4] = 1  # 32 voxels outside
    answer = prob - missed + surplus
    for seed in range(10):
        prompt = CorrectivePoints()(sure(prob, answer), rng(seed))
        assert prompt is not None and prompt.points is not None and prompt.labels is not None
        assert prompt.labels.tolist() == [1] and bool(at(missed, prompt.points).all())
    surplus[12:, :, :] = 1
    prompt = CorrectivePoints()(sure(prob, prob - missed + surplus), rng())
    assert prompt is not None and prompt.points is not None and prompt.labels is not None
    assert prompt.labels.tolist() == [0] and bool(at(surplus, prompt.points).all())


def test_corrective_is_content_where_the_sure_part_agrees() -> None:
    prob = blob((20, 16, 12))
    answer = (prob > 0.5).float()
    uncertainty = torch.zeros_like(prob)
    answer[0, 0, 0], uncertainty[0, 0, 0] = 1, 1  # the only difference is unsure
    assert CorrectivePoints()(View(prob, uncertainty, answer), rng()) is None


def test_corrective_reads_probabilities_at_one_half() -> None:
    prob = torch.zeros(8, 8, 8)
    prob[2:6, 2:6, 2:6] = 1
    assert CorrectivePoints()(sure(prob, prob * 0.55), rng()) is None
    assert CorrectivePoints()(sure(prob, prob * 0.45), rng()) is not None


def test_the_centre_is_the_deepest_point_of_the_largest_piece() -> None:
    prob = torch.zeros(24, 20, 22)
    prob[4:13, 3:12, 8:17] = 0.9  # 9 x 9 x 9
    prob[16:23, 14:19, 2:7] = 0.9  # smaller, elsewhere
    prompt = CenterPoints()(sure(prob), rng())
    assert prompt is not None and prompt.points is not None and prompt.labels is not None
    assert prompt.points.tolist() == [[8, 7, 12]] and prompt.labels.tolist() == [1]


def test_several_centres_spread_and_none_is_taken_twice() -> None:
    mask = torch.zeros(40, 7, 7, dtype=torch.bool)
    mask[2:38, 1:6, 1:6] = True
    points = deepest_points(mask, 4)
    assert bool(at(mask, points).all()) and len(torch.unique(points, dim=0)) == 4
    apart = (points[:, None] - points[None]).float().norm(dim=2)
    assert float(apart[~torch.eye(4, dtype=torch.bool)].min()) >= 2
    few = torch.zeros(5, 5, dtype=torch.bool)
    few[1, 1:3] = True
    assert deepest_points(few, 4).tolist() == [[1, 1], [1, 2]]


def test_a_piece_that_the_patch_cuts_has_its_centre_inside() -> None:
    mask = torch.zeros(20, 20, dtype=torch.bool)
    mask[:, :9] = True
    row, column = deepest_points(mask, 1)[0].tolist()
    assert column == 4 and 4 <= row <= 15


def test_centres_of_further_rounds_correct_the_larger_error() -> None:
    prob = torch.zeros(16, 16, 16)
    prob[4:12, 4:12, 4:12] = 1
    answer = prob.clone()
    answer[4:12, 4:12, 4:9] = 0
    prompt = CenterPoints(rounds=2)(sure(prob, answer), rng())
    assert prompt is not None and prompt.points is not None and prompt.labels is not None
    assert prompt.labels.tolist() == [1] and 4 <= prompt.points[0, 2] < 9
    answer = prob.clone()
    answer[12:16] = 1
    prompt = CenterPoints(rounds=2)(sure(prob, answer), rng())
    assert prompt is not None and prompt.points is not None and prompt.labels is not None
    assert prompt.labels.tolist() == [0] and prompt.points[0, 0] >= 12
    assert CenterPoints(rounds=2)(sure(prob, prob), rng()) is None


@pytest.mark.parametrize("make", [UncertaintyPoints, BoxAndPoints, MaskAndPoints])
def test_further_rounds_ask_only_where_the_answer_differs(make: Callable[..., Prompter]) -> None:
    prob = torch.zeros(16, 16, 16)
    prob[4:12, 4:12, 4:12] = 1
    answer = prob.clone()
    answer[4:12, 4:12, 4:6] = 0
    answer[12:14, 4:12, 4:12] = 1
    prompter = make(rounds=3, positive=500, negative=500)
    assert prompter.rounds == 3
    prompt = prompter(sure(prob, answer), rng())
    assert prompt is not None and prompt.points is not None and prompt.labels is not None
    assert bool((at(prob, prompt.points) != at(answer, prompt.points)).all())
    assert torch.equal(at(prob, prompt.points).long(), prompt.labels)
    assert len(prompt.labels) == 128 + 128
    assert prompter(sure(prob, prob), rng()) is None
    # Only too much is answered: negative clicks alone.
    surplus = prob.clone()
    surplus[12:14, 4:12, 4:12] = 1
    prompt = prompter(sure(prob, surplus), rng())
    assert prompt is not None and prompt.labels is not None
    assert prompt.labels.tolist() == [0] * 128


def test_the_mask_of_further_rounds_is_the_last_answer_and_the_box_stays() -> None:
    prob = blob((20, 16, 12))
    answer = (torch.rand(prob.shape, generator=rng(2)) > 0.5).float()
    first = MaskAndPoints(rounds=2)(sure(prob), rng())
    second = MaskAndPoints(rounds=2)(sure(prob, answer), rng())
    assert first is not None and first.mask is not None and torch.equal(first.mask, prob)
    assert second is not None and second.mask is not None and torch.equal(second.mask, answer)
    box = BoxAndPoints(rounds=2)(sure(prob, answer), rng())
    assert box is not None and box.box is None, "the branch keeps the box of the first round"


def test_box_is_half_open_and_of_the_largest_piece() -> None:
    prob = torch.zeros(20, 21, 22)
    prob[3:7, 5:10, 11:20] = 0.8
    prob[18, 1, 1] = 0.99  # a stray voxel
    uncertainty = torch.zeros_like(prob)
    uncertainty[6, :, :] = 0.9
    prompt = BoxPrompter(margin=0)(View(prob, uncertainty), rng())
    assert prompt is not None and prompt.box is not None
    assert prompt.box.dtype == torch.int64
    assert prompt.box.tolist() == [[3, 5, 11], [6, 10, 20]]
    prompt = BoxPrompter(margin=4)(View(prob, uncertainty), rng())
    assert prompt is not None and prompt.box is not None
    assert prompt.box.tolist() == [[0, 1, 7], [10, 14, 22]]


def test_box_in_two_dimensions() -> None:
    prob = torch.zeros(9, 7)
    prob[2:4, 6] = 1
    prompt = BoxPrompter(margin=1)(sure(prob), rng())
    assert prompt is not None and prompt.box is not None
    assert prompt.box.tolist() == [[1, 5], [5, 7]]


def test_mask_is_the_proposal_without_its_graph() -> None:
    prob = blob((12, 10)).requires_grad_()
    prompt = MaskPrompter()(sure(prob), rng())
    assert prompt is not None and prompt.mask is not None
    assert torch.equal(prompt.mask, prob) and not prompt.mask.requires_grad


def test_no_negative_voxel_is_no_fault() -> None:
    prompt = UncertaintyPoints()(sure(torch.ones(4, 4, 4)), rng())
    assert prompt is not None and prompt.labels is not None
    assert prompt.labels.tolist() == [1] * 5


@pytest.mark.parametrize(
    ("make", "option"),
    [
        (UncertaintyPoints, {"positive": 0}),
        (UncertaintyPoints, {"negative": -1}),
        (UncertaintyPoints, {"max_uncertainty": 0.0}),
        (RandomPoints, {"margin": -1}),
        (CorrectivePoints, {"rounds": 0}),
        (CorrectivePoints, {"max_uncertainty": 1.5}),
        (BoxPrompter, {"margin": -2}),
        (UncertaintyPoints, {"rounds": 0}),
        (CenterPoints, {"points": 0}),
        (CenterPoints, {"rounds": 0}),
        (BoxAndPoints, {"positive": 0}),
        (MaskAndPoints, {"rounds": 0}),
    ],
)
def test_options_out_of_range(make: Callable[..., Prompter], option: dict[str, float]) -> None:
    name = next(iter(option))
    with pytest.raises(InputError, match=rf"{name} must .* got"):
        make(**option)
