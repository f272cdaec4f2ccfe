"""What tests/test_distributed.py starts as torchrun would: each rank is a process of this script.

All comparisons are made in one launch, since starting costs more than they do. Rank 0 writes
``report.json`` in the folder that is given.
"""

from __future__ import annotations

import copy
import json
import os
import signal
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from click.testing import CliRunner

import semisam.training.distributed
from semisam.backends.geodesic import Geodesic
from semisam.cli.main import main as command_line
from semisam.core.errors import SemisamError
from semisam.core.types import Batch
from semisam.frameworks.semisam import SemiSAM
from semisam.networks.vnet import VNet
from semisam.plugins import registry
from semisam.prompters.uncertainty_points import UncertaintyPoints
from semisam.run.protocols import PROTOCOLS
from semisam.testing import random_batch, tiny_builder
from semisam.training.allocator import keep_memory
from semisam.training.distributed import end, own_rows, process_group
from semisam.training.synced_norm import sync_batchnorm
from semisam.training.trainer import Interrupted, Plan, Trainer

PLAN = Plan(
    iterations=2, checkpoint_every=9, lr_step=1, precision="fp32", seed=4, clip=5.0, norm_batches=2
)
# Method, options, labeled and unlabeled rows, the branch, micro-batches. The branch is None, a
# protocol's name, or options of a branch whose prompter passes over some rows.
CASES = {
    "supervised": ("supervised", {}, 2, 0, None, 1),
    "mt": ("mt", {"noise_std": 0.0}, 2, 2, None, 1),
    "mt, V-Net": ("mt", {"noise_std": 0.0}, 2, 2, None, 1),
    "mt, 2 + 4 rows": ("mt", {"noise_std": 0.0, "consistency_rows": "all"}, 2, 4, None, 1),
    "mt, micro-batches": ("mt", {"noise_std": 0.0}, 4, 4, None, 2),
    "ua-mt": ("ua-mt", {"noise_std": 0.0, "passes": 2}, 2, 2, None, 1),
    "dtc": ("dtc", {}, 2, 2, None, 1),
    "dtml": ("dtml", {}, 2, 2, None, 1),
    "ent-mini": ("ent-mini", {}, 2, 2, None, 1),
    "cps": ("cps", {}, 2, 2, None, 1),
    "urpc": ("urpc", {"levels": 2}, 2, 2, None, 1),
    "ict": ("ict", {}, 2, 2, None, 1),
    "ict, 2 + 4 rows": ("ict", {}, 2, 4, None, 1),
    "bcp": ("bcp", {"pretrain": 0.3}, 2, 2, None, 1),
    "bcp, 2 + 4 rows": ("bcp", {"pretrain": 0.0}, 2, 4, None, 1),
    "mt+semisam, paper": ("mt", {"noise_std": 0.0}, 2, 2, "paper", 1),
    "mt+semisam, default": ("mt", {"noise_std": 0.0}, 2, 2, "default", 1),
    "mt+semisam, default, micro-batches": ("mt", {"noise_std": 0.0}, 4, 4, "default", 2),
    "mt+semisam, some": ("mt", {"noise_std": 0.0}, 2, 2, {}, 1),
    "mt+semisam, some, dice": ("mt", {"noise_std": 0.0}, 2, 2, {"loss": "dice"}, 1),
    "mt+semisam, some, gated": ("mt", {"noise_std": 0.0}, 2, 2, {"gated": True}, 1),
    # Rows of other processes are in the map that the branch pulls at.
    "bcp+semisam": ("bcp", {"pretrain": 0.3}, 2, 2, {"measure_every": 1}, 1),
    "ict+semisam": ("ict", {}, 2, 2, {}, 1),
}


class Sometimes(UncertaintyPoints):
    """Passes over every second row, by its generator: a rank may have nothing to ask."""

    def __call__(self, view, rng):
        if torch.rand((), generator=rng) < 0.5:
            return None
        return super().__call__(view, rng)


class Batches:
    """Random batches in double precision, or some of their rows; as small as a V-Net can take."""

    def __init__(self, labeled, unlabeled, rows=None):
        self.shape, self.rows = (labeled, unlabeled), rows

    def batch(self, step):
        labeled, unlabeled = self.shape
        kinds = {"labeled": labeled, "unlabeled": unlabeled}
        whole = random_batch(**kinds, shape=(16, 16, 16), seed=step)
        image, rows = whole.image.double(), list(self.rows or range(labeled + unlabeled))
        return Batch(image[rows], whole.label[[row for row in rows if row < labeled]])


def make(case):
    method, options, _, _, branch, _ = CASES[case]
    torch.manual_seed(0)

    def v_net(**heads):
        return VNet(1, heads, filters=2, dropout=0.0)

    build = v_net if "V-Net" in case else tiny_builder(dropout=0.0)
    framework = registry.load("framework", method)(build, 2, **options)
    if isinstance(branch, str):
        protocol = PROTOCOLS[branch]
        name = protocol.run["prompter"]
        # The map of a method that has learned nothing is nowhere sure.
        options = {"max_uncertainty": 1.0, **protocol.prompters.get(name, {})}
        prompter = registry.load("prompter", name)(**options)
        framework = SemiSAM(framework, Geodesic(), prompter, seed=3, **protocol.semisam)
    elif branch is not None:
        prompter = Sometimes(max_uncertainty=1.0)
        framework = SemiSAM(framework, Geodesic(), prompter, weight=1.0, seed=3, **branch)
    return framework.double()


def trainer(case, folder, group=None, batches=None, plan=PLAN):
    _, _, labeled, unlabeled, _, parts = CASES[case]
    framework = make(case)
    plan = replace(plan, parts=parts)
    folder.mkdir(exist_ok=True)
    if group is None:
        return Trainer(framework, Batches(labeled, unlabeled), plan, folder)
    sync_batchnorm(framework, torch.device("cpu"))
    rows = own_rows(labeled, unlabeled, group, parts)
    batches = batches or Batches(labeled, unlabeled, rows)
    return Trainer(framework, batches, plan, folder, group=group)


def difference(one, other):
    """Return the largest difference of two state dicts."""
    assert one.keys() == other.keys()
    floats = [k for k in one if one[k].is_floating_point()]
    return max(float((one[k] - other[k]).abs().max()) for k in floats)


def losses(folder):
    lines = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "sam_seconds"} for line in lines]


def compare(case, group, out):
    """Train with all processes and, on rank 0, with one on the same batches."""
    folder = out / case
    if group.writer:
        folder.mkdir()
        first = copy.deepcopy(make(case).state_dict())
        alone = trainer(case, folder / "alone")
        alone.fit()
    group.any(False)
    shared = trainer(case, folder / "shared", group)
    shared.fit()
    others = group.gather({k: v.clone() for k, v in shared.framework.state_dict().items()})
    if not group.writer:
        return None
    ours, theirs = losses(folder / "alone"), losses(folder / "shared")
    return {
        "weights": difference(alone.framework.state_dict(), shared.framework.state_dict()),
        "between ranks": difference(*others),
        "moved": difference(alone.framework.state_dict(), first),
        "names": [sorted(line) for line in ours] == [sorted(line) for line in theirs],
        "losses": max(abs(a[k] - b[k]) for a, b in zip(ours, theirs, strict=True) for k in a),
        "asked": [line.get("sam_asked") for line in theirs],
    }


def interrupted(group, out):
    """End by a signal that rank 1 alone gets; go on; compare with never having been stopped."""
    folder = out / "stopped"
    rows = own_rows(2, 2, group)

    class Interrupting(Batches):
        def batch(self, step):
            if step == 1 and group.rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().batch(step)

    plan, stops = replace(PLAN, iterations=3), None
    try:
        trainer("mt", folder, group, Interrupting(2, 2, rows), plan).fit()
    except Interrupted as stop:
        stops = stop.step
    group.any(False)  # rank 0 has written by now
    written = (folder / "checkpoint.pt").exists()
    again = trainer("mt", folder, group, plan=plan)
    again.fit()
    whole = trainer("mt", out / "whole", group, plan=plan)
    whole.fit()
    return {
        "stops": group.gather(stops),
        "checkpoint": written,
        "weights": difference(again.framework.state_dict(), whole.framework.state_dict()),
        "losses": losses(folder) == losses(out / "whole"),
    }


def by_command(group, out, data):
    """Run the command line in every process; return each one's exit code and output."""
    semisam.training.distributed.process_group = lambda: nullcontext(group)
    tiny = ["--patch", "16x16x16", "--stride", "16x16x16", "--set", "vnet.filters=2"]
    tiny += ["--device", "cpu", "--precision", "fp32", "--iterations", "2", "--labels", "2"]
    tiny += ["--data", str(data), "--method", "mt"]
    asked = {
        "run": ["--sync-batchnorm"],
        "again": ["--sync-batchnorm"],
        "rows": ["--batch", "3"],
        "norm": [],
        "memory": ["--sync-batchnorm", "--allow-accumulation"],
        "device": ["--sync-batchnorm", "--device", "cuda:1"],
    }
    found = {}
    for name, options in asked.items():
        folder = out / ("run" if name == "again" else f"refused {name}" if name != "run" else name)
        result = CliRunner().invoke(command_line, ["train", *tiny, "--out", str(folder), *options])
        found[name] = group.gather((result.exit_code, result.output))
    return found


def main(out, data):
    # Losses and heads are float32 by their own rule: here the comparison is to be a sharp one.
    torch.Tensor.float = torch.Tensor.double
    with process_group() as group:
        report = {"command": by_command(group, out, data), "interrupted": interrupted(group, out)}
        report |= {case: compare(case, group, out) for case in CASES}
        if group.writer:
            (out / "report.json").write_text(json.dumps(report))
        group.any(False)
        if not group.writer:
            # Without a word, as the system ends what takes too much memory.
            os._exit(0)
        group.any(False)


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
