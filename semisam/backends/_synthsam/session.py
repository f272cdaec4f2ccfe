"""The dialogue of one simulated user with the network about one volume."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from semisam.backends._synthsam.prompts import Marks, make_guide
from semisam.backends._synthsam.user import (
    Bools,
    Indices,
    anywhere,
    bounding_box,
    click,
    proposal,
    several,
)
from semisam.core.axes import MAX_POOL
from semisam.networks._synthsam import STRIDE, Features, SynthSAMNet, to_subvoxels
from semisam.networks.precision import in_bf16

_NOTHING, _FIRST_CLICK, _POINTS, _MASK = 0.06, 0.52, 0.7, 0.84  # cumulative; the rest is a box
_DEEP = 2  # first clicks of a user of kind 2, which are deep; later ones are anywhere
_MISPLACED = 0.04  # fraction of the clicks


class Session:
    """The prompts given so far on one volume.

    Args:
        image: ``(*S)`` of even extents.
        target: ``(*S)`` bool.
        rng: the random numbers of this user.
    """

    def __init__(self, image: Tensor, target: Tensor, rng: np.random.Generator) -> None:
        self.rng = rng
        self.marks = Marks(make_guide(image))
        self.target = target
        self.parts: Bools = to_subvoxels(target[None, None].float())[0].numpy() > 0.5
        self.box: Tensor | None = None
        self.mask: Tensor | None = None
        self.kind, self.memory, self.clicks = 0.0, 0.0, 0
        self.deepest = False

    def take_habits(self) -> None:
        """Draw how this user clicks, and how often the last prediction is the next mask.

        A person clicks deep inside the largest error, an evaluation anywhere in any error.
        """
        self.kind = float(self.rng.choice([0.0, 0.5, 1.0, 2.0], p=[0.35, 0.2, 0.2, 0.25]))
        self.deepest = bool(self.rng.random() < 0.4)
        self.memory = float(self.rng.choice([0.0, 0.3, 1.0], p=[0.2, 0.3, 0.5]))

    def first_click(self, power: float = 2.0) -> None:
        """Click into the target, with a higher probability deeper inside."""
        point = click(self.parts, self.rng, power)
        if point is not None:
            self.marks.add(point[None], 1)

    def open(self) -> None:
        """Give the first prompt, of a kind that a person or a prompter gives.

        Sometimes there is no prompt. The network then learns to predict the most frequent target,
        as an automatic segmenter does.
        """
        rng, kind = self.rng, self.rng.random()
        if kind < _NOTHING:
            return
        if kind < _FIRST_CLICK:
            self.first_click(power=rng.choice([0.0, 1.0, 2.0, 4.0, math.inf]))
        elif kind < _POINTS:
            self._points()
        elif kind < _MASK:
            self.propose()
            if rng.random() < 0.4:
                self._points()
        else:
            self.draw_box(slack=int(rng.integers(0, 4)))
            if rng.random() < 0.5:
                self.first_click()

    def propose(self) -> None:
        """Give a mask like the prediction of a poorly trained network."""
        self.mask = torch.from_numpy(proposal(self._coarse(), self.rng))

    def draw_box(self, slack: int) -> None:
        """Give a box around the target, each side moved by up to ``slack`` voxels."""
        self.box = torch.from_numpy(bounding_box(self.target.numpy(), slack, self.rng))

    def scatter(self, count: int) -> None:
        """Give ``count`` points in the target and ``count`` outside, all at once."""
        self.marks.add(several(self.parts, count, self.rng, 0.0), 1)
        self.marks.add(several(~self.parts, count, self.rng, 0.0), 0)

    def correct(self, logits: Tensor, count: int) -> None:
        """Click ``count`` times at errors of a prediction ``(2^d, *s)``."""
        found = logits.numpy() > 0
        missed, surplus = self.parts & ~found, found & ~self.parts
        for _ in range(count):
            label, point = self._next(missed, surplus)
            if point is None:
                return
            self.clicks += 1
            near = tuple(slice(max(int(p) // STRIDE - 3, 0), int(p) // STRIDE + 4) for p in point)
            for error in (missed, surplus):
                error[(slice(None), *near)] = False
            if self.kind and self.rng.random() < _MISPLACED:
                shaken = point + np.rint(self.rng.normal(0, 2, len(point))).astype(np.int64)
                point = np.clip(shaken, 0, np.array(self.target.shape) - 1)
            self.marks.add(point[None], label)

    def _next(self, missed: Bools, surplus: Bools) -> tuple[int, Indices | None]:
        """Return the label and the place of the next click, as this user clicks."""
        if self.kind > 1:
            free = self.clicks >= _DEEP
        else:
            free = self.kind > 0 and self.rng.random() < self.kind
        if free:
            point = anywhere(missed | surplus, self.rng)
            return int(point is not None and bool(self.target[tuple(point)])), point
        label = int(missed.sum() >= surplus.sum())
        error = missed if label else surplus
        power = math.inf if self.deepest else self.rng.choice([1.0, 2.0])
        return label, click(error, self.rng, power=power)

    def remember(self, logits: Tensor) -> None:
        """Take a prediction ``(2^d, *s)`` as the mask of the next prompt."""
        self.mask = logits.sigmoid().mean(0)

    def prompt(self) -> Tensor:
        """Return the prompt's channels ``(CHANNELS, *s)``."""
        return self.marks.channels(self.box, self.mask)

    def _coarse(self) -> Bools:
        counts = self.parts.sum(0)
        coarse: Bools = counts >= len(self.parts) / 2
        return coarse if coarse.any() else np.asarray(counts > 0)

    def _points(self) -> None:
        """Give several points at once, in the target or in a wrong proposal of it."""
        rng, source = self.rng, self.parts
        if rng.random() < 0.4:
            wrong = proposal(self._coarse(), rng) > 0.5
            if wrong.any() and not wrong.all():
                source = np.broadcast_to(wrong, self.parts.shape)
        power = rng.choice([0.0, 1.0])
        self.marks.add(several(source, int(rng.integers(1, 7)), rng, power), 1)
        outside = ~source
        if rng.random() < 0.5:
            inside = np.argwhere(source.any(0))
            near = np.zeros(source.shape[1:], bool)
            low, high = inside.min(0) - 2, inside.max(0) + 3
            near[tuple(slice(max(a, 0), b) for a, b in zip(low, high, strict=True))] = True
            outside = outside & near
        self.marks.add(several(outside, int(rng.integers(0, 7)), rng, power), 0)


def query(net: SynthSAMNet, features: Features, sessions: list[Session]) -> Tensor:
    """Return the logits ``(B, 2^d, *s)`` for the prompts so far."""
    return predict(net, features, prompts(sessions, features.levels[0].device), sessions)


def prompts(sessions: list[Session], device: torch.device) -> Tensor:
    """Return the channels ``(B, CHANNELS, *s)`` of the prompts so far."""
    return torch.stack([s.prompt() for s in sessions]).to(device)


def predict(
    net: SynthSAMNet, features: Features, prompt: Tensor, sessions: list[Session]
) -> Tensor:
    """Return the logits ``(B, 2^d, *s)`` for the channels ``(B, CHANNELS, *s)`` of prompts."""
    with in_bf16(prompt.device):
        return net.decode(features, prompt, [s.marks.cells for s in sessions])


def encode(net: SynthSAMNet, images: Tensor) -> Features:
    """Encode images ``(B, 1, *S)``."""
    with in_bf16(images.device):
        return net.encode(images)


def hold_dialogues(
    net: SynthSAMNet,
    features: Features,
    target: Tensor,
    sessions: list[Session],
    rounds: int,
    learned: Collection[int],
    rng: np.random.Generator,
) -> list[Tensor]:
    """Hold a dialogue about each volume; return the losses of the rounds to learn from.

    Args:
        net: the network.
        features: of the volumes.
        target: ``(B, 2^d, *s)``.
        sessions: a user of each volume, who has not given a prompt.
        rounds: of each dialogue.
        learned: rounds whose predictions get a gradient.
        rng: decides how many corrections a user gives at once.
    """
    frozen = features.detach()
    losses: list[Tensor] = []
    predicted = last = target[:0]
    for session in sessions:
        session.take_habits()
        session.open()
    for n in range(rounds):
        for session, logits in zip(sessions, predicted, strict=False):
            session.correct(logits, 1 if rng.random() < 0.6 else int(rng.integers(2, 5)))
            if rng.random() < session.memory:
                session.remember(logits)
        prompt = prompts(sessions, target.device)
        with torch.set_grad_enabled(n in learned):
            found = predict(net, features if n in learned else frozen, prompt, sessions)
            if n in learned:
                loss = prediction_loss(found, target, weights_of(target, prompt))
                if n:
                    loss = loss + worsening(found, last, target)
                losses.append(loss)
        last = found.detach()
        predicted = last.cpu()
    return losses


def weights_of(target: Tensor, prompt: Tensor) -> Tensor:
    """Return a weight ``(B, 1, *s)`` of each coarse voxel, of mean 1.

    It is largest at the target's surface and near clicks, where the last prediction was wrong.

    Args:
        target: ``(B, 2^d, *s)``.
        prompt: ``(B, CHANNELS, *s)``.
    """
    inside = target.mean(1, keepdim=True)
    axes = tuple(range(2, target.ndim))
    pool = MAX_POOL[len(axes)]
    far, near = (pool(sign * inside, 3, 1, padding=1) for sign in (1, -1))
    surface = (far + near > 0).float()
    weight = 1 + 3 * surface + 2 * prompt[:, 2:4].amax(1, keepdim=True)
    scaled: Tensor = weight / weight.mean(axes, keepdim=True)
    return scaled


def prediction_loss(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return Dice loss plus cross-entropy of ``(B, 2^d, *s)`` logits, averaged over volumes.

    Args:
        logits: ``(B, 2^d, *s)``.
        target: of the same shape.
        weight: ``(B, 1, *s)`` of the cross-entropy.
    """
    entropy = functional.binary_cross_entropy_with_logits(logits, target, weight)
    return _dice_losses(logits, target).mean() + entropy


def worsening(logits: Tensor, last: Tensor, target: Tensor) -> Tensor:
    """Return the increase of the Dice loss by a click.

    Args:
        logits: ``(B, 2^d, *s)``, after the click.
        last: of the same shape, before it.
        target: of the same shape.

    Returns:
        The mean over volumes, in which a decrease counts as 0.
    """
    before = _dice_losses(last.detach(), target)
    return functional.relu(_dice_losses(logits, target) - before).mean()


def _dice_losses(logits: Tensor, target: Tensor) -> Tensor:
    """Return the Dice loss ``(B,)`` of each volume."""
    prob = logits.sigmoid().flatten(1)
    truth = target.flatten(1)
    overlap = 2 * (prob * truth).sum(1) + 1
    return 1 - overlap / (prob.sum(1) + truth.sum(1) + 1)
