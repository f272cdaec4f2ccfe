"""The training of SynthSAM from a seed and a number of steps."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from semisam.backends._synthsam.session import (
    Session,
    encode,
    hold_dialogues,
    prediction_loss,
    query,
)
from semisam.core.axes import CONV
from semisam.core.ema import move_average
from semisam.core.errors import InputError
from semisam.core.files import digest_of_file, replace_file
from semisam.core.masks import dice
from semisam.core.optimizers import AdamW
from semisam.core.seeding import derive_seed
from semisam.networks._synthsam import STRIDE, SynthSAMNet, to_subvoxels
from semisam.networks._synthsam_weights import load_weights
from semisam.networks.convolution import guard_convolutions
from semisam.networks.precision import in_bf16
from semisam.pretraining.generator import MIN_SIZE, Volume, draw_volume
from semisam.training.checkpoint import load_checkpoint, save_checkpoint
from semisam.training.trainer import Interrupted

LOG = "pretrain.jsonl"
CLICKS = (1, 2, 5, 10)
SHAPES = {
    # voxels, volumes per step, probability
    2: (
        ((128, 128), 6, 0.25),
        ((160, 160), 4, 0.20),
        ((96, 80), 10, 0.20),
        ((192, 144), 4, 0.13),
        ((64, 64), 16, 0.12),
        ((256, 256), 2, 0.10),
    ),
    3: (
        ((64, 64, 48), 2, 0.45),
        ((80, 80, 32), 2, 0.15),
        ((96, 64, 32), 2, 0.10),
        ((48, 48, 48), 3, 0.12),
        ((108, 76, 44), 1, 0.18),
    ),
}
_ROUNDS = (1, 2, 3, 4, 6, 8, 12)
_CHANCES = (0.1, 0.2, 0.22, 0.2, 0.15, 0.09, 0.04)
_EDGES = 0.2  # weight of the loss of the visible edges
VALIDATION = 1 << 40
"""The first index of the validation volumes; training volumes have smaller ones."""


@dataclass(frozen=True)
class PretrainSettings:
    """Settings of a training, of which step ``t`` is a pure function together with ``t``.

    The learning rate rises, stays, and falls over the last part. So a training can be made longer
    or shorter until the fall begins (Hagele et al., "Scaling Laws and Compute-Optimal Training
    Beyond Fixed Training Durations", NeurIPS 2024).

    Attributes:
        axes: spatial axes of the images, 3 or 2.
        steps: number of steps of the optimizer.
        seed: of volumes, users and weights.
        lr: highest learning rate of AdamW.
        warmup: steps over which the learning rate rises.
        cooldown: fraction of the steps over which it falls to 0.
        ema: decay of the averaged weights, which are the result.
        batch: factor on the volumes per step.
        hard: fraction of volumes with rims, cavities that join without an edge, organs cut by the
            border, and artefacts of a scanner.
        off_edge: fraction of volumes whose target ends off the edge that the image shows.
        init: digest of the initial weights; None if they are drawn from the seed.
        shape: the only shape to train on, for tests.
        validate_every: steps between validations.
        validation: volumes of the fixed validation set.
        checkpoint_every: steps between checkpoints.
    """

    axes: int = 3
    steps: int = 6000
    seed: int = 0
    lr: float = 1e-3
    warmup: int = 150
    cooldown: float = 0.3
    ema: float = 0.998
    batch: int = 1
    hard: float = 0.6
    off_edge: float = 0.0
    init: str | None = None
    shape: tuple[int, ...] | None = None
    validate_every: int = 500
    validation: int = 24
    checkpoint_every: int = 200

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        rising = min(1.0, (step + 1) / max(self.warmup, 1))
        fall = max(1, round(self.cooldown * self.steps))
        left = min(1.0, (self.steps - step) / fall)
        # The fall with the square root was the best in the paper's comparison.
        return self.lr * rising * (1 - math.sqrt(1 - left))


class Pretraining:
    """A training that resumes from the checkpoint in its folder.

    Args:
        settings: of the training.
        folder: for checkpoints and the log.
        device: for the training.
        initial: initial weights by name; None draws them from the seed.

    Raises:
        InputError: the folder's checkpoint has other settings or cannot be read.
    """

    def __init__(
        self,
        settings: PretrainSettings,
        folder: Path,
        device: torch.device,
        initial: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.settings, self.folder, self.device = settings, folder, device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(settings.seed, "synthsam weights"))
            self.net = SynthSAMNet(settings.axes)
            # The encoder learns more from the edges of all structures than from one target.
            self.edges: nn.Module = CONV[settings.axes](
                self.net.widths[0], self.net.subvoxels, 3, padding=1
            )
        if initial is not None:
            self.net.load_state_dict(dict(initial))
        for module in (self.net, self.edges):
            module.to(device)
            guard_convolutions(module)
        self.average = {k: v.detach().clone() for k, v in self.net.state_dict().items()}
        self.optimizer = AdamW(
            [*self.net.parameters(), *self.edges.parameters()],
            lr=settings.lr,
            betas=(0.9, 0.99),
            weight_decay=0.02,
            fused=True,
        )
        self.step, self.seconds = 0, 0.0
        self._resume()

    def run(
        self,
        on_step: Callable[[int, Mapping[str, float]], None],
        stopping: Callable[[], bool] = bool,
    ) -> dict[str, Tensor]:
        """Train to the last step and return the averaged weights.

        Args:
            on_step: called after each step with the number of finished steps and its figures.
            stopping: called after each step; True ends the training there.

        Raises:
            Interrupted: ``stopping`` returned True; a checkpoint is written.
        """
        log = self.folder / LOG
        lines = log.read_text().splitlines() if log.exists() else []
        with replace_file(log) as temporary:
            # A killed training leaves lines after its checkpoint, and the last may be cut.
            kept = [f"{line}\n" for line in lines[: self.step]]
            temporary.write_text("".join(kept))
        ahead = ThreadPoolExecutor(2) if self.device.type != "cpu" else None
        try:
            coming: Future[list[Volume]] | None = None
            while self.step < self.settings.steps:
                started = time.perf_counter()
                volumes = coming.result() if coming else draw_batch(self.settings, self.step)
                coming = ahead.submit(draw_batch, self.settings, self.step + 1) if ahead else None
                figures = self._train(volumes)
                self.step += 1
                done = self.step == self.settings.steps
                if done or self.step % self.settings.validate_every == 0:
                    figures |= self.validate()
                self.seconds += time.perf_counter() - started
                line = {"step": self.step - 1, "seconds": round(self.seconds, 1), **figures}
                with log.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                on_step(self.step, figures)
                if done or stopping() or self.step % self.settings.checkpoint_every == 0:
                    self.save()
                if stopping() and not done:
                    raise Interrupted(self.step)
        finally:
            if ahead:
                ahead.shutdown(cancel_futures=True)
        return self.average

    def save(self) -> None:
        """Write a checkpoint."""
        state = {
            "plan": asdict(self.settings),
            "step": self.step,
            "seconds": self.seconds,
            "net": self.net.state_dict(),
            "edges": self.edges.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
        }
        save_checkpoint(self.folder, state)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return the Dice of the averaged weights on the validation volumes."""
        net = SynthSAMNet(self.settings.axes).to(self.device)
        net.load_state_dict(self.average)
        net.eval()
        shape = self.settings.shape or SHAPES[self.settings.axes][0][0]
        scores: dict[str, list[float]] = {}
        for n in range(self.settings.validation):
            volume = draw_volume(0, VALIDATION + n, shape)
            features = encode(net, volume.image[None, None].to(self.device))
            for name, session in _first_prompts(volume, n):
                logits = query(net, features, [session])[0].cpu()
                score = dice(logits.numpy() > 0, session.parts)
                scores.setdefault(f"dice_{name}", []).append(score)
            session = Session(volume.image, volume.target, np.random.default_rng([0, n]))
            session.first_click()
            for count in range(1, max(CLICKS) + 1):
                logits = query(net, features, [session])[0].cpu()
                if count in CLICKS:
                    score = dice(logits.numpy() > 0, session.parts)
                    scores.setdefault(f"dice_{count}", []).append(score)
                session.correct(logits, 1)
        return {name: float(np.mean(found)) for name, found in scores.items()}

    def _train(self, volumes: list[Volume]) -> dict[str, float]:
        """Hold one dialogue about each volume and learn from one or two of its rounds."""
        settings, step = self.settings, self.step
        rng = np.random.default_rng([settings.seed, 0, step])
        users = [np.random.default_rng([settings.seed, 0, step, n]) for n in range(len(volumes))]
        sessions = [Session(v.image, v.target, u) for v, u in zip(volumes, users, strict=True)]
        images = torch.stack([v.image for v in volumes])[:, None].to(self.device)
        target = to_subvoxels(torch.stack([v.target for v in volumes])[:, None].float())
        target = target.to(self.device)
        rounds = int(rng.choice(_ROUNDS, p=_CHANCES))
        learned = {rounds - 1, 0 if rng.random() < 0.5 else int(rng.integers(rounds))}
        self.net.train()
        features = encode(self.net, images)
        losses = hold_dialogues(self.net, features, target, sessions, rounds, learned, rng)
        edges = self._edge_loss(features.levels[0], volumes)
        norm = self._update(torch.stack(losses).mean() + _EDGES * edges)
        return {
            "loss": float(losses[-1].detach()),
            "first_loss": float(losses[0].detach()),
            "edge_loss": float(edges.detach()),
            "norm": norm,
            "lr": settings.rate(step),
        }

    def _edge_loss(self, features: Tensor, volumes: list[Volume]) -> Tensor:
        """Return the loss of the edges between structures of different looks."""
        looks = [v.looks for v in volumes if v.looks is not None]
        edges = to_subvoxels(torch.stack([visible_edges(x) for x in looks])[:, None].float())
        with in_bf16(features.device):
            logits = self.edges(features)
        return prediction_loss(logits.float(), edges.to(features.device))

    def _update(self, loss: Tensor) -> float:
        self.optimizer.param_groups[0]["lr"] = self.settings.rate(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        parameters = self.optimizer.param_groups[0]["params"]
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, 1.0))
        if math.isfinite(norm):
            self.optimizer.step()
        current = self.net.state_dict()
        average = [self.average[name] for name in current]
        move_average(average, list(current.values()), self.step, self.settings.ema)
        return norm

    def _resume(self) -> None:
        state = load_checkpoint(self.folder)
        if state is None:
            return
        # A checkpoint that does not name the labels off the edge is of a version without them.
        theirs = asdict(PretrainSettings(off_edge=0.0)) | state["plan"]
        ours = asdict(self.settings)
        # Duration and validation may change between two commands.
        free = {"steps", "cooldown", "validate_every", "validation", "checkpoint_every"}
        unlike = [k for k in ours if k not in free and _plain(ours[k]) != _plain(theirs.get(k))]
        if unlike:
            raise InputError(
                f"{unlike[0]} must be {theirs.get(unlike[0])}, as in the training in "
                f"{self.folder}, got {ours[unlike[0]]}. Give that value or another --out."
            )
        self.net.load_state_dict(state["net"])
        self.edges.load_state_dict(state["edges"])
        self.average = {k: v.to(self.device) for k, v in state["average"].items()}
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]


def make_pretrain_settings(
    options: Mapping[str, Any], init: str | None = None
) -> tuple[PretrainSettings, dict[str, Tensor] | None]:
    """Return settings and the initial weights.

    Args:
        options: fields of the settings.
        init: file of the initial weights; None draws them from the seed.

    Raises:
        InputError: the shape does not suit the network, or the file does not hold its weights.
    """
    shape, axes = options.get("shape"), options.get("axes", PretrainSettings.axes)
    if shape is not None and (
        len(shape) != axes or min(shape) < MIN_SIZE or any(n % STRIDE for n in shape)
    ):
        raise InputError(
            f"--shape must be {axes} even numbers of at least {MIN_SIZE}, got "
            f"{'x'.join(map(str, shape))}. Give for example "
            f"{'x'.join(map(str, SHAPES[axes][0][0]))}."
        )
    if init is None:
        return PretrainSettings(**options), None
    path = Path(init)
    weights = load_weights(path, axes)
    digest = digest_of_file(path)
    return PretrainSettings(**options, init=digest), weights


def _first_prompts(volume: Volume, number: int) -> Iterator[tuple[str, Session]]:
    """Yield points, a mask and a box as first prompts of a validation volume, with their names."""
    points, mask, box = (
        Session(volume.image, volume.target, np.random.default_rng([k, number])) for k in (1, 2, 3)
    )
    points.scatter(5)
    mask.propose()
    box.draw_box(slack=0)
    yield from (("points", points), ("mask", mask), ("box", box))


def draw_batch(settings: PretrainSettings, step: int) -> list[Volume]:
    """Draw the volumes of one step."""
    rng = np.random.default_rng([settings.seed, 0, step, 1 << 20])
    kinds = SHAPES[settings.axes]
    chances = np.array([chance for _, _, chance in kinds])
    shape, count, _ = kinds[rng.choice(len(kinds), p=chances / chances.sum())]
    if settings.shape is not None:
        shape, count = settings.shape, 1
    # Each volume occurs in one step.
    apart = max(16, max(rows for _, rows, _ in kinds) * settings.batch)
    hard = rng.random(count * settings.batch) < settings.hard
    off_edge = rng.random(len(hard)) < settings.off_edge
    return [
        draw_volume(settings.seed, apart * step + n, shape, bool(h), bool(e))
        for n, (h, e) in enumerate(zip(hard, off_edge, strict=True))
    ]


def visible_edges(looks: Tensor) -> Tensor:
    """Return the mask ``(*S)`` of voxels with a face neighbour of another look."""
    edges = torch.zeros(looks.shape, dtype=torch.bool)
    for axis, n in enumerate(looks.shape):
        unlike = looks.narrow(axis, 0, n - 1) != looks.narrow(axis, 1, n - 1)
        edges.narrow(axis, 0, n - 1).logical_or_(unlike)
        edges.narrow(axis, 1, n - 1).logical_or_(unlike)
    return edges


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
