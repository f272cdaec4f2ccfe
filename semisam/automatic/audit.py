"""The predicted Dice, checked and corrected on labeled scans that a training did not see."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import torch

from semisam.automatic.judge import make_judge
from semisam.automatic.plan import Plan, final_run, first_run
from semisam.automatic.survey import Survey
from semisam.automatic.trust import Correction, correction_of, predicted_dice
from semisam.core.layout import CASES
from semisam.inference.predictor import on_input, read_scan, segment
from semisam.run.build import cases_of, split_of
from semisam.run.execute import Progress, execute
from semisam.run.model import load_model

FEWEST = 3
"""Labeled scans that an audit must have."""


def leave_one_out(data: Survey, plan: Plan, folder: Path, report: Progress) -> Correction:
    """Train once without each labeled scan, and correct the predicted Dice by the true ones.

    Args:
        data: the cases, of which at least `FEWEST` have a mask.
        plan: of the runs.
        folder: of masks, which receives the runs.
        report: called with the progress of each run.
    """
    pairs = [pair for case in data.labeled for pair in _without(data, plan, case, folder, report)]
    return correction_of(pairs)


def _without(
    data: Survey, plan: Plan, case: str, folder: Path, report: Progress
) -> list[tuple[float, float]]:
    """Return the predicted and the true Dice of each class of a case that no run saw."""
    early, late = (plan.without(folder, stage, case) for stage in ("first", "final"))
    execute(first_run(data, plan, case), early, report)
    settings = final_run(data, plan, early, case)
    execute(settings, late, report)
    with (late / CASES).open(newline="", encoding="utf-8") as file:
        true = [(float(row["dice"]), _nowhere(row)) for row in csv.DictReader(file)]
    model, device = load_model(late, plan.device), plan.device
    labeled = cases_of(settings, data.opened, split_of(settings, data.opened)).labeled
    judge = make_judge(settings, model, load_model(early, device), data.opened, labeled)
    scan = read_scan(data.files(case), model.card, str(data.options.get("series", "")))
    probs = torch.from_numpy(on_input(segment(model, scan, device), model.card).copy())
    signals = judge(torch.from_numpy(scan.image.array).to(device), probs.to(device))
    return [
        (predicted_dice(s.values()).dice, dice)
        for s, (dice, nowhere) in zip(signals, true, strict=True)
        if not nowhere
    ]


def _nowhere(row: Mapping[str, str]) -> bool:
    """Return whether a class is rightly nowhere: its Dice is 1 without a mask to predict it of.

    In a label that is annotated in part, that part only counts.
    """
    return row["empty_prediction"] == row["empty_reference"] == "True"
