"""The choice of the test cases to show, by a stated rule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from semisam.bench.comparing import paired
from semisam.bench.report.runs import Bench, Part, Row

RULE = (
    "Pairs of a method without and with SemiSAM are shown in the table's order, one pair of each "
    "number of labels (fewest first), then the next pair of each. A pair is shown by its runs of "
    "the lowest seed on the lowest labeled subset. Their test cases are the one with the median "
    "Dice with SemiSAM (of an even number, the lower one), the largest gain, and the largest loss "
    "or, without losses, the smallest gain."
)
RULE_ALONE = (
    "Of a method without a run with SemiSAM, the test cases with the median, the highest and the "
    "lowest Dice are shown."
)


@dataclass(frozen=True)
class Shown:
    """A test case to show.

    Attributes:
        case: its name.
        why: reasons of the choice, e.g. ``["median"]``.
        bare: the row without SemiSAM, or the only one.
        wrapped: the row with SemiSAM.
        runs: identities of the runs shown, of ``bare`` and ``wrapped``.
    """

    case: str
    why: list[str]
    bare: Row
    wrapped: Row | None
    runs: list[str]


def choose(bench: Bench, part: Part, most: int) -> list[Shown]:
    """Return the test cases to show, by `RULE`, at most ``most``."""
    by_labels: dict[int, list[tuple[Row, Row | None]]] = {}
    for bare, wrapped in _pairs(part):
        by_labels.setdefault(bare.labels, []).append((bare, wrapped))
    columns = [by_labels[n] for n in sorted(by_labels)]
    turns = max(map(len, columns), default=0)
    chosen: list[Shown] = []
    for turn in range(turns):
        for column in columns:
            if turn < len(column):
                chosen += _cases_of(bench, *column[turn])
    return chosen[:most]


def _pairs(part: Part) -> Iterator[tuple[Row, Row | None]]:
    """Yield the pairs of a part or, if it has no pair, its single rows."""
    pairs = [(part.rows[r.bare], r) for r in part.rows if r.bare is not None]
    if pairs:
        yield from pairs
    else:
        yield from ((row, None) for row in part.rows)


def _cases_of(bench: Bench, bare: Row, wrapped: Row | None) -> list[Shown]:
    order = ["subset", "seed"]
    first = bare.runs.sort_values(order)
    runs = [str(first["run"].iloc[0])]
    if wrapped is not None:
        both = paired(wrapped.runs, bare.runs).sort_values(order)
        if both.empty:
            return []
        runs = [str(both["run_bare"].iloc[0]), str(both["run"].iloc[0])]
    scores = [_dice(bench, run) for run in runs]
    names = scores[0].index
    if wrapped is not None:
        names = names.intersection(scores[1].index, sort=False)
    if names.empty:
        return []
    last = scores[-1][names].sort_values(kind="stable")
    median = str(last.index[(len(last) - 1) // 2])
    why = {median: ["median Dice" + (" with SemiSAM" if wrapped is not None else "")]}
    if wrapped is None:
        extremes = {"highest Dice": last.index[-1], "lowest Dice": last.index[0]}
    else:
        gain = scores[1][names] - scores[0][names]
        least = "largest loss" if gain.min() < 0 else "smallest gain"
        most = "largest gain" if gain.max() > 0 else "smallest loss"
        extremes = {most: gain.idxmax(), least: gain.idxmin()}
    for reason, case in extremes.items():
        why.setdefault(str(case), []).append(reason)
    return [Shown(case, reasons, bare, wrapped, runs) for case, reasons in why.items()]


def _dice(bench: Bench, run: str) -> pd.Series[float]:
    chosen = bench.cases[bench.cases["run"] == run]
    return chosen.drop_duplicates("case").set_index("case")["dice"]


def recorded(bench: Bench, shown: Shown) -> Sequence[float]:
    """Return the Dice that the runs recorded for a case, in percent."""
    return [100.0 * float(_dice(bench, run)[shown.case]) for run in shown.runs]
