"""Several processes in one run: who they are, what they agree on, and sums over all their rows.

Every rank holds its rows of one global batch. The objective is the one that a single process would
have: losses that are means over rows are averaged over ranks, as their gradients are; those that
divide by a sum over the batch take that sum from `global_sums`, and those that pair rows from
`gather_rows`. With one process every function here returns what it was given.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from semisam.core.errors import InputError, PluginError, SemisamError

T = TypeVar("T")

# One rank may score longer than another: a rank that dies is torchrun's to notice.
_PATIENCE = datetime.timedelta(days=1)
_lost_a_rank = False


@dataclasses.dataclass(frozen=True)
class Group:
    """The processes that share a run.

    Attributes:
        rank: of this one; rank 0 alone writes files and speaks to the user.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def writer(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """Return every rank's value, a small object, in the order of ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def any(self, flag: bool) -> bool:
        """Return whether it is true on some rank: the same answer everywhere."""
        return any(self.gather(flag))

    def agreed(self, action: Callable[[], T]) -> T:
        """Run an action that every rank runs; if it is refused on one, all end, none waits.

        Raises:
            SemisamError: on rank 0, the first rank's that met one.
            SystemExit: on the others, which have nothing to add.
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
        """Run an action on rank 0 alone and return what it returned on every rank."""
        value = self.agreed(lambda: action() if self.writer else None)
        first: T = self.gather(value)[0]  # type: ignore[assignment]
        return first

    def average_gradients(self, module: nn.Module) -> None:
        """Replace every gradient by its mean over ranks; one that no rank has stays absent."""
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
                    # Laid out as the parameter is, as autograd would have it.
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


ALONE = Group()


@dataclasses.dataclass(frozen=True)
class Share:
    """The part of a step's global batch that is computed on now.

    Attributes:
        rank: whose rows of it.
        ranks: processes that hold as many rows each.
        part: which micro-batch of the global batch.
        parts: micro-batches of it.
        seed: the same on every rank, for draws that concern all rows.
    """

    rank: int = 0
    ranks: int = 1
    part: int = 0
    parts: int = 1
    seed: int = 0

    def row(self, row: int, labeled: int, rows: int) -> int:
        """Return a row's number in the global batch.

        Args:
            row: its number here.
            labeled: labeled rows here.
            rows: rows here.
        """
        before = self.part * self.ranks + self.rank
        if row < labeled:
            return before * labeled + row
        all_labeled = labeled * self.ranks * self.parts
        return all_labeled + before * (rows - labeled) + row - labeled


_WHOLE = Share()
_SHARE: ContextVar[Share] = ContextVar("share", default=_WHOLE)


def current_share() -> Share:
    """Return which part of the global batch is computed on now; all of it by default."""
    return _SHARE.get()


@contextlib.contextmanager
def sharing(share: Share) -> Iterator[None]:
    """Compute on a part of the global batch inside the block."""
    token = _SHARE.set(share)
    try:
        yield
    finally:
        _SHARE.reset(token)


def own_rows(labeled: int, unlabeled: int, group: Group, parts: int = 1) -> tuple[int, ...]:
    """Return the numbers of the global batch's rows that a rank holds, labeled first.

    Each micro-batch is divided over the ranks, so that its rows do not depend on how many there
    are.

    Args:
        labeled: labeled rows of the global batch.
        unlabeled: unlabeled rows of it.
        group: of which the rank is one.
        parts: micro-batches of the global batch.

    Raises:
        InputError: if a kind of row cannot be divided equally.
    """
    for kind, rows in (("labeled", labeled), ("unlabeled", unlabeled)):
        if rows % (group.size * parts):
            over = f"{group.size} processes" if group.size > 1 else ""
            over += " and " if over and parts > 1 else ""
            over += f"{parts} micro-batches" if parts > 1 else ""
            raise InputError(
                f"the {kind} rows of a batch must divide equally over {over}, got {rows} {kind} "
                "rows: choose another --batch, --labeled-rows or --micro-batch, or another number "
                "of processes"
            )
    return (
        *_share_of(range(labeled), group, parts),
        *_share_of(range(labeled, labeled + unlabeled), group, parts),
    )


def _share_of(rows: range, group: Group, parts: int) -> Iterator[int]:
    each = len(rows) // (group.size * parts)
    for part in range(parts):
        first = (part * group.size + group.rank) * each
        yield from rows[first : first + each]


def global_sums(*sums: Tensor) -> tuple[Tensor, ...]:
    """Return sums over this rank's rows, of any shape, as sums over all ranks', differentiable.

    A loss whose denominator is such a sum needs it: Dice, or a mean over a mask. The loss then has
    one value on all ranks, and the mean of their gradients is its gradient.
    """
    if current_share().ranks == 1:
        return sums
    # Exact for counts too: a float32 counts to 2^24 only.
    added = all_sum(torch.cat([s.double().reshape(-1) for s in sums]))
    totals = torch.split(added, [s.numel() for s in sums])
    return tuple(total.view(s.shape).to(s.dtype) for total, s in zip(totals, sums, strict=True))


def global_means(*means: Tensor) -> tuple[Tensor, ...]:
    """Return means over this rank's rows, of any shape, as means over all ranks'."""
    ranks = current_share().ranks
    return means if ranks == 1 else tuple(total / ranks for total in global_sums(*means))


def global_counts(*counts: float) -> tuple[float, ...]:
    """Return numbers added over all ranks."""
    if current_share().ranks == 1:
        return counts
    total = torch.tensor(counts, dtype=torch.float64, device=_small_device())
    dist.all_reduce(total)
    return tuple(total.tolist())


def gather_rows(rows: Tensor) -> Tensor:
    """Return the rows of all ranks, in the order of the global batch; gradients flow back."""
    share = current_share()
    if share.ranks == 1 or not len(rows):
        return rows
    gathered: Tensor = _Gather.apply(rows, share.rank, share.ranks)  # type: ignore[no-untyped-call]
    return gathered


def take_own(rows: Tensor) -> Tensor:
    """Return this rank's part of rows, or of anything else, in the order of the global batch."""
    share = current_share()
    if share.ranks == 1:
        return rows
    each = len(rows) // share.ranks
    return rows[share.rank * each : (share.rank + 1) * each]


@contextlib.contextmanager
def drawn_alike() -> Iterator[None]:
    """Draw the same on every rank from torch's default CPU generator inside the block.

    For what concerns the whole batch, once a step; all else is drawn per rank. As the first draw
    of a step it is what one process draws.
    """
    share = current_share()
    if share.ranks == 1:
        yield
        return
    generator = torch.default_generator
    before = generator.get_state()
    generator.manual_seed(share.seed)
    try:
        yield
    finally:
        generator.set_state(before)


def launched_size() -> int:
    """Return how many processes torchrun, or another launcher of its kind, has started."""
    if {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        return int(os.environ["WORLD_SIZE"])
    return 1


def check_alone(command: str) -> None:
    """Refuse to run a command in every process that torchrun has started."""
    size = launched_size()
    if size > 1:
        raise InputError(
            f"semisam {command} must run in one process, got {size}: start it without torchrun, "
            "which is for semisam train"
        )


@contextlib.contextmanager
def process_group() -> Iterator[Group]:
    """Join the processes that torchrun has started; one process is a group alone.

    Raises:
        SemisamError: if another process has ended while this one exchanges something with it.
    """
    if launched_size() == 1:
        yield ALONE
        return
    backend = "gloo"
    if torch.cuda.is_available():
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(local_rank() % torch.cuda.device_count())
    dist.init_process_group(backend, timeout=_PATIENCE)
    try:
        yield Group(dist.get_rank(), dist.get_world_size())
    except RuntimeError as error:
        if not _is_lost_connection(error):
            raise
        global _lost_a_rank
        _lost_a_rank = True
        raise SemisamError(
            "another process of the run has ended, and so does this one: see what it said, and run "
            "the same command again to go on from the last checkpoint"
        ) from error
    finally:
        dist.destroy_process_group()


def end(code: int) -> NoReturn:
    """Exit, at once if a rank was lost: gloo's threads may abort the interpreter's own end."""
    if _lost_a_rank:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
    sys.exit(code)


def _is_lost_connection(error: RuntimeError) -> bool:
    """Return whether the network, rather than a computation, has failed."""
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()


def local_rank() -> int:
    """Return the number of this process on its machine: its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def own_device(device: str, group: Group) -> str:
    """Return the device of this rank: ``cuda`` becomes ``cuda:0``, ``cuda:1``, ...

    Raises:
        InputError: if all ranks were to share one named GPU.
    """
    if group.size == 1 or not device.startswith("cuda"):
        return device
    if device != "cuda":
        raise InputError(
            f"--device must be cuda or cpu with several processes, each of which takes a GPU of "
            f"its own, got {device}: choose GPUs by CUDA_VISIBLE_DEVICES"
        )
    return f"cuda:{local_rank()}"


def _small_device() -> str:
    """Return where small tensors are exchanged: the group's gloo, or the GPU if it has none."""
    return "cpu" if "gloo" in str(dist.get_backend_config()) else "cuda"


def all_sum(values: Tensor) -> Tensor:
    """Return a tensor added over all ranks, with its gradient; the ranks call it in one order."""
    added: Tensor = _Sum.apply(values)  # type: ignore[no-untyped-call]
    return added


class _Sum(torch.autograd.Function):
    """The sum over ranks; a gradient of the sum of all ranks' losses flows back."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


class _Gather(torch.autograd.Function):
    """All ranks' rows, one after the other."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, rank: int, ranks: int) -> Tensor:
        ctx.rank, ctx.ranks = rank, ranks
        # Without memory in common: a view of channels_last is no buffer to send from.
        own = rows.detach().clone(memory_format=torch.contiguous_format)
        parts = [torch.empty_like(own) for _ in range(ranks)]
        dist.all_gather(parts, own)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(ctx.ranks)[ctx.rank], None, None
