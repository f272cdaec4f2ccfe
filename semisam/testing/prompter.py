"""The contract of a prompter, as tests."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import fields, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from semisam.core.backend import Prompter
from semisam.core.types import Prompt, View

_CLICKS = ((1, "positive", "foreground"), (0, "negative", "background"))


class FakePrompter:
    """A prompter with one positive click on a random voxel of the proposal."""

    emits: frozenset[str] = frozenset({"points"})
    rounds: int = 1

    def __call__(self, view: View, rng: torch.Generator) -> Prompt | None:
        """Return the click, or ``None`` for an empty proposal."""
        index = (view.prob > 0.5).nonzero()
        if not len(index):
            return None
        chosen = torch.randint(len(index), (1,), generator=rng, device=rng.device)
        points = index[chosen.to(index.device)]
        return Prompt(points=points, labels=points.new_ones(1))


class PrompterContract:
    """Tests of a prompter. Subclass it and define ``make``.

    Attributes:
        shapes: spatial shapes of the proposals; remove those that the prompter does not support.
    """

    shapes: ClassVar[tuple[tuple[int, ...], ...]] = ((12, 20, 16), (24, 18))

    def make(self) -> Prompter:
        """Return the prompter under test."""
        raise NotImplementedError("define make(self)")

    def test_declares_what_it_emits(self) -> None:
        """Check the kinds of prompt and the number of rounds."""
        prompter = self.make()
        assert prompter.emits, "emits must name the kinds of prompt that it makes, got none"
        rounds = prompter.rounds
        assert isinstance(rounds, int) and rounds >= 1, f"rounds must be 1 or more, got {rounds}"

    def test_makes_a_prompt_for_a_sure_proposal(self) -> None:
        """Check that a certain blob in a certain background gives a prompt."""
        for shape in self.shapes:
            prompt = _prompt_of(self.make(), _views(shape)["blob"])
            assert prompt is not None, "a certain proposal must give a prompt, got None"

    def test_prompts_are_valid(self) -> None:
        """Check that prompts are inside the volume and of the declared kinds, in every round."""
        for shape in self.shapes:
            prompter = self.make()
            for name, view in _views(shape).items():
                for seed in range(3):
                    prompt = _prompt_of(prompter, view, seed)
                    if prompt is not None:
                        _check_prompt(prompt, prompter.emits, shape, f"on the view {name!r}")

    def test_every_declared_kind_is_made(self) -> None:
        """Check that each kind of ``emits`` is in a prompt, also one of the prompter's own."""
        for shape in self.shapes:
            prompter = self.make()
            prompts = [_prompt_of(prompter, view) for view in _views(shape).values()]
            made = frozenset(kind for prompt in prompts if prompt for kind in prompt.kinds)
            never = sorted(prompter.emits - made)
            assert not never, (
                "emits must name only kinds of prompt that it makes, got "
                f"{sorted(prompter.emits)}, of which {never} is in no prompt"
            )

    def test_prompts_follow_the_proposal(self) -> None:
        """Check that proposals in two corners give other prompts."""
        for shape in self.shapes:
            corners = [
                _blob([slice(size // 2) for size in shape], shape),
                _blob([slice(size // 2, None) for size in shape], shape),
            ]
            prompts = [_prompt_of(self.make(), view) for view in corners]
            assert not _same(*prompts), (
                "a prompt must depend on the proposal, got the same one for proposals in two "
                f"corners: {prompts[0]}"
            )

    def test_clicks_lie_on_their_class(self) -> None:
        """Check that most clicks on a certain proposal have the label of their voxel."""
        for shape in self.shapes:
            view = _views(shape)["blob"]
            prompts = [_prompt_of(self.make(), view, seed) for seed in range(5)]
            clicks = [p for p in prompts if p and p.points is not None and p.labels is not None]
            for label, name, where in _CLICKS:
                points = [p.points[p.labels == label] for p in clicks]  # type: ignore[index]
                found = [bool(view.prob[tuple(i)] > 0.5) for group in points for i in group]
                right = found.count(bool(label))
                assert 2 * right >= len(found), (
                    f"{name} clicks on a certain proposal must be in its {where}, got {right} of "
                    f"{len(found)} there"
                )

    def test_masks_and_boxes_show_the_object(self) -> None:
        """Check that mask and box of a certain proposal mark its foreground, not the background."""
        for shape in self.shapes:
            view = _views(shape)["blob"]
            inside = view.prob > 0.5
            prompt = _prompt_of(self.make(), view)
            if prompt is not None and prompt.mask is not None:
                high, low = float(prompt.mask[inside].mean()), float(prompt.mask[~inside].mean())
                assert high > low, (
                    "a mask must be higher in the proposal's foreground than outside, got "
                    f"{high:.2f} and {low:.2f}. Is it inverted?"
                )
            if prompt is not None and prompt.box is not None:
                held = torch.zeros_like(inside)
                held[tuple(slice(int(a), int(b)) for a, b in prompt.box.T)] = True
                right, surplus = int((held & inside).sum()), int((held & ~inside).sum())
                assert 2 * right >= int(inside.sum()) and surplus < int((~inside).sum()), (
                    "the box of a certain proposal must hold most of its foreground and not all "
                    f"of the background, got {prompt.box.tolist()}"
                )

    def test_nothing_on_an_empty_proposal(self) -> None:
        """Check that an empty proposal gives no prompt."""
        for shape in self.shapes:
            view = View(torch.zeros(shape), torch.zeros(shape))
            prompt = _prompt_of(self.make(), view)
            assert prompt is None, f"an empty proposal must give None, got {prompt}"

    def test_same_generator_same_prompt(self) -> None:
        """Check that equal generators give equal prompts, also after another image."""
        for shape in self.shapes:
            views = _views(shape)
            prompter = self.make()
            first = _prompt_of(prompter, views["blob"], seed=3)
            _prompt_of(prompter, views["other"], seed=4)
            second = _prompt_of(prompter, views["blob"], seed=3)
            fresh = _prompt_of(self.make(), views["blob"], seed=3)
            assert _same(first, second), "a prompt must depend only on the view and the rng"
            assert _same(first, fresh), "two equal prompters must give equal prompts"

    def test_draws_from_its_generator_alone(self) -> None:
        """Check that the global generators of torch, NumPy and Python stay unchanged."""
        states: list[Callable[[], object]] = [
            lambda: torch.get_rng_state().tolist(),
            lambda: np.random.get_state(legacy=False),
            random.getstate,
        ]
        for shape in self.shapes:
            before = [repr(state()) for state in states]
            _prompt_of(self.make(), _views(shape)["blob"])
            assert [repr(state()) for state in states] == before, (
                "a prompter must draw from its rng, never from a global generator"
            )

    def test_view_is_left_as_it_was(self) -> None:
        """Check that the view stays unchanged."""
        for shape in self.shapes:
            for name, view in _views(shape).items():
                before = [None if t is None else t.clone() for t in _tensors(view)]
                _prompt_of(self.make(), view)
                for old, new in zip(before, _tensors(view), strict=True):
                    same = old is None or (new is not None and torch.equal(old, new))
                    assert same, f"a prompter must not change the view {name!r} in place"


def _views(shape: tuple[int, ...]) -> dict[str, View]:
    """Return views of the first and a later round, ordinary and extreme."""
    blob, other = torch.full(shape, 0.02), torch.full(shape, 0.02)
    blob[tuple(slice(size // 4, 3 * size // 4) for size in shape)] = 0.97
    other[tuple(slice(0, size // 2) for size in shape)] = 0.97
    voxel = torch.zeros(shape)
    voxel[(-1,) * len(shape)] = 1.0
    sure, unsure = torch.full(shape, 0.05), torch.ones(shape)
    rng = torch.Generator().manual_seed(0)
    noise = torch.rand(shape, generator=rng)
    return {
        "blob": View(blob, sure),
        "other": View(other, sure),
        "one voxel": View(voxel, torch.zeros(shape)),
        "everything": View(torch.ones(shape), torch.zeros(shape)),
        "unsure": View(blob, unsure),
        "noise": View(noise, 1 - (2 * noise - 1).abs()),
        "second round": View(blob, sure, other),
        "second round, agreed": View(blob, sure, blob.clone()),
        "second round, empty prediction": View(blob, sure, torch.zeros(shape)),
    }


def _blob(box: list[slice], shape: tuple[int, ...]) -> View:
    prob = torch.full(shape, 0.02)
    prob[tuple(box)] = 0.97
    return View(prob, torch.full(shape, 0.05))


def _prompt_of(prompter: Prompter, view: View, seed: int = 0) -> Prompt | None:
    return prompter(replace(view, class_name="organ"), torch.Generator().manual_seed(seed))


def _check_prompt(
    prompt: Prompt, emits: frozenset[str], shape: tuple[int, ...], where: str
) -> None:
    given = prompt.kinds
    assert given, f"a prompt must hold points, a box, a mask or more, or be None {where}"
    assert given <= emits, f"only {sorted(emits)} are declared, got {sorted(given)} {where}"
    size = torch.tensor(shape)
    if prompt.points is not None:
        _check_points(prompt.points, prompt.labels, size, where)
    else:
        assert prompt.labels is None, f"labels without points {where}"
    if prompt.box is not None:
        box = prompt.box
        good = tuple(box.shape) == (2, len(shape)) and box.dtype == torch.int64
        assert good, f"a box must be (2, d) int64, got {tuple(box.shape)} {box.dtype} {where}"
        inside = bool((box[0] >= 0).all() and (box[0] < box[1]).all() and (box[1] <= size).all())
        assert inside, f"a box is half-open and inside {shape}, got {box.tolist()} {where}"
    if prompt.mask is not None:
        mask = prompt.mask
        assert tuple(mask.shape) == shape, f"a mask must be {shape}, got {mask.shape} {where}"
        assert mask.is_floating_point(), f"a mask must be a probability, got {mask.dtype} {where}"
        inside = bool(((mask >= 0) & (mask <= 1)).all())
        assert inside, f"a mask must be in [0, 1] {where}"
    tensors = _tensors(prompt)
    assert not any(t is not None and t.requires_grad for t in tensors), f"detach it {where}"


def _check_points(points: Tensor, labels: Tensor | None, size: Tensor, where: str) -> None:
    assert isinstance(points, Tensor), f"points must be a tensor, got {type(points).__name__}"
    good = points.ndim == 2 and points.shape[1] == len(size) and points.dtype == torch.int64
    got = f"{tuple(points.shape)} {points.dtype}"
    assert good and len(points), f"points must be (N, d) int64 with N > 0, got {got} {where}"
    inside = bool(((points >= 0) & (points < size)).all())
    assert inside, f"points must be inside {size.tolist()}, got {points.tolist()} {where}"
    assert labels is not None, f"points must have labels {where}"
    matches = tuple(labels.shape) == (len(points),) and labels.dtype == torch.int64
    assert matches, f"labels must be (N,) int64, got {tuple(labels.shape)} {labels.dtype} {where}"
    binary = bool(((labels == 0) | (labels == 1)).all())
    assert binary, f"labels must be 1 (foreground) or 0, got {labels.tolist()} {where}"


def _tensors(holder: View | Prompt) -> list[Tensor | None]:
    found = [getattr(holder, field.name) for field in fields(holder)]
    found += [*holder.more.values()] if isinstance(holder, Prompt) else []
    return [value for value in found if value is None or isinstance(value, Tensor)]


def _same(a: Prompt | None, b: Prompt | None) -> bool:
    if a is None or b is None:
        return a is b
    if a.kinds != b.kinds:
        return False
    own = [(a.more[kind], b.more[kind]) for kind in a.more]
    words = [x == y for x, y in own if not isinstance(x, Tensor)]
    return all(words) and all(
        x is y or (x is not None and y is not None and torch.equal(x, y))
        for x, y in zip(_tensors(a), _tensors(b), strict=True)
    )
