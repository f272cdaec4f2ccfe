"""Alternate diverse mean teacher (AD-MT).

References:
    Zhao, Wang, Wang, Yu, Yuan, Zhou. "Alternate diverse teaching for semi-supervised medical image
    segmentation." ECCV 2024. https://arxiv.org/abs/2311.17325
"""

from __future__ import annotations

import math
import random
from typing import Literal

import torch
from torch import Tensor

from semisam.core.ema import ema_decay_at, ema_update, frozen_copy
from semisam.core.framework import Framework, NetBuilder, check_not_negative
from semisam.core.losses import entropy, supervised_loss
from semisam.core.schedules import Ramp
from semisam.core.types import IGNORE, Batch, Clock, Step
from semisam.core.views import draw_cut, mix, strong_view


class AlternateDiverseMeanTeacher(Framework):
    """Two teachers that take turns, and a student that learns from both by one of two strong views.

    ``w (CE + Dice) + lambda_u CE_{c >= tau}(student(strong(x)), y)``.

    The teachers' maps of an unlabeled image are joined voxel by voxel, each with the weight
    ``exp(-H)`` of its entropy in bits; ``y`` is the class of largest probability and ``c`` this
    probability. Where the teachers disagree with each other, and the student's own map of the image
    disagrees with ``y``, the more confident of the two labels counts.

    The teacher in turn is the one that moves: an exponential moving average of the student, in
    training mode, while the other stays and is in evaluation mode. A turn has 1 to ``longest_turn``
    steps. In the turns of the first teacher the strong view has another contrast, noise, blur and
    bias field; in those of the second, it is mixed with another row's by CutMix. So the two become
    different. The first teacher is deployed. A single unlabeled row cannot be mixed, so it always
    gets the first kind of view.

    Differs from the published code:

    - The student's label is mixed like the teachers' in CutMix (published: compared unmixed).
    - CutMix takes 2 to 40 % of the image from the next row (published: a box of sides
      ``sqrt(1 - b)``, b ~ Beta(4, 4), from a random row, which may be the same).
    - The strong views are those of `semisam.core.views` (published: brightness, contrast, noise).
    - Both teachers start as copies of the student, and the decay of each rises from its own first
      update on, which copies the student (published: copies for the first 80 steps, then one count
      for both).
    - Dice is over the foreground classes with squares in the denominator, as for every method of
      the table (published: background too).
    - The lengths of the turns are the same for every seed.
    - ``lambda_u`` rises over the whole training (published: over 40 of 100 steps of 150
      iterations).

    Args:
        build: network builder; called for the head ``logits``.
        num_classes: classes counting background.
        threshold: ``tau``.
        ema_decay: of the teachers, reached over the first steps.
        deploy: ``teacher``: the first one, as published; ``student``. A teacher moves in half of
            the steps, so in a short training it lags behind.
        longest_turn: most steps in which one teacher moves.
        supervised_weight: ``w``.
        unlabeled_weight: the end value of ``lambda_u``.
        ramp_power: exponent on the fraction of training in the ramp of ``lambda_u``.
        ramp_every: iterations between steps of the ramp (published: 150).

    Raises:
        ValueError: if an option is out of range.
    """

    turn: Tensor
    left: Tensor
    updates: Tensor

    def __init__(
        self,
        build: NetBuilder,
        num_classes: int,
        *,
        threshold: float = 0.8,
        ema_decay: float = 0.99,
        deploy: Literal["teacher", "student"] = "teacher",
        longest_turn: int = 19,
        supervised_weight: float = 0.5,
        unlabeled_weight: float = 2.0,
        ramp_power: float = 2.0,
        ramp_every: int = 1,
    ) -> None:
        super().__init__(build, num_classes)
        check_not_negative(supervised_weight=supervised_weight, unlabeled_weight=unlabeled_weight)
        if not (0 <= threshold < 1 and 0 <= ema_decay < 1 and longest_turn >= 1):
            raise ValueError(
                "threshold and ema_decay must be in [0, 1) and longest_turn at least 1, got "
                f"{threshold}, {ema_decay} and {longest_turn}."
            )
        self.student = build(logits=num_classes)
        self.teachers = torch.nn.ModuleList(frozen_copy(self.student) for _ in range(2))
        self.threshold = threshold
        self.ema_decay = ema_decay
        self.deploy = deploy
        self.longest_turn = longest_turn
        self.supervised_weight = supervised_weight
        self.unlabeled_weight = Ramp(unlabeled_weight, power=ramp_power, every=ramp_every)
        self.register_buffer("turn", torch.tensor(0))
        self.register_buffer("left", torch.tensor(self._draw_turn(0)))
        self.register_buffer("updates", torch.zeros(2, dtype=torch.int64))

    def forward(self, image: Tensor) -> Tensor:
        """Return the softmax probabilities of the network that is deployed."""
        net = self.teachers[0] if self.deploy == "teacher" else self.student
        logits: Tensor = net(image)["logits"]
        return logits.softmax(1)

    def training_step(self, batch: Batch, clock: Clock) -> Step:
        """Return ``ce``, ``dice`` and ``strong_ce``."""
        labeled, w = batch.num_labeled, self.supervised_weight
        weak = batch.image[labeled:]
        if not len(weak):
            logits = self.student(batch.image)["logits"]
            probs = logits.softmax(1)
            ce, dice = supervised_loss(logits, probs, batch.label)
            return Step({"ce": w * ce, "dice": w * dice, "strong_ce": probs.new_zeros(())}, probs)

        target, disagree = self._teach(weak)
        if self.turn and len(weak) > 1:
            cut = draw_cut(weak)
            strong = mix(weak, cut)
        else:
            cut = torch.zeros_like(weak[0, 0], dtype=torch.bool)
            strong = strong_view(weak)
        logits = self.student(torch.cat([batch.image, strong]))["logits"]
        maps, rows = logits.softmax(1), len(batch.image)
        probs = maps[:rows]
        ce, dice = supervised_loss(logits[:labeled], probs[:labeled], batch.label)

        pseudo = self._settle(target, probs[labeled:].detach(), disagree)
        strong_ce, _ = supervised_loss(logits[rows:], maps[rows:], mix(pseudo, cut))
        losses = {"ce": w * ce, "dice": w * dice}
        losses["strong_ce"] = self.unlabeled_weight(clock) * strong_ce
        metrics = {
            "sure": float((pseudo != IGNORE).float().mean()),
            "disagreement": float(disagree.float().mean()),
        }
        return Step(losses, probs, metrics=metrics)

    def after_update(self, clock: Clock) -> None:
        """Move the teacher in turn towards the student, and end its turn when it is over."""
        turn = int(self.turn)
        # Each by its own count: so the first update of either copies the student.
        decay = ema_decay_at(int(self.updates[turn]), self.ema_decay)
        ema_update(self.teachers[turn], self.student, decay, buffers=True)
        self.updates[turn] += 1
        self.left -= 1
        if self.left <= 0:
            self.turn.fill_(1 - turn)
            self.left.fill_(self._draw_turn(clock.step + 1))

    def _draw_turn(self, step: int) -> int:
        """Return the length of a turn; it does not depend on what a process has drawn before."""
        return random.Random(step).randint(1, self.longest_turn)

    @torch.no_grad()
    def _teach(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the joined map ``(U, K, *S)``, and where the teachers disagree, ``(U, *S)``."""
        for number, teacher in enumerate(self.teachers):
            teacher.train(number == int(self.turn))
        first, second = (teacher(image)["logits"].softmax(1) for teacher in self.teachers)
        # The entropy over ln K, in bits. The sigmoid is the first of the normalised exp(-H).
        bits = [entropy(probs, 1e-10) * math.log2(self.num_classes) for probs in (first, second)]
        share = torch.sigmoid(bits[1] - bits[0])
        joined = share * first + (1 - share) * second
        return self.guided(joined), first.argmax(1) != second.argmax(1)

    @torch.no_grad()
    def _settle(self, target: Tensor, own: Tensor, disagree: Tensor) -> Tensor:
        """Return the pseudo-labels ``(U, *S)``, with `IGNORE` where they are unsure.

        Args:
            target: the teachers' joined map ``(U, K, *S)``.
            own: the student's map ``(U, K, *S)``.
            disagree: ``(U, *S)`` boolean.
        """
        sure, pseudo = target.max(1)
        own_sure, own_pseudo = own.max(1)
        surer = disagree & (own_pseudo != pseudo) & (own_sure > sure)
        pseudo = torch.where(surer, own_pseudo, pseudo)
        return torch.where(torch.where(surer, own_sure, sure) >= self.threshold, pseudo, IGNORE)
