"""The parts of a result other than metrics: cost, versions and cases."""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import psutil
import torch

from semisam import __version__
from semisam.data.loading.store import data_hash
from semisam.run.build import Cases
from semisam.run.settings import RunSettings
from semisam.training.plan import Summary


def split_hash(*groups: tuple[str, ...]) -> str:
    """Return a hash of the labeled, unlabeled and test cases, in their order."""
    text = "\n\n".join("\n".join(group) for group in groups)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def data_key(
    hashes: Mapping[str, str], cases: Cases, test: Sequence[str], *, truth: bool = False
) -> str:
    """Return the data's part of a run's identity: the voxels, and the parts of the cases.

    Args:
        hashes: of volumes by name, as of `VolumeStore.check`; those that the run does not read do
            not count.
        cases: of the training.
        test: cases.
        truth: the run is a control that also reads the labels of the unlabeled cases.
    """
    scored = (*cases.validation, *test)
    with_label = (*cases.labeled, *scored, *(cases.unlabeled if truth else ()))
    names = [f"image:{case}" for case in (*cases.labeled, *cases.unlabeled, *scored)]
    names += [f"label:{case}" for case in with_label] + [f"drawn:{case}" for case in scored]
    read = {name: hashes[name] for name in names if name in hashes}
    parts = split_hash(cases.labeled, cases.unlabeled, cases.validation, tuple(test))
    return f"{data_hash(read)}-{parts}"


def data_record(hashes: Mapping[str, str], cases: Cases, test: Sequence[str]) -> dict[str, Any]:
    """Return what distinguishes the data of runs, as `semisam.bench.results` compares them.

    Args:
        hashes: of all volumes that the run reads.
        cases: of the training.
        test: cases.

    Returns:
        ``hash`` of all volumes; ``key``, which leaves out the truth of unlabeled cases, so that a
        control shares it with the runs that it is compared with; ``scans``, a hash of the images;
        ``labels``, a hash of each labeled or validation case; ``test_hash`` and ``split_hash``.
    """
    wanted = set(test)
    tested = {k: v for k, v in hashes.items() if k.partition(":")[2] in wanted}
    return {
        "hash": data_hash(hashes),
        "key": data_key(hashes, cases, test),
        "scans": data_hash({k: v for k, v in hashes.items() if k.startswith("image:")}),
        "labels": {
            case: hashes[f"label:{case}"][:16] for case in (*cases.labeled, *cases.validation)
        },
        "test_hash": data_hash(tested),
        "split_hash": split_hash(cases.labeled, cases.unlabeled, tuple(test)),
    }


def versions() -> dict[str, str]:
    """Return the versions of all packages and programs that a number may depend on."""
    found = {name: metadata.version(name) for name in ("torch", "numpy", "scipy", "scikit-image")}
    return {
        "semisam": __version__,
        "python": platform.python_version(),
        **found,
        "machine": platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
    }


def cost_of(
    settings: RunSettings, training: Summary, rows: list[dict[str, Any]]
) -> dict[str, float]:
    """Return the cost of a run: memory of rank 0, SAM's time as the mean over processes."""
    seconds_by_case = {row["case"]: row["seconds"] for row in rows}
    cost = {
        "train_seconds": training.seconds,
        "wait_share": training.waited / training.seconds if training.seconds else 0.0,
        "predict_seconds_per_case": sum(seconds_by_case.values()) / max(len(seconds_by_case), 1),
        "peak_memory_gib": peak_memory() / 2**30,
    }
    if settings.device.startswith("cuda"):
        cost["peak_gpu_memory_gib"] = torch.cuda.max_memory_allocated(settings.device) / 2**30
    if "sam_seconds" in training.means:
        total = training.means["sam_seconds"] * training.steps / (settings.ranks or 1)
        cost["sam_seconds_share"] = total / training.seconds
        cost["sam_calls"] = training.means["sam_calls"] * training.steps
    return cost


def peak_memory() -> int:
    """Return the largest resident size of this process so far, in bytes."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
