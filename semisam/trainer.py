"""One training loop for every method: it knows nothing of SAM, datasets or tables."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from semisam.checkpoint import TrainLog, load_checkpoint, save_checkpoint
from semisam.errors import InputError, SemisamError
from semisam.framework import Framework
from semisam.schedules import step_decay
from semisam.seeding import derive_seed
from semisam.shallow import guard_shallow
from semisam.types import Batch, Clock

Precision = Literal["bf16", "fp16", "fp32"]


class Batches(Protocol):
    """Batches as a pure function of the step."""

    def batch(self, step: int) -> Batch:
        """Return the batch of this step, on the CPU."""
        ...


Stream = Iterable[tuple[int, Batch, float]]
"""Steps with their batch and the seconds that were waited for it."""
Prefetch = Callable[[Batches, int, int], contextlib.AbstractContextManager[Stream]]


class Diverged(SemisamError):
    """The loss is no longer a finite number."""


class Interrupted(SemisamError):
    """Training was stopped by the user; a checkpoint was written."""

    def __init__(self, step: int) -> None:
        super().__init__(f"interrupted after {step} iterations, a checkpoint is written")
        self.step = step


@dataclasses.dataclass(frozen=True)
class Plan:
    """How to train.

    Args:
        iterations: optimizer steps ``T``.
        lr: SGD's initial learning rate.
        lr_step: the rate is divided by ten each so many iterations.
        momentum: SGD's.
        weight_decay: SGD's.
        clip: maximal gradient norm; ``None`` for no clipping.
        precision: ``bf16`` and ``fp16`` run the network under autocast.
        device: a torch device.
        seed: of dropout and noise; every step draws from a generator seeded by (seed, step).
        checkpoint_every: iterations between checkpoints.
    """

    iterations: int = 6000
    lr: float = 0.01
    lr_step: int = 2500
    momentum: float = 0.9
    weight_decay: float = 1e-4
    clip: float | None = None
    precision: Precision = "bf16"
    device: str = "cpu"
    seed: int = 0
    checkpoint_every: int = 100


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a finished training took, resumed parts included.

    Attributes:
        seconds: of training.
        waited: of these, for batches.
        means: of every loss and figure, over the steps that gave it.
    """

    seconds: float
    waited: float
    means: dict[str, float]


class Trainer:
    """Trains a Framework in a folder, resuming from what lies there.

    The folder receives ``checkpoint.pt`` (and the one before it), ``train.jsonl`` with every loss
    of every step, and TensorBoard events where tensorboard is installed. Batches, dropout, noise
    and prompts are functions of (seed, step), so a run that was killed anywhere and started again
    ends in the same weights, bit for bit, as one never killed.

    Args:
        framework: the method; moved to the plan's device.
        batches: batches by step.
        plan: how to train.
        folder: where checkpoint and log lie.
        prefetch: makes an iterator of ``(step, batch, seconds waited)`` for steps start..stop.
    """

    def __init__(
        self,
        framework: Framework,
        batches: Batches,
        plan: Plan,
        folder: Path,
        *,
        prefetch: Prefetch | None = None,
    ) -> None:
        self.plan = plan
        self.folder = folder
        self.device = torch.device(plan.device)
        self.framework = framework.to(self.device)
        guard_shallow(self.framework)
        for module in framework.modules():
            # In place, and only weights of convolutions in three dimensions have the format.
            for parameter in module.parameters(recurse=False):
                if parameter.ndim == 5:
                    parameter.data = parameter.contiguous(
                        memory_format=torch.channels_last_3d
                    ).detach()
        self.optimizer = torch.optim.SGD(
            framework.param_groups(),
            lr=plan.lr,
            momentum=plan.momentum,
            weight_decay=plan.weight_decay,
        )
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=plan.precision == "fp16" and self.device.type == "cuda"
        )
        self._batches = batches
        self._prefetch = prefetch or _no_prefetch
        self._seconds = 0.0
        self._waited = 0.0
        # Sum and count by name: some figures are not there in every step.
        self._sums: dict[str, tuple[float, int]] = {}

    def fit(self, on_step: Callable[[int, dict[str, float]], None] | None = None) -> Summary:
        """Train to the plan's end, from the last checkpoint if there is one.

        Args:
            on_step: called with the number of finished steps and the step's figures.

        Raises:
            Interrupted: after Ctrl-C, when the checkpoint is written.
            Diverged: if a loss is not finite.
            InputError: if the folder's checkpoint is of another run.
        """
        start = self._resume()
        self.framework.train()
        with (
            torch.random.fork_rng(devices=_cuda_devices(self.device)),
            TrainLog(self.folder, start) as log,
            self._prefetch(self._batches, start, self.plan.iterations) as stream,
            deferred_interrupt() as interrupted,
        ):
            for step, batch, waited in stream:
                began = time.perf_counter()
                figures = self.step(batch, step)
                done = step + 1
                self._seconds += time.perf_counter() - began + waited
                self._waited += waited
                self._add(figures)
                log.write(step, figures)
                last = done == self.plan.iterations
                if last or interrupted() or done % self.plan.checkpoint_every == 0:
                    log.flush()
                    self.save(done)
                if on_step is not None:
                    on_step(done, figures)
                if interrupted() and not last:
                    raise Interrupted(done)
        return Summary(self._seconds, self._waited, self._means())

    def step(self, batch: Batch, step: int) -> dict[str, float]:
        """Make one optimizer step and return its losses and figures for the log."""
        plan = self.plan
        clock = Clock(step, plan.iterations)
        torch.manual_seed(derive_seed(plan.seed, "step", step))
        lr = step_decay(clock, plan.lr, plan.lr_step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        with autocast(self.device, plan.precision):
            result = self.framework.training_step(self._to_device(batch), clock)
        objective = torch.stack([loss.float() for loss in result.losses.values()]).sum()
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(objective).backward()  # type: ignore[no-untyped-call]
        if plan.clip is not None:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.framework.parameters(), plan.clip)
        figures = {name: float(loss.detach()) for name, loss in result.losses.items()}
        total = float(objective.detach())
        if not math.isfinite(total):
            raise Diverged(
                f"the loss is {total} at iteration {step} ({figures}): lower the learning rate, "
                "clip the gradient, or use --precision fp32"
            )
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.framework.after_update(clock)
        return {"loss": total, **figures, "lr": lr, **result.metrics}

    def save(self, done: int) -> None:
        """Write the checkpoint beside and rename it; the one before is kept."""
        state = {
            "step": done,
            "plan": dataclasses.asdict(self.plan),
            "framework": self.framework.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "seconds": self._seconds,
            "waited": self._waited,
            "sums": self._sums,
        }
        save_checkpoint(self.folder, state)

    def _resume(self) -> int:
        state = load_checkpoint(self.folder)
        if state is None:
            return 0
        same = {"iterations", "lr", "lr_step", "momentum", "weight_decay", "clip", "seed"}
        ours = dataclasses.asdict(self.plan)
        other = sorted(key for key in same if state["plan"].get(key) != ours[key])
        if other:
            raise InputError(
                f"{self.folder}: its checkpoint is of a run with other settings ("
                + ", ".join(f"{k} {state['plan'].get(k)}, now {ours[k]}" for k in other)
                + "): choose another folder or the same settings"
            )
        self.framework.load_state_dict(state["framework"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self._seconds, self._waited = state["seconds"], state["waited"]
        self._sums = dict(state["sums"])
        return int(state["step"])

    def _to_device(self, batch: Batch) -> Batch:
        moved = {
            field.name: to_channels_last(
                getattr(batch, field.name).to(self.device, non_blocking=True)
            )
            for field in dataclasses.fields(batch)
        }
        return dataclasses.replace(batch, **moved)

    def _means(self) -> dict[str, float]:
        return {key: total / count for key, (total, count) in self._sums.items()}

    def _add(self, figures: dict[str, float]) -> None:
        for key, value in figures.items():
            total, count = self._sums.get(key, (0.0, 0))
            self._sums[key] = (total + value, count + 1)


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[Any]:
    """Return the autocast context of a precision; none for fp32."""
    if precision == "fp32":
        return contextlib.nullcontext()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    return torch.autocast(device.type, dtype)


@contextlib.contextmanager
def _no_prefetch(batches: Batches, start: int, stop: int) -> Iterator[Stream]:
    def stream() -> Iterator[tuple[int, Batch, float]]:
        for step in range(start, stop):
            began = time.perf_counter()
            batch = batches.batch(step)
            yield step, batch, time.perf_counter() - began

    yield stream()


@contextlib.contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C and SIGTERM finish the step in hand; a second Ctrl-C stops at once.

    A grid ends its runs by SIGTERM after the terminal has sent them Ctrl-C: two signals of two
    kinds are one wish to stop, not an impatient one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    seen: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        if number == signal.SIGINT:
            signal.signal(number, before[signal.SIGINT])

    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _cuda_devices(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []


def to_channels_last(image: Tensor) -> Tensor:
    """Return a 5-D tensor in ``channels_last_3d``, any other as it is."""
    if image.ndim != 5:
        return image
    image = image.contiguous(memory_format=torch.channels_last_3d)
    if image.shape[1] == 1:
        # One channel is contiguous in both formats, and PyTorch takes it for the other one: the
        # first convolution's output, the largest there is, would then be copied twice.
        strides = list(image.stride())
        strides[1] = 1
        image = image.as_strided(image.shape, strides)
    return image
