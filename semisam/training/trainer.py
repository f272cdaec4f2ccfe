"""The training loop of every method, independent of backends, datasets and tables."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from semisam.core.ema import move_average
from semisam.core.errors import InputError, SemisamError
from semisam.core.framework import Framework, check_loss_names
from semisam.core.logger import Logger
from semisam.core.optimizers import SGD, AdamW
from semisam.core.schedules import cosine_decay, poly_decay, rise_and_fall, step_decay
from semisam.core.seeding import derive_seed
from semisam.core.types import Batch, Clock
from semisam.networks.batchnorm import renew_statistics
from semisam.networks.convolution import guard_convolutions
from semisam.networks.precision import autocast, to_channels_last
from semisam.training.accumulation import (
    is_out_of_memory,
    merged_figures,
    micro_batches,
    out_of_memory,
)
from semisam.training.checkpoint import TrainLog, fit_weights, load_checkpoint, save_checkpoint
from semisam.training.plan import Summary, TrainingPlan
from semisam.training.processes import ONE, Processes
from semisam.training.signals import deferred_interrupt
from semisam.training.validation import FIGURE, Scores


class Batches(Protocol):
    """A source of batches, as a pure function of the step."""

    def batch(self, step: int) -> Batch:
        """Return the batch of this step, on the CPU."""
        ...


Stream = Iterable[tuple[int, Batch, float]]
"""An iterator of each step, its batch and the seconds spent on waiting for the batch."""
Prefetch = Callable[[Batches, int, int], contextlib.AbstractContextManager[Stream]]


class Diverged(SemisamError):
    """The error of a loss that is no longer finite."""


class Interrupted(SemisamError):
    """The error of a training that the user stopped, after its checkpoint is written."""

    def __init__(self, step: int, reason: str = "interrupted") -> None:
        super().__init__(f"{reason} after {step} iterations, a checkpoint is written")
        self.step = step


class TimeOver(Interrupted):
    """The error of a training whose time is over, after its checkpoint is written."""

    def __init__(self, step: int) -> None:
        super().__init__(step, "out of time")


class Trainer:
    """The training loop of a method; it resumes from the checkpoint in its folder.

    After the last step it may compute BatchNorm's statistics again (`TrainingPlan.norm_batches`).

    The folder receives ``checkpoint.pt`` (and the one before it) and ``train.jsonl`` with every
    loss of every step. Batches, dropout, noise and prompts are functions of (seed, step). A run
    that was killed and started again therefore ends in the same weights as a run without
    interruption, bit for bit on a CPU. A validation (`TrainingPlan.validation`) changes no step.

    With several processes each rank trains on its own rows, and gradients are averaged after the
    backward pass (see `semisam.training.processes`).

    Args:
        framework: the method; moved to the plan's device.
        batches: batches by step; with several processes, their rows of this rank.
        plan: the settings of the loop.
        folder: receives checkpoint and log.
        prefetch: makes an iterator of ``(step, batch, seconds waited)`` for steps start..stop.
        validate: returns the score of the method as deployed, the same on all ranks; needed for
            a plan with a validation.
        logger: gets the figures of every step, too.
        settings: of the run, for the logger.
        processes: of the run; rank 0 writes the folder, and all ranks read it.
    """

    def __init__(
        self,
        framework: Framework,
        batches: Batches,
        plan: TrainingPlan,
        folder: Path,
        *,
        prefetch: Prefetch | None = None,
        validate: Callable[[], float] | None = None,
        logger: Logger | None = None,
        settings: Mapping[str, Any] | None = None,
        processes: Processes = ONE,
    ) -> None:
        self.plan = plan
        self.processes = processes
        self.folder = folder
        self.device = torch.device(plan.device)
        self.framework = framework.to(self.device)
        guard_convolutions(self.framework)
        for module in framework.modules():
            # In place. Only weights of 3-D convolutions have the format.
            for parameter in module.parameters(recurse=False):
                if parameter.ndim == 5:
                    parameter.data = parameter.contiguous(
                        memory_format=torch.channels_last_3d
                    ).detach()
        self.optimizer = _optimizer(framework, plan)
        # Of each group's learning rate to the run's, the same at every step of the schedule.
        self._scales = [
            group.get("lr_scale", group["lr"] / plan.lr) for group in self.optimizer.param_groups
        ]
        # Of the parameters, in their order; empty if the last weights are deployed.
        self._average = [
            p.detach().clone() for p in framework.parameters() if plan.averaged and p.requires_grad
        ]
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=plan.precision == "fp16" and self.device.type == "cuda"
        )
        self._batches = batches
        self._prefetch = prefetch or _no_prefetch
        self._validate = validate
        self._scores = Scores(plan.validation)
        self._logger = logger
        self._settings = settings
        self._seconds = 0.0
        self._waited = 0.0
        # Sum and count by name: some figures are not there in every step.
        self._sums: dict[str, tuple[float, int]] = {}

    def fit(
        self,
        on_step: Callable[[int, dict[str, float]], None] | None = None,
        deadline: float = math.inf,
    ) -> Summary:
        """Train to the plan's end, from the last checkpoint if there is one.

        Args:
            on_step: called with the number of finished steps and the step's figures.
            deadline: time of `time.monotonic` after which no further step begins.

        Raises:
            Interrupted: after Ctrl-C, when the checkpoint is written.
            TimeOver: after the deadline, when the checkpoint is written.
            Diverged: if a loss is not finite.
            InputError: if the folder's checkpoint belongs to another run.
            OutOfMemory: if a step does not fit into memory.
        """
        start = self.processes.agreed(self._resume)
        self.processes.agreed(lambda: self._check_start(start))
        self.framework.train()
        done, total = start, self.plan.iterations
        with (
            torch.random.fork_rng(devices=_cuda_devices(self.device)),
            self.processes.agreed(lambda: self._open_log(start)) as log,
            self._prefetch(self._batches, start, start if self._scores.stops else total) as stream,
            deferred_interrupt(
                patient=self.processes.size > 1, quiet=not self.processes.writer
            ) as interrupted,
        ):
            for step, batch, waited in stream:
                figures = self._advance(batch, step, waited)
                done = step + 1
                last = done == total or self._scores.stops
                # Exchanged, so all ranks stop after the same step and after a checkpoint.
                asked = self.processes.any(interrupted())
                # Without a deadline, which all ranks share, there is no second exchange.
                late = deadline < math.inf and self.processes.any(time.monotonic() >= deadline)
                if log is not None:
                    log.write(step, figures)
                    if last or asked or late or done % self.plan.checkpoint_every == 0:
                        log.flush()
                        self.save(done)
                if on_step is not None:
                    on_step(done, figures)
                if last:
                    break
                if asked or late:
                    raise Interrupted(done) if asked else TimeOver(done)
            self._deploy()
        return Summary(self._seconds, self._waited, self._means(), done, self._scores.summary())

    def _advance(self, batch: Batch, step: int, waited: float) -> dict[str, float]:
        """Make one step, validate where it is due, and return the figures for the log."""
        began = time.perf_counter()
        figures = self.step(batch, step)
        self._add(figures)
        if self._scores.due(step + 1, self.plan.iterations):
            figures = {**figures, FIGURE: self._validated(step + 1)}
        self._seconds += time.perf_counter() - began + waited
        self._waited += waited
        return figures

    def _validated(self, done: int) -> float:
        """Return the score of the weights as they would be deployed now, and restore them."""
        if self._validate is None:
            raise ValueError("a plan with a validation must come with validate, got None.")
        last = self._state()
        self._deploy_average()
        self._renew_norms()
        score = self._validate()
        self._scores.add(done, score, self._state())
        self.framework.load_state_dict(last)
        self.framework.train()
        return score

    def _state(self) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in self.framework.state_dict().items()}

    def _deploy(self) -> None:
        """Replace the last weights by those to deploy. The checkpoint keeps the last."""
        if self._scores.best is not None:
            self.framework.load_state_dict(self._scores.best)
            return
        began = time.perf_counter()
        self._deploy_average()
        self._renew_norms()
        self._seconds += time.perf_counter() - began

    def seconds_per_step(self, steps: int, enough: float = math.inf) -> float:
        """Return the mean seconds of real steps, after one that warms up. Nothing is written.

        Args:
            steps: that are measured at most.
            enough: seconds after which no further step is measured.
        """
        began, done = 0.0, 0
        self.framework.train()
        with torch.random.fork_rng(devices=_cuda_devices(self.device)):
            for step in range(steps + 1):
                if step == 1:
                    began = time.perf_counter()
                self.step(self._batches.batch(step), step)
                done = step
                if step and time.perf_counter() - began >= enough:
                    break
        return (time.perf_counter() - began) / done

    @torch.no_grad()
    def _deploy_average(self) -> None:
        """Replace the last weights by the averaged ones."""
        for weight, mean in zip(self._trained(), self._average, strict=False):
            weight.copy_(mean)

    def _trained(self) -> list[torch.Tensor]:
        return [p for p in self.framework.parameters() if p.requires_grad]

    def _renew_norms(self) -> None:
        """Compute BatchNorm's statistics on the batches that would come next.

        No checkpoint holds them, so a run that is killed here computes them again on resume.
        """
        first, count = self.plan.iterations, self.plan.norm_batches
        if not count:
            return

        def images() -> Iterator[torch.Tensor]:
            for step in range(first, first + count):
                for rows in micro_batches(self._batches.batch(step), self.plan.parts):
                    yield self._to_device(rows).image

        self._seed(first, 0)
        with autocast(self.device, self.plan.precision):
            renew_statistics(self.framework, images(), self.framework)

    def step(self, batch: Batch, step: int) -> dict[str, float]:
        """Make one optimizer step and return its losses and figures for the log."""
        plan = self.plan
        clock = Clock(step, plan.iterations)
        lr = _rate(clock, plan)
        for group, scale in zip(self.optimizer.param_groups, self._scales, strict=True):
            group["lr"] = lr * scale
        losses, metrics = self._gradients(batch, clock)
        if self.processes.size > 1:
            self.processes.average_gradients(self.framework)
            of_ranks = self.processes.gather((losses, metrics))
            losses, metrics = (merged_figures(each) for each in zip(*of_ranks, strict=True))
        if plan.clip is not None:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.framework.parameters(), plan.clip)
        if not math.isfinite(losses["loss"]):
            figures = {name: value for name, value in losses.items() if name != "loss"}
            raise Diverged(
                f"the loss must be finite, got {losses['loss']} at iteration {step} ({figures}). "
                "Lower the learning rate, clip the gradient, or use --precision fp32."
            )
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.framework.after_update(clock)
        if self._average:
            move_average(self._average, self._trained(), step, self.plan.averaged)
        accumulation = {"micro_batches": float(plan.parts)} if plan.parts > 1 else {}
        return {**losses, "lr": lr, **metrics, **accumulation}

    def _gradients(self, batch: Batch, clock: Clock) -> tuple[dict[str, float], dict[str, float]]:
        """Compute the gradients of the batch and return its losses and metrics."""
        try:
            return self._backward(batch, clock)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            failure = out_of_memory(error, batch, self.plan.parts)
        # Raised here, so that no traceback holds the activations.
        self.optimizer.zero_grad(set_to_none=True)
        raise failure

    def _backward(self, batch: Batch, clock: Clock) -> tuple[dict[str, float], dict[str, float]]:
        """Accumulate the gradients of the batch's parts; return the losses and the metrics."""
        self.optimizer.zero_grad(set_to_none=True)
        losses: list[dict[str, float]] = []
        metrics: list[Mapping[str, float]] = []
        for part, rows in enumerate(micro_batches(batch, self.plan.parts)):
            self._seed(clock.step, part)
            with autocast(self.device, self.plan.precision):
                result = self.framework.training_step(self._to_device(rows), clock)
            check_loss_names(result.losses, self.framework)
            objective = torch.stack([loss.float() for loss in result.losses.values()]).sum()
            mean = objective if self.plan.parts == 1 else objective / self.plan.parts
            self.scaler.scale(mean).backward()  # type: ignore[no-untyped-call]
            figures = {name: float(loss.detach()) for name, loss in result.losses.items()}
            losses.append({"loss": float(objective.detach()), **figures})
            metrics.append(result.metrics)
            # Its activations must not wait for the next part's.
            del result, objective, mean
        return merged_figures(losses), merged_figures(metrics)

    def _seed(self, step: int, part: int) -> None:
        """Seed torch for a micro-batch of a step; each rank draws its own numbers."""
        keys: list[int | str] = ["step", step]
        if part:
            keys += ["part", part]
        if self.processes.size > 1:
            keys += ["rank", self.processes.rank]
        torch.manual_seed(derive_seed(self.plan.seed, *keys))

    def save(self, done: int) -> None:
        """Write the checkpoint of this many finished steps."""
        state = {
            "step": done,
            "plan": dataclasses.asdict(self.plan),
            "framework": self.framework.state_dict(),
            "average": self._average,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "seconds": self._seconds,
            "waited": self._waited,
            "sums": self._sums,
            "scores": self._scores.state(),
        }
        save_checkpoint(self.folder, state)

    def _resume(self) -> int:
        state = load_checkpoint(self.folder)
        if state is None:
            return 0
        ours = dataclasses.asdict(self.plan)
        same = ours.keys() - {"device", "checkpoint_every"}
        other = sorted(key for key in same if state["plan"].get(key) != ours[key])
        if other:
            raise InputError(
                f"{self.folder}: the checkpoint must have the run's settings, got others ("
                + ", ".join(f"{k} {state['plan'].get(k)}, now {ours[k]}" for k in other)
                + "). Choose another folder or the same settings."
            )
        fit_weights(self.framework, state["framework"], self.folder)
        for mean, saved in zip(self._average, state["average"], strict=True):
            mean.copy_(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self._seconds, self._waited = state["seconds"], state["waited"]
        self._sums = dict(state["sums"])
        self._scores.load(state["scores"], self.device)
        return int(state["step"])

    def _check_start(self, start: int) -> None:
        if len(set(self.processes.gather(start))) > 1:
            raise InputError(
                f"all processes must see one output folder, got {self.folder}, whose checkpoint "
                "is another on some. Name a folder that every machine shares."
            )

    def _open_log(self, start: int) -> contextlib.AbstractContextManager[TrainLog | None]:
        if not self.processes.writer:
            return contextlib.nullcontext()
        return TrainLog(self.folder, start, self._logger, self._settings)

    def _to_device(self, batch: Batch) -> Batch:
        values = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
        moved: dict[str, Any] = {
            name: to_channels_last(value.to(self.device, non_blocking=True))
            for name, value in values.items()
            if isinstance(value, torch.Tensor)
        }
        return dataclasses.replace(batch, **moved)

    def _means(self) -> dict[str, float]:
        return {key: total / count for key, (total, count) in self._sums.items()}

    def _add(self, figures: dict[str, float]) -> None:
        for key, value in figures.items():
            total, count = self._sums.get(key, (0.0, 0))
            self._sums[key] = (total + value, count + 1)


def _optimizer(framework: Framework, plan: TrainingPlan) -> torch.optim.Optimizer:
    groups = framework.param_groups()
    if plan.optimizer == "adamw":
        return AdamW(groups, lr=plan.lr, betas=(0.9, 0.99), weight_decay=plan.weight_decay)
    return SGD(groups, lr=plan.lr, momentum=plan.momentum, weight_decay=plan.weight_decay)


def _rate(clock: Clock, plan: TrainingPlan) -> float:
    """Return the learning rate of a step."""
    if plan.schedule == "step":
        return step_decay(clock, plan.lr, plan.lr_step)
    schedules = {"poly": poly_decay, "cosine": cosine_decay, "fall": rise_and_fall}
    return schedules[plan.schedule](clock, plan.lr)


@contextlib.contextmanager
def _no_prefetch(batches: Batches, start: int, stop: int) -> Iterator[Stream]:
    def stream() -> Iterator[tuple[int, Batch, float]]:
        for step in range(start, stop):
            began = time.perf_counter()
            batch = batches.batch(step)
            yield step, batch, time.perf_counter() - began

    yield stream()


def _cuda_devices(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []
