"""Lifting a model of pictures to volumes, shown on models whose answers are known."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from semisam.backends.slicewise import SliceWise
from semisam.core.errors import InputError
from semisam.core.types import Prompt
from semisam.testing import BackendContract

SHAPE = (6, 7, 8)


class Pixels:
    """Answers what it was asked, at the very pixels, and counts what it encodes."""

    def __init__(self, *kinds: str) -> None:
        self.accepts = frozenset(kinds or ("points", "box", "mask"))
        self.encoded: list[int] = []

    def encode(self, slices: torch.Tensor) -> list[torch.Tensor]:
        assert slices.shape[1] == 3
        self.encoded.append(len(slices))
        return list(slices[:, 0])

    def segment(
        self, features: Sequence[torch.Tensor], prompts: Sequence[Prompt], shape: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return (
            torch.stack([self.predict(f, p) for f, p in zip(features, prompts, strict=True)]),
            torch.ones(len(prompts)),
        )

    def predict(self, feature: torch.Tensor, prompt: Prompt) -> torch.Tensor:
        logits = torch.full_like(feature, -5.0)
        if prompt.box is not None:
            (a, b), (c, d) = prompt.box.tolist()
            logits[a:c, b:d] = 3.0
        if prompt.mask is not None:
            logits[prompt.mask > 0.5] = 4.0
        if prompt.points is not None and prompt.labels is not None:
            logits[tuple(prompt.points.T)] = torch.where(prompt.labels == 1, 5.0, -7.0)
        return logits


class Bright(Pixels):
    """Answers with what is bright on the slice, and near the box if it is given one."""

    quality = 1.0

    def segment(
        self, features: Sequence[torch.Tensor], prompts: Sequence[Prompt], shape: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.prompts = [*getattr(self, "prompts", []), *prompts]
        return super().segment(features, prompts, shape)[0], torch.full(
            (len(prompts),), self.quality
        )

    def predict(self, feature: torch.Tensor, prompt: Prompt) -> torch.Tensor:
        logits = torch.where(feature > 0.5, 8.0, -8.0)
        if prompt.box is not None:
            near = torch.zeros_like(feature, dtype=torch.bool)
            (a, b), (c, d) = prompt.box.tolist()
            near[max(a - 2, 0) : c + 2, max(b - 2, 0) : d + 2] = True
            logits[~near] = -8.0
        return logits


class TestContract(BackendContract):
    def make(self) -> SliceWise:
        return SliceWise(Bright())


class TestContractAlongTheFirstAxis(BackendContract):
    channels = 2

    def make(self) -> SliceWise:
        return SliceWise(Pixels(), axis=0, batch=3)


def clicks(*at: tuple[int, ...], labels: list[int]) -> Prompt:
    return Prompt(points=torch.tensor(at), labels=torch.tensor(labels))


def ball(centre: tuple[int, ...], radius: float, shape: tuple[int, ...]) -> torch.Tensor:
    axes = torch.meshgrid(*[torch.arange(s).float() for s in shape], indexing="ij")
    return sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True)) < radius**2


def voxels(where: torch.Tensor) -> set[tuple[int, ...]]:
    return {tuple(at) for at in where.nonzero().tolist()}


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2])
def test_every_click_arrives_at_its_voxel_with_its_sign(axis: int) -> None:
    at = [(1, 2, 3), (1, 5, 3), (4, 2, 7), (0, 6, 0), (1, 2, 6)]
    backend = SliceWise(Pixels(), axis=axis, propagate=False)
    embedding = backend.encode(torch.rand(1, *SHAPE))
    logits = backend.segment(embedding, clicks(*at, labels=[1, 0, 1, 1, 0]))
    assert voxels(logits > 0) == {at[0], at[2], at[3]}
    shown = {p[axis] for p in (at[0], at[2], at[3])}
    assert voxels(logits == -7) == {p for p in (at[1], at[4]) if p[axis] in shown}
    untouched = [i for i in range(SHAPE[axis]) if i not in shown]
    assert bool((logits.movedim(axis, 0)[untouched] == -10).all())


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_box_and_mask_lie_on_their_slices(axis: int) -> None:
    backend = SliceWise(Pixels(), axis=axis)
    embedding = backend.encode(torch.rand(1, *SHAPE))
    box = torch.zeros(SHAPE, dtype=torch.bool)
    box[1:4, 2:6, 3:5] = True
    asked = Prompt(box=torch.tensor([[1, 2, 3], [4, 6, 5]]))
    assert torch.equal(backend.segment(embedding, asked) > 0, box)
    mask = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))
    mask.movedim(axis, 0)[2] = 0.3
    logits = backend.segment(embedding, Prompt(mask=mask))
    assert torch.equal(logits > 0, mask > 0.5)
    assert bool((logits.movedim(axis, 0)[2] == -10).all())


def test_only_touched_slices_are_encoded_and_each_once() -> None:
    model = Pixels()
    backend = SliceWise(model, batch=2, propagate=False)
    embedding = backend.encode(torch.rand(1, *SHAPE))
    assert model.encoded == []
    backend.segment(embedding, clicks((1, 2, 3), (4, 5, 3), (0, 0, 6), (1, 1, 7), labels=[1] * 4))
    assert model.encoded == [2, 1]  # slices 3, 6 and 7
    backend.segment(embedding, clicks((1, 2, 6), (0, 0, 3), labels=[1, 1]))
    assert model.encoded == [2, 1]
    backend.segment(embedding, Prompt(box=torch.tensor([[0, 0, 2], [3, 3, 5]])))
    assert model.encoded == [2, 1, 2]  # 2 and 4
    backend.segment(backend.encode(torch.rand(1, *SHAPE)), clicks((1, 2, 6), labels=[1]))
    assert model.encoded[3] == 1  # another image shares nothing


@pytest.mark.parametrize(
    "prompt",
    [
        Prompt(),
        Prompt(points=torch.empty(0, 3, dtype=torch.int64), labels=torch.empty(0)),
        clicks((1, 2, 3), labels=[0]),
        Prompt(mask=torch.full(SHAPE, 0.4)),
    ],
)
def test_nothing_shown_is_background_and_encodes_nothing(prompt: Prompt) -> None:
    model = Pixels()
    backend = SliceWise(model)
    logits = backend.segment(backend.encode(torch.rand(1, *SHAPE)), prompt)
    assert logits.shape == SHAPE and bool((logits == -10).all())
    assert model.encoded == []


def test_pictures_of_two_axes() -> None:
    model = Pixels()
    backend = SliceWise(model)
    embedding = backend.encode(torch.rand(1, 5, 9))
    logits = backend.segment(embedding, clicks((1, 7), (4, 2), labels=[1, 0]))
    assert logits.shape == (5, 9) and voxels(logits > 0) == {(1, 7)}
    boxed = backend.segment(embedding, Prompt(box=torch.tensor([[1, 2], [3, 8]])))
    assert int((boxed > 0).sum()) == 12 and bool((boxed[1:3, 2:8] > 0).all())
    mask = torch.rand(5, 9)
    assert torch.equal(backend.segment(embedding, Prompt(mask=mask)) > 0, mask > 0.5)
    assert model.encoded == [1]


def test_one_click_is_carried_through_the_object_and_no_farther() -> None:
    shape = (20, 22, 30)
    target, other = ball((9, 11, 10), 7, shape), ball((9, 11, 24), 5, shape)
    image = (target | other).float()[None]
    backend = SliceWise(Bright())
    logits = backend.segment(backend.encode(image), clicks((9, 11, 8), labels=[1]))
    # All but the last slices, which are so much smaller than those before that they end it.
    found = voxels((logits > 0).any(0).any(0))
    assert voxels(target.any(0).any(0)) - found <= {(4,), (16,)}
    assert torch.equal((logits > 0)[..., 5:16], target[..., 5:16])
    assert not bool((logits > 0)[other].any())
    alone = SliceWise(Bright(), propagate=False)
    logits = alone.segment(alone.encode(image), clicks((9, 11, 8), labels=[1]))
    assert voxels((logits > 0).any(0).any(0)) == {(8,)}


def test_clicks_on_the_way_are_asked_along() -> None:
    model = Bright()
    backend = SliceWise(model)
    image = ball((9, 11, 5), 40, (20, 22, 7)).float()[None]
    image[:, 0] = 0
    backend.segment(backend.encode(image), clicks((9, 11, 2), (3, 4, 5), labels=[1, 0]))
    asked = [p for p in model.prompts if p.points is not None and p.box is not None]
    assert len(asked) == 1 and asked[0].points is not None and asked[0].labels is not None
    assert asked[0].points.tolist() == [[3, 4]] and asked[0].labels.tolist() == [0]
    assert len(model.prompts) == 7 == sum(model.encoded)


def test_an_answer_the_model_does_not_trust_ends_it() -> None:
    model = Bright()
    model.quality = 0.4
    backend = SliceWise(model)
    image = ball((9, 11, 5), 40, (20, 22, 7)).float()[None]
    image[:, 0] = 0
    logits = backend.segment(backend.encode(image), clicks((9, 11, 2), labels=[1]))
    assert voxels((logits > 0).any(0).any(0)) == {(2,)}  # what was asked for stands
    assert sum(model.encoded) == 3


def test_a_box_or_a_mask_ends_where_it_ends() -> None:
    image = torch.rand(1, 8, 8, 20)
    image[:, 2:6, 2:6] += 5
    box = Prompt(box=torch.tensor([[2, 2, 6], [6, 6, 9]]))
    mask = torch.zeros(8, 8, 20)
    mask[2:6, 2:6, 6:9] = 1
    backend = SliceWise(Bright())
    for prompt in (box, Prompt(mask=mask)):
        logits = backend.segment(backend.encode(image), prompt)
        assert voxels((logits > 0).any(0).any(0)) == {(6,), (7,), (8,)}


def test_the_window_is_the_volumes_and_clips_outliers() -> None:
    image = torch.linspace(-100, 300, 1000).view(1, 10, 10, 10).clone()
    image[0, 0, 0, 0], image[0, 9, 9, 9] = float("nan"), 1e6
    slices = SliceWise(Pixels(), axis=0, clip=1.0).encode(image).slices
    assert slices.shape == (10, 3, 10, 10)
    assert float(slices.min()) == 0 and float(slices.max()) == 1
    assert float(slices[0].mean()) < 0.1 and float(slices[9].mean()) > 0.9
    assert abs(float(slices[5].mean()) - 0.55) < 0.02
    flat = SliceWise(Pixels()).encode(torch.full((1, 4, 4, 4), 7.0)).slices
    assert bool((flat == 0).all())


def test_channels_become_colours() -> None:
    backend = SliceWise(Pixels())
    image = torch.rand(3, *SHAPE)
    three = backend.encode(image).slices
    assert not torch.equal(three[:, 0], three[:, 1])
    for channels in (1, 2, 4):
        grey = backend.encode(torch.rand(channels, *SHAPE)).slices
        assert grey.shape == (8, 3, 6, 7) and torch.equal(grey[:, 0], grey[:, 2])


def test_kinds_that_the_model_does_not_take_are_refused() -> None:
    backend = SliceWise(Pixels("box"))
    embedding = backend.encode(torch.rand(1, *SHAPE))
    with pytest.raises(InputError, match=r"must be of box, got points, mask"):
        point = torch.tensor([[0, 0, 0]]), torch.tensor([1])
        backend.segment(embedding, Prompt(*point, mask=torch.rand(SHAPE)))
    with pytest.raises(InputError, match=r"points must be in"):
        backend.segment(embedding, clicks((0, 0, 8), labels=[1]))
    assert not bool((backend.segment(embedding, Prompt()) > 0).any())


@pytest.mark.parametrize("option", [{"axis": 3}, {"batch": 0}, {"clip": 50.0}])
def test_options_out_of_range(option: dict[str, int]) -> None:
    with pytest.raises(InputError, match=rf"{next(iter(option))} must .* got"):
        SliceWise(Pixels(), **option)  # type: ignore[arg-type]


def test_says_its_axis_and_refuses_a_batch() -> None:
    assert SliceWise(Pixels(), axis=1).slice_axis == 1
    with pytest.raises(InputError, match="batch axis"):
        SliceWise(Pixels()).encode(torch.zeros(1, 1, 8, 8, 8))
