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
from semisam.run.settings import RunSettings
from semisam.training.plan import Summary


def split_hash(*groups: tuple[str, ...]) -> str:
    """Return a hash of the labeled, unlabeled and test cases, in their order."""
    text = "\n\n".join("\n".join(group) for group in groups)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def data_key(
    hashes: Mapping[str, str],
    labeled: Sequence[str],
    unlabeled: Sequence[str],
    validation: Sequence[str],
    test: Sequence[str],
) -> str:
    """Return what the data add to the identity of a run: the voxels, and the parts of the cases.

    Args:
        hashes: of the volumes by name, as of `VolumeStore.check`.
        labeled: cases in their order, as the others.
        unlabeled: cases.
        validation: cases.
        test: cases.
    """
    parts = split_hash(*map(tuple, (labeled, unlabeled, validation, test)))
    return f"{data_hash(hashes)}-{parts}"


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
