"""The function `auto`: check, plan, first masks, training, masks, trust and page."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from semisam.automatic.advice import MOST, as_text, scans_to_label
from semisam.automatic.audit import FEWEST, leave_one_out
from semisam.automatic.coverage import described
from semisam.automatic.first import first_to_label
from semisam.automatic.judge import make_judge
from semisam.automatic.page import SHEET, write_page
from semisam.automatic.plan import Plan, final_run, first_run, left_of, plan_for, save_plan
from semisam.automatic.shelf import FINAL, FIRST, ChangedMask, Entry, Shelf
from semisam.automatic.survey import Survey, survey
from semisam.automatic.trust import Judge
from semisam.core.errors import InputError
from semisam.core.files import check_writable, remove_leftovers, writable_folder
from semisam.core.words import spoken_time
from semisam.data.images.files import mask_ending
from semisam.inference.card import Card
from semisam.inference.inputs import check_outputs, describe_left_out
from semisam.inference.masks import check_outside, volumes_of_file, write_masks
from semisam.inference.predictor import Deployed, on_input
from semisam.inference.volumes import Volume
from semisam.run.execute import Progress, execute
from semisam.run.lock import locked
from semisam.run.model import load_model
from semisam.run.preflight import check_device
from semisam.run.settings import Components

BUDGET = 1800.0
"""Seconds of a call that names no budget."""

Note = Callable[[str], None]


@dataclass(frozen=True)
class Stage:
    """The model whose masks are written.

    Attributes:
        name: ``first`` or ``final``.
        run: name of its run.
        model: of the run.
        judge: of its masks; ``None``: they are not judged.
    """

    name: str
    run: str
    model: Deployed
    judge: Judge | None = None


def auto(
    scans: str | Path,
    masks: str | Path,
    *,
    budget: float = BUDGET,
    dry_run: bool = False,
    audit: bool = False,
    skip_faulty: bool = False,
    components: Components = "as-labeled",
    device: str = "auto",
    dataset: str | None = None,
    options: Mapping[str, Any] | None = None,
    note: Note = print,
    progress: Progress | None = None,
) -> Path:
    """Write masks of all scans of a folder that holds a few, ranked by trust.

    The masks of the user are never overwritten. A stopped call resumes. A call after more masks
    were drawn, or with a larger budget, trains again and replaces only masks of an earlier call
    that nobody changed. After more scans were added, the trained network segments these.

    Args:
        scans: folder of scans, some with a mask.
        masks: folder to write to, outside the folder of scans.
        budget: seconds, by which the length of the training is chosen.
        dry_run: end with the plan; nothing is written.
        audit: train once more without each of at least three labeled scans, and correct the
            predicted Dice by their true one.
        skip_faulty: leave out the cases whose files have faults.
        components: of a class that a mask keeps. as-labeled: the largest, if the class is one
            component in every mask of the user, else all.
        device: on which everything is computed; auto: a GPU if there is one.
        dataset: name of the dataset plugin; ``None``: the one that recognises the folder.
        options: of the dataset plugin, by name.
        note: called with each message.
        progress: called with the phase (``check``, ``compare``, ``measure``, ``adapt``, ``train``,
            ``evaluate``, ``masks``), the steps done, the number of steps, and the current figures
            by name.

    Returns:
        The path of the page, ``index.html``.

    Raises:
        InputError: the scans cannot be used, none has a mask, or the folder of masks is in that of
            the scans.
    """
    began = time.monotonic()
    report: Progress = progress or (lambda phase, done, total, figures: None)
    folder, place = Path(masks), str(check_device(device))
    seconds = budget if isinstance(budget, int | float) else math.nan
    if not 0 < seconds < math.inf:
        raise InputError(f"budget must be seconds above 0, got {budget!r}. Half an hour is 1800.")
    check_outside(Path(scans), folder)
    if not dry_run:
        check_writable(folder)
    data = survey(
        Path(scans).resolve(),
        dataset,
        options,
        skip_faulty=skip_faulty,
        on_case=lambda done, total: report("check", done, total, {}),
    )
    if not data.labeled:
        first = first_to_label(
            data.opened,
            data.unlabeled,
            MOST,
            place,
            lambda done, total: report("compare", done, total, {}),
        )
        raise InputError(
            f"a scan of the folder must have a mask, got none for {len(data.unlabeled)} scans in "
            f"{scans}. Label these first, because many others resemble them: {', '.join(first)}. "
            f"In this folder the label of {first[0]} is {data.label_place(first[0])}."
        )
    if audit and len(data.labeled) < FEWEST:
        raise InputError(
            f"--audit must come with at least {FEWEST} masks, got {len(data.labeled)}. Leave it "
            "out."
        )
    paths = {case: data.files(case) for case in data.unlabeled}
    check_outputs(folder, paths, preview=True, others=(SHEET,))
    shelf = Shelf(folder)
    plan = plan_for(
        data,
        folder,
        budget=budget,
        device=place,
        began=began,
        audit=audit,
        components=components,
        on_part=lambda done, total: report("measure", done, total, {}),
    )
    data = data.at(plan.spacing)
    resumes = plan.file(folder).is_file()

    def missing(run: str) -> int:
        return sum(not shelf.holds(case, _entry(data, case, FINAL, run)) for case in data.unlabeled)

    left = left_of(plan, data, folder, missing) if resumes else plan
    for line in (*_describe(data), *_describe_plan(data, left, resumes)):
        note(line)
    page = folder / "index.html"
    if dry_run:
        return page
    writable_folder(folder)
    with locked(folder):
        remove_leftovers(folder, inside=False)
        save_plan(plan, folder)
        _execute(data, plan, folder, note, report)
    return page


def _execute(data: Survey, plan: Plan, folder: Path, note: Note, report: Progress) -> None:
    first, final = plan.first(folder), plan.final(folder)
    if not plan.kept:
        execute(first_run(data, plan), first, report)
    shelf = Shelf(folder)
    for case in data.labeled:
        if not shelf.take_off(case):
            note(f"Kept: the mask of {case}, which you changed. The label of its scan counts.")
    early_model = load_model(first, plan.device)
    for line in _describe_components(early_model.card, plan):
        note(line)
    if not plan.kept:
        kept = _write(data, shelf, Stage(FIRST, first.name, early_model), plan.device, report)
        write_page(data, shelf, plan, kept)
        note(f"First masks of {len(data.unlabeled)} scans: {folder}")
    late = final_run(data, plan, first)
    if not plan.kept:
        execute(late, final, report)
    model = load_model(final, plan.device)
    judge = make_judge(late, model, early_model, data.opened, data.labeled)
    kept = _write(data, shelf, Stage(FINAL, final.name, model, judge), plan.device, report)
    upcoming = scans_to_label(data, shelf, model, plan.device, without=kept)
    write_page(data, shelf, plan, kept, upcoming)
    if plan.audit:
        corrected = leave_one_out(data, plan, folder, report)
        write_page(data, shelf, plan, kept, upcoming, corrected)
        note(
            f"Predicted Dice, corrected by {corrected.pairs} true ones: "
            f"{100 * corrected.shift:+.0f} points, ± {100 * corrected.width:.0f}"
        )
    for case, sizes in kept.items():
        unread = (
            "" if sizes else " It holds values of no class, or is damaged, and was not measured."
        )
        note(
            f"Kept: {case} was changed after it was written.{unread} To train with it, save it in "
            f"the folder of scans as {data.label_place(case)}."
        )
    if upcoming:
        note(f"To label next: {'; '.join(map(str, upcoming))}")
    note(f"The trained network, for `semisam predict`: {final}")
    if plan.adapting:
        note(f"The adapted model, for `semisam click --run`: {first}")
    note(f"Masks of {len(data.unlabeled)} scans, volumes.csv, sheet.png and index.html: {folder}")


def _write(
    data: Survey, shelf: Shelf, stage: Stage, device: str, report: Progress
) -> dict[str, tuple[Volume, ...]]:
    """Write the masks of all scans without one; return the volumes of those that were changed."""
    changed: dict[str, tuple[Volume, ...]] = {}
    total = len(data.unlabeled)
    for done, case in enumerate(data.unlabeled):
        report("masks", done, total, {})
        entry = _entry(data, case, stage.name, stage.run)
        file = shelf.folder / entry.file
        if shelf.is_ours(case, file) and not shelf.holds(case, entry):
            with contextlib.suppress(ChangedMask):  # it stays
                _write_one(data, shelf, stage, case, entry, device)
        if not shelf.is_ours(case, file):
            changed[case] = _volumes_of_changed(case, file, stage.model.card)
    report("masks", total, total, {})
    return changed


def _entry(data: Survey, case: str, stage: str, run: str) -> Entry:
    file = f"{case}{mask_ending(data.files(case)[0])}"
    return Entry(file, stage, run, scan=data.state(case), classes=data.opened.class_names[1:])


def _volumes_of_changed(case: str, file: Path, card: Card) -> tuple[Volume, ...]:
    """Return the volumes in a mask that a person changed; none if its values are of no class."""
    try:
        return tuple(volumes_of_file(case, file, card))
    except InputError:
        return ()


def _write_one(
    data: Survey, shelf: Shelf, stage: Stage, case: str, entry: Entry, device: str
) -> None:
    shelf.begin(case, entry)
    series = str(data.options.get("series", ""))
    paths = {case: data.files(case)}
    with described(stage.model.network) as seen:
        # A person may correct the mask once it is there, while the rest is made, or after a stop.
        (written,) = write_masks(
            *(stage.model, paths, shelf.folder, device),
            series=series,
            preview=True,
            on_mask=shelf.wrote,
        )
    features = as_text(seen.vector())  # before the judge predicts other views
    if written.scan is None or written.found is None:
        raise InputError(written.fault)
    agreement: tuple[dict[str, float], ...] = ()
    if stage.judge is not None:
        image = torch.from_numpy(written.scan.image.array).to(device)
        probs = torch.from_numpy(on_input(written.found, stage.model.card).copy()).to(device)
        agreement = tuple(found.values() for found in stage.judge(image, probs))
    done = replace(entry, volumes=written.volumes, agreement=agreement, features=features)
    shelf.finish(case, done)


def _describe(data: Survey) -> list[str]:
    classes = ", ".join(data.opened.class_names[1:])
    cases = len(data.labeled) + len(data.unlabeled)
    lines = [
        f"Scans: {cases}, {len(data.labeled)} with a mask and {len(data.unlabeled)} without "
        f"(dataset {data.dataset}, classes: {classes})"
    ]
    if not data.whole:
        lines.append(
            "The promptable model stays as it is, since no mask is annotated everywhere: it adapts "
            "to such masks only."
        )
    elif len(data.whole) < len(data.labeled):
        lines.append(
            f"The promptable model adapts to the {len(data.whole)} masks that are annotated "
            "everywhere."
        )
    lines += describe_left_out("not scans", data.unread)
    return lines + [f"Left out: {fault}" for fault in data.left_out]


def _describe_components(card: Card, plan: Plan) -> list[str]:
    if plan.components != "as-labeled" or not card.one_component:
        return []
    names = ", ".join(card.class_names[c] for c in card.one_component)
    return [
        f"A mask keeps the largest component only of: {names}, as each is one component in your "
        "masks. --components all keeps all of them."
    ]


def _describe_plan(data: Survey, plan: Plan, resumes: bool) -> list[str]:
    """Return the lines on a plan; of one that resumes, with the seconds of what is left."""
    patch = "x".join(map(str, plan.patch))
    scans, s = plan.scans, plan.seconds
    parts = [
        ("check the scans and measure, done", s["check"]),
        (f"adapt the promptable model, {plan.adapting} steps", s["adapt"]),
        (f"first masks of {scans} scans", s["first"]),
        (f"train, {plan.iterations} iterations with patches of {patch}", s["train"]),
        (f"masks of {scans} scans, and their trust", s["masks"]),
        (f"adapt and train without each of {len(data.labeled)} masks, for the trust", s["audit"]),
    ]
    if plan.kept:
        lines = [
            f"Plan: the network of an earlier call stays ({plan.iterations} iterations on the same "
            "masks). Add masks, or give a larger --budget, to train again."
        ]
    elif resumes:
        lines = ["What is left of the plan of the call that was stopped:"]
    else:
        lines = [f"Plan, from a few real steps on {plan.device}:"]
    lines += [f"  {spoken_time(seconds):>8}  {text}" for text, seconds in parts if seconds]
    of = "" if resumes else f", of a budget of {spoken_time(plan.budget)}"
    lines.append(f"  {spoken_time(plan.total):>8}  in total{of}")
    if plan.spacing:
        mm = " x ".join(f"{each:g}" for each in plan.spacing)
        lines.append(
            f"Scans are resampled to {mm} mm, and masks back, so that the masks take less of the "
            f"budget. A larger one, or --set {data.dataset}.spacing=MM, keeps them finer."
        )
    if plan.total > 1.05 * plan.budget and not plan.kept:
        lines.append(
            "The shortest training does not fit into this budget, and starts nevertheless. "
            f"--budget {math.ceil(plan.total / 60)}m has room for it."
        )
    return lines
