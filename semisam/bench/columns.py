"""The columns of the comparison table, as every output reads them.

This module imports no pandas, so the help of a command can read it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Column:
    """A column of a table for readers.

    Attributes:
        key: as a user writes it.
        title: in files.
        short: title in the terminal; empty: the terminal has no such column.
        numbers: columns of the comparison behind it; of ``method`` they are those that tell its
            rows apart, and of ``classes`` those of each class.
        form: as LaTeX has it: ``S`` of numbers, ``r`` of numbers with other signs, ``l`` of text.
        metric: column of the comparison whose mean and SD it shows.
        best: the number that is marked at equal labels; empty: no number is marked.
        head: title on the report's page, where it is not the title broken at its first space.
        about: what the help adds to the key.
    """

    key: str
    title: str
    short: str = ""
    numbers: tuple[str, ...] = ()
    form: Literal["S", "r", "l"] = "S"
    metric: str = ""
    best: Literal["max", "min", ""] = ""
    head: str = ""
    about: str = ""

    @property
    def text(self) -> bool:
        """True if it holds no numbers."""
        return self.form == "l"

    @property
    def lines(self) -> list[str]:
        """The lines of its title on the report's page."""
        return (self.head or self.title.replace(" ", "\n", 1)).split("\n")


def _metric(
    key: str, title: str, short: str, metric: str, best: Literal["max", "min"] = "max"
) -> Column:
    return Column(key, title, short, (metric, f"{metric}_sd"), metric=metric, best=best)


_GAIN = ("gain_dice", "gain_low", "gain_high")
_BEST = ("best_bare", "over_best", "over_best_low", "over_best_high")
RANK = ("rank", "rank_low", "rank_high", "rank_first")
"""The rank by Dice, its 95 % interval, and the share of resamples with rank 1."""
_ALL = (
    Column("method", "Method", form="l"),
    Column(
        *("labels", "Labeled/unlabeled", "Lab./\nunl."),
        numbers=("labeled", "unlabeled"),
        head="Labeled/\nunlabeled",
    ),
    Column("runs", "Runs", "Runs", ("runs",)),
    _metric("dice", "Dice [%]", "Dice\n[%]", "dice"),
    _metric("jaccard", "Jaccard [%]", "Jacc.\n[%]", "jaccard"),
    _metric("asd", "ASD [voxel]", "ASD\n[vox]", "asd_voxel", "min"),
    _metric("hd95", "95HD [voxel]", "95HD\n[vox]", "hd95_voxel", "min"),
    Column(
        *("sd", "SD of Dice over cases", "SD over\ncases", ("dice_sd_cases",)), about="over cases"
    ),
    Column("classes", "Dice of each class [%]"),
    Column("empty", "Empty", "Empty", ("empty",)),
    Column("gain", "Gain [Dice]", "Gain\n[Dice]", _GAIN, head="Gain [Dice]\n95 % interval"),
    Column("p", "p (Holm)", "p\n(Holm)", ("gain_p_holm",), "r"),
    Column("best", "Over the best row without SAM", "Over the best\nwithout SAM", _BEST, "l"),
    Column("rank", "Rank", "Rank", RANK, "r"),
)
COLUMNS = {column.key: column for column in _ALL}
"""The columns by the key that a user writes."""


@dataclass(frozen=True)
class TableForm:
    """The form of a table in a file.

    Attributes:
        columns: keys of `COLUMNS`, in this order; empty: those of the format.
        caption: of a float; empty: the protocol and the departures from it.
        label: of a float; a second one gets ``-2`` at its end.
        cite: cite the papers of methods and promptable models.
    """

    columns: tuple[str, ...] = ()
    caption: str = ""
    label: str = ""
    cite: bool = False


def usual(keys: Iterable[str], *, ranked: bool) -> tuple[str, ...]:
    """Return the keys of an output's columns, with the rank if the table is ranked."""
    return tuple(key for key in keys if ranked or key != "rank")


def expanded(keys: Iterable[str], classes: Iterable[str]) -> list[Column]:
    """Return columns by their keys, of ``classes`` the column ``dice:<class>`` of each class."""
    own = [
        Column(f"dice:{name}", f"Dice {name} [%]", numbers=(f"dice:{name}",), best="max")
        for name in dict.fromkeys(classes)
    ]
    return [column for key in keys for column in (own if key == "classes" else [COLUMNS[key]])]
