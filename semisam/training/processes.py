"""Ordinary data parallel: the processes that share one run.

Each process holds its own rows of every batch and computes the method's losses on them. Gradients
are averaged over the processes, and rank 0 writes the run's files. A loss that divides by a sum
over the batch, such as Dice, is therefore computed per process, and so is BatchNorm. Methods,
losses and the branch do not depend on it. With one process every function returns its input.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from semisam.core.errors import InputError, PluginError, SemisamError

T = TypeVar("T")

# One rank may score longer than another. torchrun notices a rank that dies.
_PATIENCE = datetime.timedelta(days=1)
_LOST = (
    "another process of the run has ended. See its message, and run the same command again "
    "to resume from the last checkpoint."
)
_lost_a_rank = False


@dataclasses.dataclass(frozen=True)
class Processes:
    """The processes that share a run, from the view of one of them.

    Attributes:
        rank: number of this process; only rank 0 writes files and prints.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def writer(self) -> bool:
        """True for rank 0, which writes the run's files."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """Return every rank's value, a small object, in the order of ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def any(self, flag: bool) -> bool:
        """Return on every rank whether the value is true on some rank."""
        return any(self.gather(flag))

    def agreed(self, action: Callable[[], T]) -> T:
        """Run an action that every rank runs; if it fails on one rank, end on all.

        Raises:
            SemisamError: on rank 0: the error of the first rank that failed.
            SystemExit: on the other ranks, which print nothing.
        """
        if self.size == 1:
            return action()
        value: T | None = None
        refused: SemisamError | None = None
        try:
            value = action()
        except SemisamError as error:
            refused = error
        first = next((error for error in self.gather(refused) if error is not None), None)
        if first is not None:
            if self.writer:
                raise first
            raise SystemExit(2 if isinstance(first, InputError | PluginError) else 1)
        return value  # type: ignore[return-value]

    def of_writer(self, action: Callable[[], T]) -> T:
        """Run an action on rank 0 only and return its value on every rank."""
        value = self.agreed(lambda: action() if self.writer else None)
        first: T = self.gather(value)[0]  # type: ignore[assignment]
        return first

    def average_gradients(self, module: nn.Module) -> None:
        """Replace every gradient by its mean over ranks.

        A gradient that a rank lacks counts as zero. A parameter that lacks its gradient on every
        rank stays without one.
        """
        if self.size == 1:
            return
        trained = [p for p in module.parameters() if p.requires_grad]
        for dtype in sorted({p.dtype for p in trained}, key=str):
            some = [p for p in trained if p.dtype == dtype]
            grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in some]
            present = grads[0].new_tensor([float(p.grad is not None) for p in some])
            flat = torch.cat([present, *(grad.reshape(-1) for grad in grads)])
            dist.all_reduce(flat)
            present, flat = flat[: len(some)], flat[len(some) :] / self.size
            parts = torch.split(flat, [p.numel() for p in some])
            for parameter, part, count in zip(some, parts, present.tolist(), strict=True):
                if count:
                    # In the memory layout of the parameter, as autograd would leave it.
                    grad = torch.empty_like(parameter)
                    parameter.grad = grad.copy_(part.view(parameter.shape))

    def share_state(self, module: nn.Module) -> None:
        """Give every rank the parameters and buffers of rank 0."""
        if self.size == 1:
            return
        with torch.no_grad():
            for tensor in (*module.parameters(), *module.buffers()):
                sent = tensor.detach().clone(memory_format=torch.contiguous_format)
                dist.broadcast(sent, 0)
                tensor.copy_(sent)


ONE = Processes()
"""A run of one process."""


def own_rows(labeled: int, unlabeled: int, processes: Processes, parts: int = 1) -> tuple[int, ...]:
    """Return the numbers of the batch's rows that a rank holds, labeled rows first.

    Args:
        labeled: labeled rows of the batch.
        unlabeled: unlabeled rows of the batch.
        processes: of the run, from the view of this rank.
        parts: micro-batches of the batch.

    Raises:
        InputError: if a kind of row cannot be divided equally.
    """
    size = processes.size
    for kind, rows in (("labeled", labeled), ("unlabeled", unlabeled)):
        if rows % (size * parts):
            over = f"{size} processes" if size > 1 else ""
            over += " and " if over and parts > 1 else ""
            over += f"{parts} micro-batches" if parts > 1 else ""
            raise InputError(
                f"the {kind} rows of a batch must divide equally over {over}, got {rows} {kind} "
                f"rows. This batch divides over {math.gcd(labeled, unlabeled)} at most: choose a "
                "larger --micro-batch, another --batch or --labeled-rows, or another number of "
                "processes."
            )
    known, rest = labeled // size, unlabeled // size
    first = labeled + processes.rank * rest
    return (
        *range(processes.rank * known, (processes.rank + 1) * known),
        *range(first, first + rest),
    )


def launched_size() -> int:
    """Return the number of processes that torchrun, or a similar launcher, has started."""
    if {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        return int(os.environ["WORLD_SIZE"])
    return 1


def check_single_process(command: str) -> None:
    """Refuse to run a command in every process that torchrun has started."""
    size = launched_size()
    if size > 1:
        raise InputError(
            f"semisam {command} must run in one process, got {size}. Start it without torchrun, "
            "which is for semisam train."
        )


@contextlib.contextmanager
def joined_processes() -> Iterator[Processes]:
    """Join the processes that torchrun has started, or yield `ONE`.

    Raises:
        SemisamError: if another process ended during an exchange with this one.
    """
    if launched_size() == 1:
        yield ONE
        return
    backend = "gloo"
    if torch.cuda.is_available():
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(local_rank() % torch.cuda.device_count())
    dist.init_process_group(backend, timeout=_PATIENCE)
    signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        yield Processes(dist.get_rank(), dist.get_world_size())
    except RuntimeError as error:
        if not _is_lost_connection(error):
            raise
        global _lost_a_rank
        _lost_a_rank = True
        raise SemisamError(_LOST) from error
    finally:
        dist.destroy_process_group()


def _on_sigterm(number: int, frame: FrameType | None) -> NoReturn:
    """Raise one sentence; torchrun sends SIGTERM to the others when a process ended."""
    global _lost_a_rank
    _lost_a_rank = True
    signal.signal(number, signal.SIG_IGN)
    raise SemisamError(_LOST)


def end(code: int) -> NoReturn:
    """Exit; at once if a rank was lost, since gloo's threads may abort a regular exit."""
    if _lost_a_rank:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
    sys.exit(code)


def _is_lost_connection(error: RuntimeError) -> bool:
    """Return whether the network, rather than a computation, has failed."""
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()


def local_rank() -> int:
    """Return the number of this process on its machine, which is the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def own_device(device: str, processes: Processes) -> str:
    """Return the device of this rank: ``cuda`` becomes ``cuda:0``, ``cuda:1``, ...

    Raises:
        InputError: if the device is one named GPU, which all ranks would share.
    """
    if processes.size == 1 or not device.startswith("cuda"):
        return device
    if device != "cuda":
        raise InputError(
            f"--device must be cuda or cpu with several processes, each of which takes a GPU of "
            f"its own, got {device}. Choose GPUs by CUDA_VISIBLE_DEVICES."
        )
    return f"cuda:{local_rank()}"
