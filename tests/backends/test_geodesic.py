import pytest
import torch

from semisam.backends.geodesic import Geodesic
from semisam.core.errors import InputError
from semisam.core.types import Prompt
from semisam.testing import BackendContract


class TestContractOnTwoChannels(BackendContract):
    channels = 2

    def make(self) -> Geodesic:
        return Geodesic(stride=1)


SHAPE = (40, 36, 28)


def ball(centre: tuple[float, ...], radius: float, shape: tuple[int, ...] = SHAPE) -> torch.Tensor:
    axes = torch.meshgrid(*[torch.arange(s).float() for s in shape], indexing="ij")
    return sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True)) < radius**2


def noisy(target: torch.Tensor, seed: int = 0) -> torch.Tensor:
    noise = torch.randn(target.shape, generator=torch.Generator().manual_seed(seed))
    return (2.0 * target + 0.4 * noise)[None]


def dice(logits: torch.Tensor, target: torch.Tensor) -> float:
    answer = logits > 0
    return float(2 * (answer & target).sum() / (answer.sum() + target.sum()))


def points(*at: tuple[int, ...], labels: list[int]) -> Prompt:
    return Prompt(points=torch.tensor(at), labels=torch.tensor(labels))


def predict(image: torch.Tensor, prompt: Prompt, **options: float) -> torch.Tensor:
    backend = Geodesic(**options)  # type: ignore[arg-type]
    return backend.segment(backend.encode(image), prompt)


def test_one_click_finds_a_ball() -> None:
    target = ball((18, 16, 14), 10)
    assert dice(predict(noisy(target), points((20, 14, 14), labels=[1])), target) > 0.9


def test_few_clicks_part_two_equal_balls() -> None:
    left, right = ball((11, 18, 14), 9), ball((29, 18, 14), 9)
    image = noisy(left | right)
    prompt = points((11, 18, 14), (29, 18, 14), labels=[1, 0])
    assert dice(predict(image, prompt), left) > 0.9
    # The clicks' signs alone decide which ball is meant.
    other = points((11, 18, 14), (29, 18, 14), labels=[0, 1])
    assert dice(predict(image, other), right) > 0.9
    both = points((11, 18, 14), (29, 18, 14), labels=[1, 1])
    assert dice(predict(image, both), left | right) > 0.9


def test_dark_objects_are_objects() -> None:
    target = ball((18, 16, 14), 10)
    assert dice(predict(-noisy(target), points((18, 16, 14), labels=[1])), target) > 0.9


def test_a_click_has_its_sign() -> None:
    image = torch.randn(1, 21, 19, 17, generator=torch.Generator().manual_seed(3))
    at = torch.randint(0, 17, (12, 3), generator=torch.Generator().manual_seed(4))
    labels = torch.tensor([1, 0] * 6)
    logits = predict(image, Prompt(points=at, labels=labels))
    assert torch.equal((logits[tuple(at.T)] > 0).long(), labels)


def test_box_alone() -> None:
    target = ball((18, 16, 14), 9)
    image = noisy(target | ball((34, 30, 22), 6))
    box = torch.tensor([[8, 6, 4], [28, 26, 24]])
    logits = predict(image, Prompt(box=box))
    assert dice(logits, target) > 0.9
    outside = torch.ones(SHAPE, dtype=torch.bool)
    outside[7:29, 5:27, 3:25] = False
    assert bool((logits[outside] < 0).all())


def test_box_that_is_the_image() -> None:
    target = ball((20, 18, 14), 9)
    logits = predict(noisy(target), Prompt(box=torch.tensor([[0, 0, 0], list(SHAPE)])))
    assert dice(logits, target) > 0.85


def test_mask_is_refined() -> None:
    target = ball((18, 16, 14), 10)
    proposal = 0.1 + 0.8 * ball((20, 18, 14), 9).float()
    before = dice(proposal - 0.5, target)
    after = dice(predict(noisy(target), Prompt(mask=proposal)), target)
    assert before < 0.8 and after > before + 0.1


def test_click_overrules_a_mask() -> None:
    left, right = ball((11, 18, 14), 9), ball((29, 18, 14), 9)
    mask = (left | right).float()
    prompt = Prompt(points=torch.tensor([[29, 18, 14]]), labels=torch.tensor([0]), mask=mask)
    logits = predict(noisy(left | right), prompt)
    assert float(logits[29, 18, 14]) < 0
    assert int((logits > 0)[right].sum()) < int(right.sum())
    assert float((logits > 0)[left].float().mean()) > 0.9


def test_two_dimensions() -> None:
    target = ball((30, 25), 14, (64, 50))
    image = noisy(target)
    assert dice(predict(image, points((28, 27), labels=[1])), target) > 0.9
    assert dice(predict(image, Prompt(box=torch.tensor([[14, 10], [46, 41]]))), target) > 0.9
    assert dice(predict(image, Prompt(mask=target.float())), target) > 0.95


def test_each_channel_counts() -> None:
    target = ball((18, 16, 14), 10)
    flat = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(1))
    prompt = points((18, 16, 14), (3, 3, 3), labels=[1, 0])
    first = predict(torch.cat([noisy(target), flat]), prompt)
    last = predict(torch.cat([flat, noisy(target)]), prompt)
    # A channel of pure noise blurs the answer, whichever it is, and drowns it in neither order.
    assert torch.allclose(first, last, atol=1e-3)
    assert dice(first, target) > 0.75 > dice(predict(flat, prompt), target)


def test_intensity_scale_does_not_matter() -> None:
    target = ball((18, 16, 14), 10)
    prompt = points((18, 16, 14), labels=[1])
    one, scaled = predict(noisy(target), prompt), predict(1000 * noisy(target) + 300, prompt)
    assert torch.allclose(one, scaled, atol=1e-2)


def test_radius_is_the_scale_without_contrast() -> None:
    image = torch.zeros(1, 48, 48, 48)
    small, large = (
        int((predict(image, points((24, 24, 24), labels=[1]), radius=r) > 0).sum())
        for r in (4.0, 8.0)
    )
    assert 0 < small < large < image.numel()


@pytest.mark.parametrize(
    "prompt",
    [
        Prompt(),
        Prompt(points=torch.empty(0, 3, dtype=torch.int64), labels=torch.empty(0)),
        points((3, 3, 3), labels=[0]),
        Prompt(mask=torch.zeros(SHAPE)),
    ],
)
def test_nothing_shown_is_background(prompt: Prompt) -> None:
    logits = predict(noisy(ball((18, 16, 14), 10)), prompt)
    assert logits.shape == SHAPE and bool((logits < 0).all())


def test_mask_of_ones() -> None:
    logits = predict(noisy(ball((18, 16, 14), 10)), Prompt(mask=torch.ones(SHAPE)))
    assert bool(torch.isfinite(logits).all()) and float((logits > 0).float().mean()) > 0.5


def test_image_without_finite_values_does_not_spread() -> None:
    image = noisy(ball((18, 16, 14), 10))
    image[0, 0, 0, 0] = float("nan")
    assert bool(torch.isfinite(predict(image, points((18, 16, 14), labels=[1]))).all())


def test_probability_at_the_surface_is_undecided() -> None:
    target = ball((18, 16, 14), 10)
    prob = predict(noisy(target), points((18, 16, 14), labels=[1])).sigmoid()
    shell = ball((18, 16, 14), 10.5) & ~ball((18, 16, 14), 9.5)
    assert 0.2 < float(prob[shell].mean()) < 0.8
    assert float(prob[ball((18, 16, 14), 5)].mean()) > 0.9


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        (points((40, 0, 0), labels=[1]), "points must be in"),
        (points((0, -1, 0), labels=[1]), "points must be in"),
        (points((0, 0), labels=[1]), "points must be"),
        (Prompt(points=torch.zeros(2, 3, dtype=torch.int64)), "points must be"),
        (Prompt(box=torch.tensor([[4, 4, 4], [4, 9, 9]])), "box must be"),
        (Prompt(mask=torch.zeros(4, 4, 4)), "mask must have"),
    ],
)
def test_prompts_that_do_not_fit(prompt: Prompt, named: str) -> None:
    with pytest.raises(InputError, match=rf"{named}.* got"):
        predict(torch.zeros(1, *SHAPE), prompt)


@pytest.mark.parametrize(
    "option", [{"radius": 0.0}, {"stride": 0}, {"contrast": -1.0}, {"smoothness": float("nan")}]
)
def test_options_out_of_range(option: dict[str, float]) -> None:
    with pytest.raises(InputError, match=rf"{next(iter(option))} must .* got"):
        Geodesic(**option)  # type: ignore[arg-type]


def test_batch_axis_is_refused() -> None:
    with pytest.raises(InputError, match="batch axis"):
        Geodesic().encode(torch.zeros(1, 1, 8, 8, 8))
