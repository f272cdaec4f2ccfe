"""One run, from settings to a result, in a folder of its own."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch
from filelock import FileLock, Timeout

from semisam import __version__
from semisam.assemble import choose_labeled, make_framework, open_dataset
from semisam.card import Card, card_of, read_card, write_card
from semisam.checkpoint import save_tensors
from semisam.config import RunSettings, method_options, read_settings, semisam_options
from semisam.controls import NEED_TRUTH
from semisam.data.sampling import BatchPlan, BatchSource, Prefetcher
from semisam.data.store import VolumeStore, data_hash
from semisam.errors import InputError, InUse
from semisam.evaluation import evaluate, summarise
from semisam.files import remove_leftovers, replace_file, writable_folder, write_json
from semisam.framework import Framework
from semisam.inference import published_stride
from semisam.names import (
    CARD,
    CASES,
    CHECKPOINT,
    LOCK,
    MODEL,
    PREVIOUS,
    RESULT,
    SETTINGS,
    SPLIT,
)
from semisam.preflight import check_run
from semisam.seeding import derive_seed
from semisam.trainer import Plan, Summary, Trainer

_PATIENCE = 0.5

Progress = Callable[[str, int, int, Mapping[str, float]], None]
"""Called with the phase (check, train, evaluate), done, total and the figures of the moment."""


def execute(settings: RunSettings, folder: Path, progress: Progress | None = None) -> Path:
    """Run what is not done yet of a run and return the path of its ``result.json``.

    The folder receives ``settings.json``, ``split.json``, the trainer's checkpoint and log,
    ``model.pt``, ``cases.csv`` and, last, ``result.json``. A folder with a result is left as it is;
    one with a checkpoint goes on from there.

    Raises:
        InputError: before training starts, if settings or data cannot be used, or the folder is
            another run's.
        InUse: another process is at work there.
    """
    report: Progress = progress or (lambda phase, done, total, figures: None)
    writable_folder(folder)
    with _locked(folder):
        _claim(folder, settings)
        result = folder / RESULT
        if result.exists():
            return result
        remove_leftovers(folder)
        dataset = open_dataset(settings)
        split = dataset.split()
        labeled, unlabeled = choose_labeled(
            split, settings.labels, settings.subset, dataset.has_label
        )
        with _initial_seed(settings):
            framework = make_framework(settings, dataset.channels, dataset.num_classes)
        oracle = settings.sam_control in NEED_TRUTH
        store = VolumeStore(
            dataset, labeled=labeled, unlabeled=unlabeled, test=split.test, oracle=oracle
        )
        hashes = store.check(lambda done, total: report("check", done, total, {}))
        plan = check_run(settings, store, framework, len(labeled), len(unlabeled))
        cases = {"labeled": labeled, "unlabeled": unlabeled, "test": split.test}
        write_json(folder / SPLIT, {part: list(names) for part, names in cases.items()})
        training = train(settings, framework, store, plan, folder, report)
        rows = score(settings, framework, store, folder, report)
        write_json(
            result,
            {
                "settings": settings.model_dump(mode="json"),
                "options": {
                    "method": method_options(settings),
                    "semisam": {} if settings.sam == "none" else semisam_options(settings),
                },
                "run": settings.identity(data_hash(hashes)),
                "data": {
                    "dataset": dataset.name,
                    "note": dataset.note,
                    "hash": data_hash(hashes),
                    "split_hash": split_hash(labeled, unlabeled, split.test),
                    "labeled": len(labeled),
                    "unlabeled": len(unlabeled),
                    "test": len(split.test),
                    "labeled_cases": list(labeled),
                },
                "metrics": summarise(rows),
                "training": training.means,
                "cost": _cost(settings, training, rows),
                "versions": versions(),
            },
        )
        for name in (CHECKPOINT, PREVIOUS):
            (folder / name).unlink(missing_ok=True)
        return result


def train(
    settings: RunSettings,
    framework: Framework,
    store: VolumeStore,
    plan: BatchPlan,
    folder: Path,
    report: Progress,
) -> Summary:
    """Train, or load what was trained before, and leave ``model.pt`` in the folder."""
    source = BatchSource(
        store,
        store.labeled,
        store.unlabeled,
        plan,
        settings.patch,
        seed=settings.seed,
        augment=settings.augment,
        truth=settings.sam_control in NEED_TRUTH,
    )
    trainer = Trainer(
        framework,
        source,
        Plan(
            iterations=settings.iterations,
            lr=settings.lr,
            lr_step=settings.lr_step,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            clip=settings.clip,
            precision=settings.precision,
            device=settings.device,
            seed=settings.seed,
            checkpoint_every=settings.checkpoint_every,
        ),
        folder,
        prefetch=Prefetcher,
    )
    summary = trainer.fit(lambda done, f: report("train", done, settings.iterations, f))
    with replace_file(folder / MODEL) as temporary:
        save_tensors(framework.state_dict(), temporary)
    dataset = store.dataset
    write_card(folder / CARD, card_of(dataset, store.image(store.labeled[0])))
    return summary


def score(
    settings: RunSettings,
    framework: Framework,
    store: VolumeStore,
    folder: Path,
    report: Progress,
) -> list[dict[str, Any]]:
    """Evaluate on the test cases and write ``cases.csv``."""
    predictions = folder / "predictions" if settings.save_predictions else None
    if predictions is not None:
        predictions.mkdir(exist_ok=True)
    rows = evaluate(
        framework,
        store,
        store.test,
        settings.patch,
        window_stride(settings),
        device=torch.device(settings.device),
        precision=settings.precision,
        largest_component=settings.largest_component,
        predictions=predictions,
        on_case=lambda done, total: report("evaluate", done, total, {}),
    )
    write_cases(folder / CASES, rows)
    return rows


def write_cases(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the per-case CSV, beside and renamed."""
    with replace_file(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def load_run(folder: Path, device: str = "cpu") -> tuple[RunSettings, Framework, Card]:
    """Open a trained run: its settings, the method on a device, ready to deploy, and its card.

    The training data need not be there any more.

    Raises:
        InputError: if the folder holds no trained run.
    """
    settings = read_settings(folder)
    try:
        card = read_card(folder / CARD)
        state = torch.load(folder / MODEL, map_location="cpu", weights_only=True)
    except Exception as error:  # a missing or damaged file is reported in many ways
        raise InputError(
            f"a finished run with {MODEL} and {CARD} is required, got {folder} "
            f"({str(error).splitlines()[0]}): run the same command again to finish it"
        ) from None
    # Deployment needs no promptable model, and the branch has no state of its own.
    bare = settings.model_copy(update={"sam": "none"})
    framework = make_framework(bare, card.channels, len(card.class_names))
    framework.load_state_dict(state)
    return settings, framework.to(device).eval(), card


def window_stride(settings: RunSettings) -> tuple[int, ...]:
    """Return the sliding window's stride: the settings', or the published one scaled."""
    return tuple(settings.stride or published_stride(settings.patch))


def split_hash(*groups: tuple[str, ...]) -> str:
    """Return a hash of which cases are labeled, unlabeled and test, in their order."""
    text = "\n\n".join("\n".join(group) for group in groups)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def versions() -> dict[str, str]:
    """Return the versions of all that a number may depend on."""
    found = {name: metadata.version(name) for name in ("torch", "numpy", "scipy", "scikit-image")}
    return {
        "semisam": __version__,
        "python": platform.python_version(),
        **found,
        "machine": platform.machine(),
        "threads": str(torch.get_num_threads()),
    }


def _cost(settings: RunSettings, training: Summary, rows: list[dict[str, Any]]) -> dict[str, float]:
    seconds_by_case = {row["case"]: row["seconds"] for row in rows}
    cost = {
        "train_seconds": training.seconds,
        "wait_share": training.waited / training.seconds if training.seconds else 0.0,
        "predict_seconds_per_case": sum(seconds_by_case.values()) / len(seconds_by_case),
        "peak_memory_gib": _peak_memory() / 2**30,
    }
    if settings.device.startswith("cuda"):
        cost["peak_gpu_memory_gib"] = torch.cuda.max_memory_allocated(settings.device) / 2**30
    if "sam_seconds" in training.means:
        total = training.means["sam_seconds"] * settings.iterations
        cost["sam_seconds_share"] = total / training.seconds
        cost["sam_calls"] = training.means["sam_calls"] * settings.iterations
    return cost


def _claim(folder: Path, settings: RunSettings) -> None:
    """Write the settings, or refuse a folder that belongs to other ones."""
    path = folder / SETTINGS
    if not path.exists():
        write_json(path, settings.model_dump(mode="json"))
        return
    ours = settings.model_dump(mode="json")
    theirs = read_settings(folder).model_dump(mode="json")
    free = {"data", "device", "checkpoint_every", "save_predictions"}
    other = sorted(key for key in ours if key not in free and ours[key] != theirs[key])
    if other:
        raise InputError(
            f"the output folder must be empty or of the same run, got {folder}, a run with other "
            f"{', '.join(other)}: name another folder"
        )


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder; the system lets go of the lock when the process ends, however it ends."""
    try:
        # Who only asks whether a run is at work holds the lock for a moment: not a reason to fail.
        with FileLock(folder / LOCK, timeout=_PATIENCE, poll_interval=0.02):
            yield
    except Timeout:
        raise InUse(
            f"the output folder must not be in use, got {folder}, where another process is at "
            "work: wait for it or name another folder"
        ) from None


@contextlib.contextmanager
def _initial_seed(settings: RunSettings) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(settings.seed, "weights"))
        yield


def _peak_memory() -> int:
    """Return the largest resident size of this process so far, in bytes."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
