"""The script that tests/training/test_processes.py starts as torchrun would, once per rank.

One launch does everything, since starting costs more. Rank 0 writes ``report.json`` in the folder
that is given.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from click.testing import CliRunner

import semisam.training.processes
from semisam.backends.geodesic import Geodesic
from semisam.cli.main import main as command_line
from semisam.core.errors import SemisamError
from semisam.core.schedules import step_decay
from semisam.core.seeding import derive_seed
from semisam.core.types import Batch, Clock
from semisam.frameworks.semisam import SemiSAM
from semisam.plugins import registry
from semisam.prompters.uncertainty_points import UncertaintyPoints
from semisam.run.protocols import PROTOCOLS
from semisam.testing import random_batch, tiny_builder
from semisam.training.accumulation import micro_batches
from semisam.training.allocator import keep_memory
from semisam.training.plan import TrainingPlan
from semisam.training.processes import Processes, end, joined_processes, own_rows
from semisam.training.trainer import Interrupted, Trainer

PLAN = TrainingPlan(iterations=3, checkpoint_every=9, lr_step=2, precision="fp32", seed=4, clip=5.0)
# Method, options, labeled and unlabeled rows, the branch, micro-batches. The branch is None, a
# protocol's name, or options of a branch whose prompter passes over some rows.
CASES = {
    "supervised": ("supervised", {}, 2, 0, None, 1),
    "mt": ("mt", {}, 2, 2, None, 1),
    "mt, micro-batches": ("mt", {}, 4, 4, None, 2),
    "ua-mt": ("ua-mt", {"passes": 2}, 2, 2, None, 1),
    "dtc": ("dtc", {}, 2, 2, None, 1),
    "dtml": ("dtml", {}, 2, 2, None, 1),
    "ent-mini": ("ent-mini", {}, 2, 2, None, 1),
    "cps": ("cps", {}, 2, 2, None, 1),
    "urpc": ("urpc", {"levels": 2}, 2, 2, None, 1),
    "ict": ("ict", {}, 2, 4, None, 1),
    "mc-net": ("mc-net", {}, 2, 2, None, 1),
    "bcp": ("bcp", {"pretrain": 0.3}, 2, 4, None, 1),
    "mt+semisam, default": ("mt", {}, 4, 4, "default", 2),
    "mt+semisam, some, gated": ("mt", {}, 2, 2, {"gated": True}, 1),
}


class Sometimes(UncertaintyPoints):
    """Passes over every second row, by its generator: a rank may have nothing to query."""

    def __call__(self, view, rng):
        if torch.rand((), generator=rng) < 0.5:
            return None
        return super().__call__(view, rng)


class Batches:
    """Random batches in double precision, or some of their rows."""

    def __init__(self, labeled, unlabeled, rows=None):
        self.shape, self.rows = (labeled, unlabeled), rows or range(labeled + unlabeled)

    def batch(self, step):
        labeled, unlabeled = self.shape
        kinds = {"labeled": labeled, "unlabeled": unlabeled}
        whole = random_batch(**kinds, shape=(16, 16, 16), seed=step)
        rows = tuple(self.rows)
        label = whole.label[[row for row in rows if row < labeled]]
        return Batch(whole.image.double()[list(rows)], label, rows=rows)


def make(case):
    method, options, _, _, branch, _ = CASES[case]
    torch.manual_seed(0)
    framework = registry.load("framework", method)(tiny_builder(), 2, **options)
    if isinstance(branch, str):
        protocol = PROTOCOLS[branch]
        name = protocol.run["prompter"]
        prompter = registry.load("prompter", name)(**protocol.prompters.get(name, {}))
        framework = SemiSAM(framework, Geodesic(), prompter, seed=3, **protocol.semisam)
    elif branch is not None:
        # The map of a method that has learned nothing is nowhere sure.
        prompter = Sometimes(max_uncertainty=1.0)
        framework = SemiSAM(framework, Geodesic(), prompter, weight=1.0, seed=3, **branch)
    return framework.double()


def trainer(case, folder, processes, batches=None, plan=PLAN):
    _, _, labeled, unlabeled, _, parts = CASES[case]
    folder.mkdir(exist_ok=True, parents=True)
    rows = own_rows(labeled, unlabeled, processes, parts)
    batches = batches or Batches(labeled, unlabeled, rows)
    return Trainer(make(case), batches, replace(plan, parts=parts), folder, processes=processes)


def by_hand(case):
    """Train as two processes do: two copies of the method, and the mean of their gradients."""
    _, _, labeled, unlabeled, _, parts = CASES[case]
    copies = [make(case).train() for _ in range(2)]
    optimizers = [
        torch.optim.SGD(
            copy.param_groups(),
            lr=PLAN.lr,
            momentum=PLAN.momentum,
            weight_decay=PLAN.weight_decay,
        )
        for copy in copies
    ]
    for step in range(PLAN.iterations):
        clock = Clock(step, PLAN.iterations)
        for rank, copy in enumerate(copies):
            copy.zero_grad()
            rows = own_rows(labeled, unlabeled, Processes(rank, 2), parts)
            batch = Batches(labeled, unlabeled, rows).batch(step)
            for part, some in enumerate(micro_batches(batch, parts)):
                keys = ("step", step, *(("part", part) if part else ()), "rank", rank)
                torch.manual_seed(derive_seed(PLAN.seed, *keys))
                losses = copy.training_step(some, clock).losses.values()
                (sum(losses) / parts).backward()
        for one, other in zip(*(copy.parameters() for copy in copies), strict=True):
            if one.grad is not None:
                mean = (one.grad + other.grad) / 2
                one.grad, other.grad = mean.clone(), mean.clone()
        for copy, optimizer in zip(copies, optimizers, strict=True):
            torch.nn.utils.clip_grad_norm_(copy.parameters(), PLAN.clip)
            for group in optimizer.param_groups:
                group["lr"] = step_decay(clock, PLAN.lr, PLAN.lr_step)
            optimizer.step()
            copy.after_update(clock)
    return copies[0].state_dict()


def difference(one, other):
    """Return the largest difference of two state dicts."""
    assert one.keys() == other.keys()
    floats = [k for k in one if one[k].is_floating_point()]
    return max(float((one[k] - other[k]).abs().max()) for k in floats)


def figures(folder):
    lines = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "sam_seconds"} for line in lines]


def compare(case, processes, out):
    """Train with both processes and, on rank 0, by hand."""
    shared = trainer(case, out / case, processes)
    shared.fit()
    parameters = {k: v.detach().clone() for k, v in shared.framework.named_parameters()}
    others = processes.gather(parameters)
    if not processes.writer:
        return None
    state = shared.framework.state_dict()
    return {
        "by hand": difference(state, by_hand(case)),
        "between ranks": difference(*others),
        "moved": difference(state, make(case).state_dict()),
        "asked": [line.get("sam_queried") for line in figures(out / case)],
    }


def averages(processes):
    """Return each rank's gradients after averaging: of both ranks, of one, and of no rank."""
    net = torch.nn.ParameterDict({n: torch.nn.Parameter(torch.zeros(2)) for n in ("a", "b", "c")})
    net["a"].grad = torch.tensor([1.0, 2.0]) if processes.rank == 0 else torch.tensor([4.0, -2.0])
    if processes.rank == 1:
        net["b"].grad = torch.tensor([3.0, 5.0])
    processes.average_gradients(net)
    return processes.gather(
        {n: None if p.grad is None else p.grad.tolist() for n, p in net.items()}
    )


def interrupted(processes, out):
    """End by a signal to rank 1 only; resume; compare with a run that was never stopped."""
    folder = out / "stopped"
    rows = own_rows(2, 2, processes)

    class Interrupting(Batches):
        def batch(self, step):
            if step == 1 and processes.rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().batch(step)

    stops = None
    try:
        trainer("mt", folder, processes, Interrupting(2, 2, rows)).fit()
    except Interrupted as stop:
        stops = stop.step
    processes.any(False)  # rank 0 has written by now
    written = (folder / "checkpoint.pt").exists()
    again = trainer("mt", folder, processes)
    again.fit()
    whole = trainer("mt", out / "whole", processes)
    whole.fit()
    return {
        "stops": processes.gather(stops),
        "checkpoint": written,
        "weights": difference(again.framework.state_dict(), whole.framework.state_dict()),
        "losses": figures(folder) == figures(out / "whole"),
    }


def by_command(processes, out, data):
    """Run the command line in every process; return each one's exit code and output."""
    semisam.training.processes.joined_processes = lambda: nullcontext(processes)
    tiny = ["--stride", "16x16x16", "--network", "vnet", "--set", "vnet.filters=2"]
    tiny += ["--device", "cpu", "--precision", "fp32", "--iterations", "2", "--labels", "2"]
    tiny += ["--data", str(data), "--method", "mt"]
    enough = ["--patch", "32x16x16"]
    given = {
        "run": enough,
        "again": enough,
        "validated": [*enough, "--labels", "3", "--validate-every", "1", "--keep", "best"],
        "rows": [*enough, "--batch", "3"],
        "norm": ["--patch", "16x16x16"],
        "device": [*enough, "--device", "cuda:1"],
    }
    found = {}
    for name, options in given.items():
        folder = out / ("run" if name == "again" else name)
        result = CliRunner().invoke(command_line, ["train", *tiny, "--out", str(folder), *options])
        found[name] = processes.gather((result.exit_code, result.output))
    return found


def main(out, data):
    # Losses and heads are float32 by their own rule: here the comparison is to be a sharp one.
    torch.Tensor.float = torch.Tensor.double
    with joined_processes() as processes:
        report = {
            "command": by_command(processes, out, data),
            "averages": averages(processes),
            "interrupted": interrupted(processes, out),
        }
        report |= {case: compare(case, processes, out) for case in CASES}
        if processes.writer:
            (out / "report.json").write_text(json.dumps(report))
        processes.any(False)
        if not processes.writer:
            # Without a word, as the system ends a process that takes too much memory.
            os._exit(0)
        processes.any(False)


if __name__ == "__main__":
    torch.set_num_threads(1)
    keep_memory()
    folder = Path(sys.argv[1])
    try:
        main(folder, Path(sys.argv[2]))
    except SemisamError as error:
        if not (folder / "report.json").exists():
            raise
        (folder / "lost.txt").write_text(str(error))
        end(0)
