"""Execute one run, from settings to a result, in its own folder."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from semisam.core.errors import InputError, InUse, SemisamError, SemisamWarning
from semisam.core.files import (
    remove_leftovers,
    removed_folder,
    replace_file,
    writable_folder,
    write_csv,
    write_json,
)
from semisam.core.framework import Framework
from semisam.core.layout import ADAPTED, CARD, CASES, MODEL, PREDICTIONS, RESULT
from semisam.core.logger import Logger
from semisam.core.seeding import derive_seed
from semisam.data.datasets.groups import patients_of
from semisam.data.loading.prefetch import Prefetcher
from semisam.data.loading.sampling import BatchPlan, BatchSource
from semisam.data.loading.store import VolumeStore, data_hash
from semisam.frameworks.controls import NEED_TRUTH
from semisam.frameworks.semisam import SemiSAM
from semisam.inference.card import Card, card_of, write_card
from semisam.inference.components import OneComponent, of_every_class
from semisam.inference.evaluation import evaluate, summarise
from semisam.run.adapt import adapt_model, classes_of_several, labeled_cases
from semisam.run.build import (
    Cases,
    cases_of,
    make_framework,
    make_logger,
    open_dataset,
    patients_counted,
    split_of,
    start_from,
)
from semisam.run.folder import claim, claim_data, read_result
from semisam.run.lock import locked
from semisam.run.model import window_of
from semisam.run.preflight import check_run
from semisam.run.record import cost_of, data_key, data_record, versions
from semisam.run.settings import RunSettings
from semisam.training.accumulation import count_parts
from semisam.training.checkpoint import remove_checkpoints, save_tensors
from semisam.training.plan import Summary, TrainingPlan
from semisam.training.processes import ONE, Processes, own_device, own_rows
from semisam.training.trainer import Trainer
from semisam.training.validation import Validation

Progress = Callable[[str, int, int, Mapping[str, float]], None]
"""A function called with the phase (check, adapt, train, evaluate), done, total and the figures."""


_ALONE = threading.Lock()
"""Held by the run of this process: runs in threads would share PyTorch's random numbers."""


@dataclasses.dataclass(frozen=True)
class Ready:
    """The objects that a run needs in addition to its settings.

    Attributes:
        store: the scans.
        framework: the method with initial weights.
        plan: labeled and unlabeled rows of a batch.
        hashes: of the volumes by name.
        card: of the model.
        logger: of the figures; ``None``: ``train.jsonl`` only.
    """

    store: VolumeStore
    framework: Framework
    plan: BatchPlan
    hashes: Mapping[str, str]
    card: Card
    logger: Logger | None


def execute(
    settings: RunSettings,
    folder: Path,
    progress: Progress | None = None,
    processes: Processes = ONE,
    max_seconds: float | None = None,
) -> Path:
    """Execute the unfinished part of a run and return the path of its ``result.json``.

    The folder receives ``settings.json``, ``split.json``, the trainer's checkpoint and log,
    ``model.pt`` and its card, ``cases.csv`` and, last, ``result.json``; with SemiSAM also the
    adapted promptable model. A folder with a result of the same settings and scans does not change.
    A folder with a checkpoint resumes.

    Args:
        settings: of the run.
        folder: of the run.
        progress: called with the run's progress.
        processes: that share the run; each makes this call.
        max_seconds: time from now after which the training stops at a checkpoint.

    Raises:
        TimeOver: the training stopped after this time; the same call resumes.
        InputError: before training starts, if settings or data cannot be used, or the folder
            belongs to a run with other settings, scans or weights.
        InUse: another process holds the folder, or another thread of this one trains.
        SemisamError: the folder was removed.
    """
    if any(torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda")):
        # Within another autocast, the cast weights of one step stay for the next.
        raise InputError("a run must start outside of torch.autocast, got one. Leave its block.")
    if not _ALONE.acquire(blocking=False):
        raise InUse(
            "a process must execute one run at a time, got a second one, which would share its "
            "random numbers. Wait for the first, or use semisam.bench with jobs=2."
        )
    try:
        with torch.inference_mode(mode=False), torch.enable_grad():
            return _execute(settings, folder, progress, processes, max_seconds)
    finally:
        _ALONE.release()


def _execute(
    settings: RunSettings,
    folder: Path,
    progress: Progress | None,
    processes: Processes,
    max_seconds: float | None,
) -> Path:
    report: Progress = progress or (lambda phase, done, total, figures: None)
    deadline = math.inf if max_seconds is None else time.monotonic() + max_seconds
    result = folder / RESULT
    with _in_place(folder), contextlib.ExitStack() as held:

        def take() -> None:
            check_size(settings, processes)
            writable_folder(folder)
            held.enter_context(locked(folder))
            claim(folder, settings)
            remove_leftovers(folder)

        processes.of_writer(take)
        here = settings.model_copy(
            update={"device": processes.agreed(lambda: own_device(settings.device, processes))}
        )
        run = processes.agreed(lambda: open_run(here, report))
        if here.device.startswith("cuda"):  # the memory of this run, and not of one before it
            torch.cuda.reset_peak_memory_stats(here.device)
        store = run.store

        def finished() -> bool:
            parts = {"labeled": store.labeled, "unlabeled": store.unlabeled, "test": store.test}
            if store.validation:
                parts["validation"] = store.validation
            cases = {part: list(names) for part, names in parts.items()}
            claim_data(folder, {**cases, "data": data_hash(run.hashes)})
            if result.exists():
                read_result(result)  # refuses a damaged one
                remove_checkpoints(folder, adapted=run.framework.trains)  # left by a killed process
            return result.exists()

        if processes.of_writer(finished):
            return result
        adapting = _adapt(here, run, folder, report, processes)
        if run.framework.trains:
            training = train(here, run, folder, report, processes, deadline)
        else:
            run.framework.to(here.device).learn(list(labeled_cases(store)))
            processes.of_writer(lambda: write_model(run, folder))
            training = Summary(0.0, 0.0, {}, 0)
        rows = score(here, run, folder, report, processes)

        def write() -> None:
            about = _about(settings, run, training, rows)
            write_json(result, about | {"cost": cost_of(here, training, rows) | adapting})
            remove_checkpoints(folder, adapted=run.framework.trains)

        processes.of_writer(write)
        return result


def check_size(settings: RunSettings, processes: Processes) -> None:
    """Refuse settings for another number of processes."""
    if (settings.ranks or 1) != processes.size:
        wanted = settings.ranks or 1
        raise InputError(
            f"the run must have the {wanted} process{'es' if wanted > 1 else ''} of its settings, "
            f"got {processes.size}. Start it with torchrun --nproc-per-node {wanted}."
        )


def open_run(settings: RunSettings, report: Progress) -> Ready:
    """Open and check the objects that a run needs."""
    logger = make_logger(settings)
    dataset = open_dataset(settings)
    split = split_of(settings, dataset)
    labeled, unlabeled, validation = cases_of(settings, dataset, split)
    with _initial_seed(settings):
        framework = make_framework(
            settings, dataset.channels, dataset.num_classes, dataset.class_names
        )
    start_from(framework, settings, dataset)
    store = VolumeStore(
        dataset,
        labeled=labeled,
        unlabeled=unlabeled,
        test=split.test,
        validation=validation,
        oracle=settings.sam_control in NEED_TRUTH,
    )
    hashes = store.check(lambda done, total: report("check", done, total, {}))
    for note in store.notes():
        warnings.warn(note, SemisamWarning, stacklevel=2)
    if isinstance(framework, SemiSAM) and not framework.several:
        # A method without training takes whole scans.
        axes = len(settings.patch) if framework.trains else None
        framework.leave_out(classes_of_several(store, axes))
    plan = check_run(settings, store, framework, len(labeled), len(unlabeled))
    card = model_card(settings, store, framework)
    return Ready(store, framework, plan, hashes, card, logger)


def model_card(settings: RunSettings, store: VolumeStore, framework: Framework) -> Card:
    """Return the card of the model that a run trains."""
    classes = store.dataset.num_classes
    one_component = of_every_class(settings.components, classes)
    if settings.components == "as-labeled":
        one_component = OneComponent(store.components()[0])
    left_out: list[int] = []
    if isinstance(framework, SemiSAM):
        left_out = [c for c in range(1, classes) if c not in framework.classes]
    return card_of(store.dataset, store.image(store.labeled[0]), one_component, left_out)


def _adapt(
    settings: RunSettings, run: Ready, folder: Path, report: Progress, processes: Processes
) -> dict[str, float]:
    """Give the branch a model that is adapted to the labeled scans; return the cost of it."""
    branch = run.framework
    if not settings.sam_adapt or not isinstance(branch, SemiSAM) or not branch.classes:
        return {}
    backend: Any = branch.queries.backend

    def show(done: int) -> None:
        report("adapt", done, settings.sam_adapt, {})

    seconds = processes.of_writer(
        lambda: adapt_model(settings, backend, run.store, folder, show, run.card.left_out)
    )
    branch.queries.backend = processes.agreed(lambda: backend.adapted(folder / ADAPTED))
    return {"sam_adapt_seconds": seconds}


def _about(
    settings: RunSettings, run: Ready, training: Summary, rows: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return the result without its cost."""
    store = run.store
    labeled, unlabeled, test = store.labeled, store.unlabeled, store.test
    cases = Cases(labeled, unlabeled, store.validation)
    truth = settings.sam_control in NEED_TRUTH
    patients = patients_counted(store.dataset)
    validation = {"cases": list(store.validation), **training.validation}
    return {
        "settings": settings.model_dump(mode="json"),
        "run": settings.identity(data_key(run.hashes, cases, test, truth=truth)),
        "data": {
            "dataset": store.dataset.name,
            "note": store.dataset.note,
            **data_record(run.hashes, cases, test),
            "labeled": len(patients_of((*labeled, *store.validation), patients)),
            "unlabeled": len(patients_of(unlabeled, patients)),
            "test": len(test),
            "labeled_cases": list(labeled),
        },
        "metrics": summarise(rows),
        **({"validation": validation} if store.validation else {}),
        # A method's own figure may be undefined, such as a mean over no voxel.
        "training": {name: x for name, x in training.means.items() if math.isfinite(x)},
        "versions": versions(),
    }


def train(
    settings: RunSettings,
    run: Ready,
    folder: Path,
    report: Progress,
    processes: Processes = ONE,
    deadline: float = math.inf,
) -> Summary:
    """Train, from the checkpoint if there is one, and write ``model.pt``."""
    trainer = make_trainer(settings, run, folder, processes)
    summary = trainer.fit(lambda done, f: report("train", done, settings.iterations, f), deadline)
    if processes.writer:
        write_model(run, folder)
    return summary


def make_trainer(
    settings: RunSettings, run: Ready, folder: Path, processes: Processes = ONE
) -> Trainer:
    """Return the training loop of a run."""
    framework, store, plan = run.framework, run.store, run.plan

    def validate() -> float:
        rows = _scored(settings, run, store.validation, processes)
        return summarise(rows)["dice"]

    parts = count_parts(settings.batch, settings.micro_batch)
    source = BatchSource(
        store,
        store.labeled,
        store.unlabeled,
        plan,
        settings.patch,
        seed=settings.seed,
        augment=settings.augment,
        foreground=settings.foreground,
        truth=settings.sam_control in NEED_TRUTH,
        places=framework.wants_places,
        rows=own_rows(plan.labeled, plan.unlabeled, processes, parts),
    )
    own = [field.name for field in dataclasses.fields(TrainingPlan)]
    same: dict[str, Any] = {n: getattr(settings, n) for n in own if n in RunSettings.model_fields}
    return Trainer(
        framework,
        source,
        TrainingPlan(**same, parts=parts, validation=_validation(settings)),
        folder,
        prefetch=Prefetcher,
        validate=validate,
        logger=run.logger,
        settings=settings.model_dump(mode="json"),
        processes=processes,
    )


def write_model(run: Ready, folder: Path) -> None:
    """Write ``model.pt`` and its card."""
    # On the CPU, so that a plain `torch.load` opens it where there is no GPU.
    weights = {name: value.cpu() for name, value in run.framework.state_dict().items()}
    with replace_file(folder / MODEL) as temporary:
        save_tensors(weights, temporary)
    write_card(folder / CARD, run.card)


def score(
    settings: RunSettings,
    run: Ready,
    folder: Path,
    report: Progress,
    processes: Processes = ONE,
) -> list[dict[str, Any]]:
    """Evaluate on the test cases and write ``cases.csv``."""
    test = run.store.test
    predictions = folder / PREDICTIONS if settings.save_predictions and test else None
    if predictions is not None:
        predictions.mkdir(exist_ok=True)

    def show(done: int, total: int) -> None:
        report("evaluate", done, total, {})

    rows = _scored(settings, run, test, processes, predictions, show)
    if rows and processes.writer:
        write_csv(folder / CASES, rows)
    return rows


def _scored(
    settings: RunSettings,
    run: Ready,
    cases: Sequence[str],
    processes: Processes,
    predictions: Path | None = None,
    on_case: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Return the scores of cases, each rank's share gathered on all ranks."""
    # Each rank has its own statistics of BatchNorm. Those of rank 0 are deployed.
    processes.share_state(run.framework)
    rows = evaluate(
        run.framework,
        run.store,
        cases[processes.rank :: processes.size],
        *window_of(settings),
        device=torch.device(settings.device),
        precision=settings.precision,
        one_component=run.card.kept,
        predictions=predictions,
        on_case=on_case,
    )
    order = {case: place for place, case in enumerate(cases)}
    scored = [row for part in processes.gather(rows) for row in part]
    return sorted(scored, key=lambda row: order[row["case"]])


def _validation(settings: RunSettings) -> Validation | None:
    if settings.validate_every is None:
        return None
    return Validation(settings.validate_every, settings.keep, settings.patience)


@contextlib.contextmanager
def _in_place(folder: Path) -> Iterator[None]:
    """Raise one sentence if a write fails because the folder was removed."""
    try:
        yield
    except OSError as error:
        if folder.is_dir():
            raise
        raise SemisamError(removed_folder(folder)) from error


@contextlib.contextmanager
def _initial_seed(settings: RunSettings) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(settings.seed, "weights"))
        yield
