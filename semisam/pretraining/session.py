"""One user's dialogue with the network about one volume, as it is trained and validated."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from semisam.backends._synthsam.network import Features, SynthSAMNet, to_subvoxels
from semisam.backends._synthsam.prompts import STRIDE, Marks, make_guide
from semisam.pretraining.generator import Volume
from semisam.pretraining.user import Bools, bounding_box, click, proposal, several

_FIRST_CLICK, _POINTS, _MASK = 0.5, 0.7, 0.84  # cumulative; the rest is a box


class Session:
    """What has been asked about one volume so far.

    Args:
        volume: of even extents.
        rng: the random numbers of this user.
    """

    def __init__(self, volume: Volume, rng: np.random.Generator) -> None:
        self.rng = rng
        self.marks = Marks(make_guide(volume.image))
        self.target = volume.target
        self.parts: Bools = to_subvoxels(volume.target[None, None].float())[0].numpy() > 0.5
        self.box: Tensor | None = None
        self.mask: Tensor | None = None

    def first_click(self, power: float = 2.0) -> None:
        """Click into the target, the likelier the deeper inside."""
        point = click(self.parts, self.rng, power)
        if point is not None:
            self.marks.add(point[None], 1)

    def open(self) -> None:
        """Ask first, in one of the ways in which a person or a prompter asks."""
        rng, kind = self.rng, self.rng.random()
        if kind < _FIRST_CLICK:
            self.first_click(power=rng.choice([0.0, 1.0, 2.0, 4.0]))
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
        """Give the mask that a poorly trained network might."""
        self.mask = torch.from_numpy(proposal(self._coarse(), self.rng))

    def draw_box(self, slack: int) -> None:
        """Draw a box around the target, each side up to ``slack`` voxels off."""
        self.box = torch.from_numpy(bounding_box(self.target.numpy(), slack, self.rng))

    def scatter(self, count: int) -> None:
        """Give ``count`` points in the target and as many outside, all at once."""
        self.marks.add(several(self.parts, count, self.rng, 0.0), 1)
        self.marks.add(several(~self.parts, count, self.rng, 0.0), 0)

    def correct(self, logits: Tensor, count: int) -> None:
        """Click ``count`` times at what is wrong in an answer ``(8, *s)``."""
        answer = logits.numpy() > 0
        missed, surplus = self.parts & ~answer, answer & ~self.parts
        for _ in range(count):
            label = int(missed.sum() >= surplus.sum())
            error = missed if label else surplus
            point = click(error, self.rng, power=self.rng.choice([1.0, 2.0]))
            if point is None:
                return
            self.marks.add(point[None], label)
            near = tuple(slice(max(int(p) // STRIDE - 3, 0), int(p) // STRIDE + 4) for p in point)
            error[(slice(None), *near)] = False

    def remember(self, logits: Tensor) -> None:
        """Give an answer ``(8, *s)`` back as the mask of the next prompt."""
        self.mask = logits.sigmoid().mean(0)

    def prompt(self) -> Tensor:
        """Return the prompt's channels ``(CHANNELS, *s)``."""
        return self.marks.channels(self.box, self.mask)

    def _coarse(self) -> Bools:
        counts = self.parts.sum(0)
        coarse: Bools = counts >= 4
        return coarse if coarse.any() else np.asarray(counts > 0)

    def _points(self) -> None:
        """Give several points at once, of the target or of a wrong proposal of it."""
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


def ask(net: SynthSAMNet, features: Features, sessions: list[Session]) -> Tensor:
    """Return the logits ``(B, 8, *s)`` of one round."""
    device = features.levels[0].device
    prompt = torch.stack([s.prompt() for s in sessions]).to(device)
    with torch.autocast(device.type, torch.bfloat16):
        return net.decode(features, prompt, [s.marks.cells for s in sessions])


def see(net: SynthSAMNet, images: Tensor) -> Features:
    """Encode images ``(B, 1, *S)``."""
    with torch.autocast(images.device.type, torch.bfloat16):
        return net.encode(images)


def answer_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return Dice loss plus cross-entropy of ``(B, 8, *s)`` logits, averaged over volumes."""
    prob = logits.sigmoid().flatten(1)
    truth = target.flatten(1)
    overlap = 2 * (prob * truth).sum(1) + 1
    dice = 1 - overlap / (prob.sum(1) + truth.sum(1) + 1)
    entropy = functional.binary_cross_entropy_with_logits(logits, target)
    return dice.mean() + entropy


def dice_score(answer: Bools, target: Bools) -> float:
    """Return the Dice overlap of two masks in [0, 1]; 1 where both are empty."""
    total = int(answer.sum()) + int(target.sum())
    return 2 * int((answer & target).sum()) / total if total else 1.0
