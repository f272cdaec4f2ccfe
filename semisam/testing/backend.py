"""The contract of a backend, as tests."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Set
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from semisam.core.backend import PROMPT_KINDS, Backend, encode_at
from semisam.core.types import Place, Prompt

_RANGE = 4
"""Between logits of -2 and 2 are probabilities of 0.12 and 0.88."""
_LARGEST = 100


class FakeBackend:
    """A backend without weights that predicts bright voxels near the prompt.

    It keeps the contract, so a method with SemiSAM can be tested without a model.
    """

    accepts: frozenset[str] = PROMPT_KINDS

    def __init__(self, ndim: int = 3) -> None:
        self.ndim = ndim

    def encode(self, image: Tensor) -> Tensor:
        """Return the channels' mean ``(*S)``, centred."""
        mean = image.detach().float().mean(0)
        return mean - mean.mean()

    def segment(self, embedding: Tensor, prompt: Prompt) -> Tensor:
        """Return logits ``(*S)``: the intensity, increased or decreased by the prompt."""
        logits = embedding.clone()
        if prompt.points is not None and prompt.labels is not None:
            for point, label in zip(prompt.points.tolist(), prompt.labels.tolist(), strict=True):
                near = tuple(slice(max(i - 2, 0), i + 3) for i in point)
                logits[near] += 2.0 if label else -2.0
        if prompt.box is not None:
            low, high = prompt.box.tolist()
            box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
            logits[box] += 1.0
        if prompt.mask is not None:
            logits += 2.0 * prompt.mask.to(logits) - 1.0
        return logits


class BackendContract:
    """Tests of a backend. Subclass it and define ``make``; ``example`` for kinds of its own.

    Attributes:
        channels: image channels ``C``.
        shape: spatial shape of an image; only the last ``ndim`` axes are used.
        odd_shape: another spatial shape, with odd sizes.
        trained: False for a model with random weights, whose predictions have only the right form.
        placeless: kinds of prompt that show no place, such as a text. Only the form of predictions
            for them is checked.
    """

    channels: ClassVar[int] = 1
    shape: ClassVar[tuple[int, ...]] = (16, 24, 20)
    odd_shape: ClassVar[tuple[int, ...]] = (13, 17, 21)
    trained: ClassVar[bool] = True
    placeless: ClassVar[frozenset[str]] = frozenset()

    def make(self) -> Backend:
        """Return the backend under test."""
        raise NotImplementedError("define make(self)")

    def example(self, kind: str, box: tuple[slice, ...], shape: tuple[int, ...]) -> Any:
        """Return a prompt of a kind of the backend's own.

        Args:
            kind: one that `Prompt` has no field for.
            box: of the object that it shows.
            shape: ``(*S)`` of the image.
        """
        raise NotImplementedError("define example(self, kind, box, shape)")

    def test_declares_what_it_is(self) -> None:
        """Check its two attributes and two methods, and that it is not an ``nn.Module``."""
        backend = self.make()
        assert isinstance(backend, Backend), "a backend has ndim, accepts, encode and segment"
        assert backend.ndim in (2, 3), f"ndim must be 2 or 3, got {backend.ndim}"
        own = type(self).example is not BackendContract.example
        kinds = backend.accepts
        assert isinstance(kinds, Set), f"accepts must be a set of texts, got {kinds!r}"
        axes = getattr(backend, "axes", (2, 3))
        good = isinstance(axes, tuple) and all(isinstance(n, int) for n in axes)
        assert good, f"axes must be a tuple of numbers, such as (3,), got {axes!r}"
        both = hasattr(backend, "adapt") == hasattr(backend, "adapted")
        assert both, "a backend that can be adapted must have adapt and adapted, got one of them"
        good = bool(backend.accepts) and (own or backend.accepts <= PROMPT_KINDS)
        assert good, (
            f"accepts must be some of {sorted(PROMPT_KINDS)}, got {sorted(backend.accepts)}. "
            "Define example(self, kind, box, shape) in the test class for a kind of your own"
        )
        assert not isinstance(backend, nn.Module), (
            "a backend must not be an nn.Module (wrap one instead), or its weights become "
            "parameters of the method"
        )

    def test_every_accepted_prompt(self) -> None:
        """Prompt with each kind and with all kinds, on an image that is not a cube."""
        backend = self.make()
        image = self._image(backend, self.shape)
        embedding = self._encode(backend, image)
        for kinds in [*(frozenset({kind}) for kind in sorted(backend.accepts)), backend.accepts]:
            try:
                logits = backend.segment(embedding, self._prompt(image.shape[1:], kinds))
            except Exception as error:
                raise AssertionError(
                    f"accepts must name only prompts that work, got {error!r} for {sorted(kinds)}"
                ) from error
            _check_logits(logits, image, f"prompted with {sorted(kinds)}")

    def test_odd_shape(self) -> None:
        """Check that the logits have the image's own grid."""
        backend = self.make()
        image = self._image(backend, self.odd_shape)
        logits = backend.segment(
            self._encode(backend, image), self._prompt(image.shape[1:], backend.accepts)
        )
        _check_logits(logits, image, "of odd sizes")

    def test_constant_image(self) -> None:
        """Check that an image without contrast gives finite logits."""
        backend = self.make()
        image = torch.zeros_like(self._image(backend, self.shape))
        logits = backend.segment(
            self._encode(backend, image), self._prompt(image.shape[1:], backend.accepts)
        )
        _check_logits(logits, image, "without contrast")

    def test_every_prompt_matters(self) -> None:
        """Check that each kind of prompt changes the logits where it points elsewhere."""
        backend = self.make()
        # A trained model may give an empty mask for each place of an image without objects.
        objects, scene = self._scene(backend)
        image = scene if self.trained else self._image(backend, self.shape)
        embedding = self._encode(backend, image)
        for kind in sorted(backend.accepts - self.placeless):
            if self.trained:
                prompts = [self._prompt_of(box, image, kind) for box in objects[:2]]
            else:
                prompts = [
                    self._prompt(image.shape[1:], {kind}, corner) for corner in (False, True)
                ]
            here, there = (backend.segment(embedding, prompt) for prompt in prompts)
            assert not torch.equal(here, there), (
                f"a prompt must change the logits, got equal ones for two places of the {kind}. "
                f"Use the {kind}, or remove it from accepts"
            )

    def test_the_object_of_the_prompt_is_positive(self) -> None:
        """Check sign, scale and axes on bright objects, one of which each prompt shows."""
        backend = self.make()
        objects, image = self._scene(backend)
        for kind, logits in self._of_first(backend, objects, image):
            found = [float(logits[box].mean()) for box in objects]
            background = float(logits[image[0] < 1].mean())
            assert float(logits.min()) < 0 or float(logits.max()) > 1, (
                "logits must be negative in the background, got values in [0, 1] as of "
                f"probabilities, prompted by {kind}. Return the logits before the sigmoid"
            )
            assert found[0] > background, (
                f"logits must be higher in the object of the {kind} prompt than in the "
                f"background, got {found[0]:.3g} and {background:.3g}. Is the sign inverted?"
            )
            assert background < 0 < float(logits[objects[0]].max()), (
                f"logits must be 0 where object and background are equally probable, got {kind} "
                f"prompts with {background:.3g} in the background and at most "
                f"{float(logits[objects[0]].max()):.3g} in the object"
            )
            best = max(range(len(found)), key=found.__getitem__)
            assert best == 0, (
                f"logits must be highest in the object of the {kind} prompt, got a higher mean "
                f"in the object at its indices in the order {_orders(backend.ndim)[best]}. Are "
                "axes swapped? Prompts are in array-index order"
            )

    def test_logits_have_the_scale_of_logits(self) -> None:
        """Check that probabilities come near 0 and 1 on bright objects, and not only there."""
        backend = self.make()
        for kind, logits in self._of_first(backend, *self._scene(backend)):
            low, high = float(logits.min()), float(logits.max())
            assert high - low > _RANGE, (
                f"logits must differ by more than {_RANGE} between object and background, so that "
                f"their sigmoid is certain, got {low:.3g} to {high:.3g}, prompted by {kind}. "
                "Return log(p / (1 - p)), not a scaled probability"
            )
            assert high <= _LARGEST, (
                f"logits must be at most {_LARGEST}, got {high:.3g}, prompted by {kind}. Return "
                "log(p / (1 - p))"
            )

    def test_a_negative_click_is_no_positive_one(self) -> None:
        """Check that the labels of two clicks decide which of two objects is positive."""
        backend = self.make()
        if not (self.trained and "points" in backend.accepts):
            return
        (first, second, *_), image = self._scene(backend)
        embedding = self._encode(backend, image)
        points = torch.stack([_middle(first), _middle(second)])
        differences = []
        for labels in ([1, 0], [0, 1]):
            prompt = Prompt(points=points, labels=torch.tensor(labels))
            logits = backend.segment(embedding, prompt)
            differences.append(float(logits[first].mean() - logits[second].mean()))
        assert differences[0] > differences[1], (
            "a click with label 0 must lower the logits, got the same or higher ones as for label "
            f"1: the first object is {differences[0]:.3g} above the second where it is clicked "
            f"positively, and {differences[1]:.3g} where negatively"
        )

    def test_a_box_ends_before_its_second_corner(self) -> None:
        """Check that a box whose prediction is the box itself is read as half-open."""
        backend = self.make()
        if "box" not in backend.accepts:
            return
        image = torch.zeros_like(self._image(backend, self.shape))
        box = self._prompt(image.shape[1:], {"box"}).box
        assert box is not None
        logits = backend.segment(self._encode(backend, image), Prompt(box=box))
        inside, grown = (torch.zeros(logits.shape, dtype=torch.bool) for _ in range(2))
        low, high = box.tolist()
        inside[tuple(map(slice, low, high))] = True
        grown[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))] = True
        found = logits > (logits[inside].mean() + logits[~grown].mean()) / 2
        assert not torch.equal(found, grown), (
            f"a box is half-open, so {low} to {high} must end at {[i - 1 for i in high]}, got the "
            "voxels of the second corner, too. Subtract 1 for a model with inclusive boxes"
        )

    def test_no_state_between_images(self) -> None:
        """Check that a prediction on A, also interleaved, does not change that on B."""
        backend = self.make()
        a, b = (self._image(backend, self.shape, seed=seed) for seed in (0, 1))
        prompt = self._prompt(a.shape[1:], backend.accepts)
        other = self._prompt(a.shape[1:], backend.accepts, corner=True)
        before = backend.segment(self._encode(backend, b), prompt).clone()
        embedding_b, embedding_a = self._encode(backend, b), self._encode(backend, a)
        backend.segment(embedding_a, other)
        after = backend.segment(embedding_b, prompt)
        assert torch.equal(before, after), (
            "the prediction on one image must not depend on prompts on another: keep all state in "
            "the embedding"
        )

    def test_no_state_between_patches_of_a_case(self) -> None:
        """Check that a backend that has seen a patch predicts for the next one as a new one does.

        Both patches have one shape and one case, so they must not share a place in a cache.
        """
        a, b = (self._image(self.make(), self.shape, seed=seed) for seed in (0, 1))
        found = []
        for earlier in ([], [a]):
            torch.manual_seed(0)  # for models with random weights
            backend = self.make()
            prompt = self._prompt(b.shape[1:], backend.accepts)
            for image in earlier:
                backend.segment(self._encode(backend, image, moved=5.0), prompt)
            found.append(backend.segment(self._encode(backend, b), prompt).clone())
        assert torch.equal(*found), (
            "the prediction on one image must not depend on images before it, got another one "
            "after a patch of the same case. The key of a cache must hold Place.centre"
        )

    def test_no_state_between_prompts(self) -> None:
        """Check that a prompt does not change the prediction for another on the same embedding."""
        backend = self.make()
        image = self._image(backend, self.shape)
        embedding = self._encode(backend, image)
        prompt = self._prompt(image.shape[1:], backend.accepts)
        before = backend.segment(embedding, prompt).clone()
        backend.segment(embedding, self._prompt(image.shape[1:], backend.accepts, corner=True))
        after = backend.segment(embedding, prompt)
        assert torch.equal(before, after), "a prediction must not depend on earlier prompts"

    def test_a_dialogue_depends_on_its_own_prompts(self) -> None:
        """Check that a prompt with an earlier one (`Prompt.last`) gives the same each time.

        A model with a session begins another one where the last query was not the earlier prompt.
        """
        backend = self.make()
        image = self._image(backend, self.shape)
        first = self._prompt(image.shape[1:], backend.accepts)
        other = self._prompt(image.shape[1:], backend.accepts, corner=True)
        points, labels = first.points, first.labels
        if points is not None and labels is not None:
            points, labels = torch.cat([points, points[:1] + 1]), torch.cat([labels, labels[:1]])
        second = replace(first, points=points, labels=labels, last=first)
        embedding = self._encode(backend, image)
        found = []
        for prompts in ([first, second], [other, first, second], [first, other, second]):
            found.append([backend.segment(embedding, prompt).clone() for prompt in prompts][-1])
        for logits in found[1:]:
            assert torch.equal(found[0], logits), (
                "a prediction must depend only on the prompt and those before it (Prompt.last), "
                "got another one after a prompt for another object. Begin the session again where "
                "the last query was not prompt.last"
            )

    def test_the_place_may_be_unknown(self) -> None:
        """Check that a backend that wants places works without one."""
        backend = self.make()
        image = self._image(backend, self.shape)
        prompt = self._prompt(image.shape[1:], backend.accepts)
        try:
            embedding = encode_at(backend, image, None)
        except Exception as error:
            raise AssertionError(
                f"encode must work without a place, which is not always known, got {error!r}"
            ) from error
        logits = backend.segment(embedding, prompt)
        _check_logits(logits, image, "without a place")

    def test_deterministic_and_without_trace(self) -> None:
        """Check that it uses no dropout and no global generator and keeps its inputs unchanged."""
        backend = self.make()
        image = self._image(backend, self.shape)
        prompt = self._prompt(image.shape[1:], backend.accepts)
        image_before = image.clone()
        prompt_before = self._prompt(image.shape[1:], backend.accepts)
        outputs = []
        for seed in (0, 1):
            torch.manual_seed(seed)
            state = torch.get_rng_state()
            outputs.append(backend.segment(self._encode(backend, image), prompt).clone())
            untouched = torch.equal(state, torch.get_rng_state())
            assert untouched, "a backend must not draw from torch's global generator"
        assert torch.equal(*outputs), "a backend must be deterministic (eval mode, no dropout)"
        assert torch.equal(image, image_before), "a backend must not change the image in place"
        for name in ("points", "labels", "box", "mask"):
            ours, theirs = getattr(prompt, name), getattr(prompt_before, name)
            same = ours is None or torch.equal(ours, theirs)
            assert same, f"a backend must not change the prompt's {name} in place"

    def _encode(self, backend: Backend, image: Tensor, moved: float = 0.0) -> Any:
        shape = image.shape[1:]
        place = Place("case", tuple((n - 1) / 2 + moved for n in shape), (1.0,) * len(shape))
        return encode_at(backend, image, place)

    def _prompt(self, shape: torch.Size, kinds: Set[str], corner: bool = False) -> Prompt:
        """Return a prompt at the image's centre, or at its first corner."""
        low, high = (0, 1) if corner else (1, 3)
        box = tuple(slice(low * n // 4, high * n // 4) for n in shape)
        return _prompt(shape, kinds, box, self._own(kinds, box, shape))

    def _prompt_of(self, box: tuple[slice, ...], image: Tensor, kind: str) -> Prompt:
        return _prompt_of(box, image, kind, self._own({kind}, box, image.shape[1:]))

    def _own(self, kinds: Set[str], box: tuple[slice, ...], shape: torch.Size) -> dict[str, Any]:
        own = sorted(kinds - PROMPT_KINDS)
        return {kind: self.example(kind, box, tuple(shape)) for kind in own}

    def _of_first(
        self, backend: Backend, objects: list[tuple[slice, ...]], image: Tensor
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield each kind of prompt of a trained model, and its logits for the first object."""
        if not self.trained:
            return
        embedding = self._encode(backend, image)
        for kind in sorted(backend.accepts - self.placeless):
            yield kind, backend.segment(embedding, self._prompt_of(objects[0], image, kind))

    def _scene(self, backend: Backend) -> tuple[list[tuple[slice, ...]], Tensor]:
        """Return bright objects on a dark background, and their image.

        Their places are the orders of the indices of the first one.
        """
        side, middles = 32, (5, 15, 26)[: backend.ndim]
        objects = [
            tuple(slice(middles[axis] - 3, middles[axis] + 4) for axis in order)
            for order in _orders(backend.ndim)
        ]
        rng = torch.Generator().manual_seed(0)
        image = 0.1 * torch.randn(self.channels, *(side,) * backend.ndim, generator=rng)
        for box in objects:
            image[(slice(None), *box)] += 3.0
        return objects, image

    def _image(self, backend: Backend, shape: tuple[int, ...], seed: int = 0) -> Tensor:
        shape = shape[-backend.ndim :]
        rng = torch.Generator().manual_seed(seed)
        image = torch.randn(self.channels, *shape, generator=rng)
        image[(slice(None), *(slice(size // 4, 3 * size // 4) for size in shape))] += 2.0
        return image


def _prompt(
    shape: torch.Size, kinds: Set[str], box: tuple[slice, ...], more: Mapping[str, Any]
) -> Prompt:
    """Return a prompt of some kinds for the object in a box."""
    size = torch.tensor(shape)
    first = torch.tensor([part.start for part in box])
    last = torch.tensor([part.stop for part in box])  # past the last voxel
    points = torch.stack([(first + last) // 2, size - 1])
    mask = torch.zeros(*shape)
    mask[box] = 0.9
    asked = "points" in kinds
    return Prompt(
        points=points if asked else None,
        labels=torch.tensor([1, 0]) if asked else None,
        box=torch.stack([first, last]) if "box" in kinds else None,
        mask=mask if "mask" in kinds else None,
        more=more,
    )


def _orders(ndim: int) -> list[tuple[int, ...]]:
    return list(itertools.permutations(range(ndim)))


def _middle(box: tuple[slice, ...]) -> Tensor:
    return torch.tensor([(part.start + part.stop) // 2 for part in box])


def _prompt_of(box: tuple[slice, ...], image: Tensor, kind: str, more: Mapping[str, Any]) -> Prompt:
    """Return a prompt of one kind that shows the object in a box."""
    if more:
        return Prompt(more=more)
    if kind == "points":
        corner = torch.zeros(len(box), dtype=torch.int64)
        return Prompt(points=torch.stack([_middle(box), corner]), labels=torch.tensor([1, 0]))
    if kind == "box":
        return Prompt(box=torch.tensor([[p.start for p in box], [p.stop for p in box]]))
    mask = torch.zeros(image.shape[1:])
    mask[box] = 0.9
    return Prompt(mask=mask)


def _check_logits(logits: Tensor, image: Tensor, what: str) -> None:
    expected = tuple(image.shape[1:])
    assert isinstance(logits, Tensor), f"logits must be a tensor, got {type(logits).__name__}"
    got = tuple(logits.shape)
    assert got == expected, f"logits must have the image's shape {expected}, got {got} {what}"
    assert logits.dtype == torch.float32, f"logits must be float32, got {logits.dtype} {what}"
    assert bool(torch.isfinite(logits).all()), f"logits must be finite {what}"
    assert not logits.requires_grad, f"logits must be detached: SAM is not trained ({what})"
