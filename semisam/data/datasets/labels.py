"""The classes that the values of label files stand for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semisam.core.errors import InputError, first_few
from semisam.core.types import IGNORE
from semisam.data.datasets.dataset import Dataset
from semisam.data.datasets.faults import Fault

_LARGEST = 65535
_SHOWN = 8  # values that a message names


@dataclass(frozen=True)
class LabelValues:
    """The class of each value in label files.

    A value that is not named has its own number as class. There are two exceptions: 0 stays
    background, and a value whose number another value is mapped to must be named too. So no value
    joins a class without the user's word.

    Attributes:
        dataset: name of the dataset plugin, for messages.
        class_names: names of the classes, background first.
        mapping: classes by value; several values of one class are a region.
        ignored: values of voxels that nobody annotated.

    Raises:
        InputError: a class does not exist, or a value is both mapped and ignored.
    """

    dataset: str
    class_names: tuple[str, ...]
    mapping: Mapping[int, int] = field(default_factory=dict)
    ignored: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        last = len(self.class_names) - 1
        twice = [name for name in self.class_names if self.class_names.count(name) > 1]
        if twice:
            raise InputError(
                f"names of classes must differ, got {twice[0]} twice. Rename one, or merge the two "
                f"with --set {self.dataset}.labels."
            )
        if last >= IGNORE:
            raise InputError(f"classes must be at most {IGNORE - 1}, got {last}. Merge some.")
        for value, number in self.mapping.items():
            if not 0 <= number <= last:
                raise InputError(
                    f"labels must map values to the classes 0 to {last} "
                    f"({', '.join(self.class_names)}), got {value}={number}. Name more classes "
                    "with the option classes, or correct the number."
                )
            if value in self.ignored:
                raise InputError(
                    f"a label's value must be either mapped or ignored, got {value} in both labels "
                    "and ignore. Remove it from one of them."
                )

    def class_of(self, value: int) -> int | None:
        """Return the class of a value, `IGNORE`, or ``None`` for an unknown value."""
        if value in self.ignored:
            return IGNORE
        if value in self.mapping or value == 0:
            return self.mapping.get(value, 0)
        own = 0 < value < len(self.class_names) and value not in self.mapping.values()
        return value if own else None

    def own_values(self) -> tuple[int, ...] | None:
        """Return the value that label files hold for each class; ``None``: the class numbers.

        Of a region it is the least value.
        """
        found = []
        for number in range(len(self.class_names)):
            values = [value for value, mapped in self.mapping.items() if mapped == number]
            kept = number in values or self.class_of(number) == number
            found.append(number if kept or not values else min(values))
        return None if found == list(range(len(found))) else tuple(found)

    def count_classes(self, counts: Mapping[int, int]) -> dict[int, int]:
        """Return voxels by class from voxels by value, without ignored ones; unknown ones stay."""
        found: dict[int, int] = {}
        for value, count in counts.items():
            number = self.class_of(value)
            if number == IGNORE:
                continue
            key = value if number is None else number
            found[key] = found.get(key, 0) + count
        return found

    def classes(self, array: NDArray[Any], source: str) -> NDArray[np.uint8]:
        """Return the classes ``(*S)`` of a label's values, with `IGNORE` where nobody annotated.

        Args:
            array: ``(*S)`` as in the file.
            source: the file's name for the message.

        Raises:
            InputError: a value is not whole or has no class. The message proposes a mapping.
        """
        counts = count_values(array, source)
        fault = self.fault({source: counts})
        if fault:
            raise InputError(str(fault))
        low = min(counts)
        table = np.zeros(max(counts) - low + 1, np.uint8)
        for value in counts:
            table[value - low] = self.class_of(value) or 0
        found: NDArray[np.uint8] = table[array.astype(np.int32) - low]
        return found

    def fault(self, labels: Mapping[str, Mapping[int, int]]) -> Fault | None:
        """Return one fault for all values without a class, with a proposal.

        Args:
            labels: voxels by value, by the label's file.
        """
        wrong = {name: self._unknown(counts) for name, counts in labels.items()}
        wrong = {name: values for name, values in wrong.items() if values}
        if not wrong:
            return None
        present = sorted({value for counts in labels.values() for value in counts})
        unknown = self._unknown(present)
        names = ", ".join(self.class_names)
        problem = (
            f"a label must hold the classes 0 to {len(self.class_names) - 1} ({names}), got "
            f"{_listed(unknown)}"
        )
        problem += f" in {len(wrong)} labels" if len(wrong) > 1 else ""
        others = {v for name, counts in labels.items() if name not in wrong for v in counts}
        usual = sorted(value for value in others | set(self.mapping) if self.class_of(value) == 1)
        if len(self.class_names) == 2 and usual:
            problem += f": some masks use {_listed(usual)}, this one uses {_listed(unknown)}"
        return Fault(next(iter(wrong)), problem, self._remedy(unknown, present))

    def _unknown(self, values: Iterable[int]) -> list[int]:
        return sorted(value for value in values if self.class_of(value) is None)

    def _remedy(self, unknown: list[int], present: list[int]) -> str:
        """Return the advice, with the option for values that this many classes can take."""
        last = len(self.class_names) - 1
        option, more = f"--set {self.dataset}.labels=", "name more classes with classes.list or "
        more += f"--set {self.dataset}.classes"
        if len(unknown) > _SHOWN:
            return (
                f"map them with {option}VALUE=CLASS,VALUE=CLASS, or {more}. If edges were smoothed "
                "or compressed, save the masks again without"
            )
        if 0 not in present and not self.mapping and len(present) == last + 1:
            ascending = {value: number for number, value in enumerate(present)}
            return (
                f"map them with {option}{_pairs(ascending)}, if {present[0]} is the background, "
                f"which no label holds as 0, or {more}"
            )
        pairs = dict(self.mapping)
        taken = {self.class_of(value) for value in present} | set(pairs.values())
        pairs |= {value: value for value in unknown if 0 < value <= last}
        free = [k for k in range(1, last + 1) if k not in taken | set(pairs)]
        rest = [value for value in unknown if value not in pairs]
        left_out = f"leave such voxels out with --set {self.dataset}.ignore={_joined(rest)}"
        if len(rest) > len(free):  # a merge, for which the last class must be named too
            free += [last] * (len(rest) - len(free))
            pairs |= {last: last} if last in present else {}
            pairs |= dict(zip(rest, free, strict=False))
            return f"merge them with {option}{_pairs(pairs)}, {left_out}, or {more}"
        pairs |= dict(zip(rest, free, strict=False))
        either = f", or {left_out}" if rest else ""
        numbers = {value: pairs.get(value, self.class_of(value)) for value in present}
        organs = [value for value, number in numbers.items() if number not in (0, IGNORE)]
        if not self.mapping and len(organs) == last:  # the order of the names is that of the values
            ascending = dict(zip(organs, range(1, last + 1), strict=True))
            pairs = pairs if numbers | ascending == numbers else ascending
        elif not self.mapping and len(unknown) > 1:
            return (
                f"map each to its class, for example with {option}{_pairs(pairs)}{either}. Check "
                "which class each value is"
            )
        return f"map them with {option}{_pairs(pairs)}{either}"


def classes_in(label: NDArray[np.uint8]) -> frozenset[int]:
    """Return the foreground classes that a label ``(*S)`` holds."""
    return frozenset(np.flatnonzero(np.bincount(label.ravel())).tolist()) - {0, IGNORE}


def is_partial(label: NDArray[np.uint8]) -> bool:
    """Return whether a label has voxels that nobody annotated."""
    return bool((label == IGNORE).any())


def is_inverted(label: NDArray[np.uint8]) -> bool:
    """Return whether most of a label ``(*S)``, and of its border, is foreground.

    Example:
        >>> is_inverted(np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], np.uint8))
        True
    """
    foreground = (label != 0) & (label != IGNORE)
    inner = foreground[tuple(slice(1, -1) if n > 2 else slice(None) for n in label.shape)]
    border = foreground.size - inner.size
    inside, whole = int(inner.sum()), int(foreground.sum())
    return bool(2 * whole > foreground.size and 2 * (whole - inside) > border)


def class_notes(
    names: Sequence[str],
    held: Iterable[Collection[int]],
    lost: Mapping[str, Collection[int]],
    inverted: Collection[bool] = (),
) -> list[str]:
    """Return sentences on classes that a training cannot learn, or sees in fewer labels.

    Args:
        names: of the classes, background first.
        held: the classes in each label.
        lost: by case, the classes of its label that have no voxel at the training spacing.
        inverted: of each label, whether it `is_inverted`.
    """
    found = {number for numbers in held for number in numbers}
    gone = {k: [case for case in lost if k in lost[case]] for k in range(1, len(names))}
    notes = [
        f"No label holds {names[k]}, so it will be found nowhere. Label a scan that shows it."
        for k in range(1, len(names))
        if k not in found and not gone[k]
    ]
    for k, cases in gone.items():
        if cases:
            notes.append(
                f"{names[k]} has no voxel at the training spacing in the label of "
                f"{first_few(cases)}. Choose a finer spacing."
            )
    if inverted and all(inverted):
        notes.append(
            "Most of every label, and of its border, is foreground. If object and background are "
            "exchanged, map them, for example with --set images.labels=255=0,0=1."
        )
    return notes


def as_drawn(
    labelmap: NDArray[np.uint8], own_values: tuple[int, ...] | None
) -> NDArray[np.integer]:
    """Return a label map of class numbers with the values of the user's label files.

    Args:
        labelmap: ``(*S)``.
        own_values: of the classes, background first; ``None``: the class numbers.
    """
    if own_values is None:
        return labelmap
    values: NDArray[np.integer] = np.asarray(own_values, np.int32)[labelmap]
    return values


def own_values_of(raw: Any, classes: int) -> tuple[int, ...] | None:
    """Read `LabelValues.own_values` from JSON; a file without them holds class numbers.

    Raises:
        TypeError, ValueError: they are not one value per class.
    """
    if raw is None:
        return None
    values = tuple(int(value) for value in raw)
    if len(values) != classes or max(map(abs, values)) > _LARGEST:
        raise ValueError(f"label_values must be {classes} values of labels")
    return values


def count_values(array: NDArray[Any], source: str) -> dict[int, int]:
    """Return the voxels of each value in a label ``(*S)``, in ascending order.

    Args:
        array: of any real type.
        source: the file's name for the message.

    Raises:
        InputError: a value is not a whole number, or far from every class.
    """
    low, high = float(array.min()), float(array.max())
    if not (low >= -_LARGEST and high <= _LARGEST):
        outside = array[~(np.abs(array) <= _LARGEST)]
        raise _not_whole(outside.flat[0], source)
    whole = array.astype(np.int32)
    different = whole != array
    if different.any():
        raise _not_whole(array[different].flat[0], source)
    counts = np.bincount((whole - int(low)).ravel())
    return {int(at) + int(low): int(counts[at]) for at in np.flatnonzero(counts)}


def _not_whole(value: Any, source: str) -> InputError:
    return InputError(
        f"{source}: a label must hold integers from -{_LARGEST} to {_LARGEST}, got {value}. Write "
        "the class numbers as the label."
    )


def _listed(values: list[int]) -> str:
    shown = ", ".join(map(str, values[:_SHOWN]))
    return shown if len(values) <= _SHOWN else f"{shown}, ... ({len(values)} values)"


def _joined(values: list[int]) -> str:
    return ",".join(map(str, values))


def _pairs(pairs: Mapping[int, int]) -> str:
    return ",".join(f"{value}={pairs[value]}" for value in sorted(pairs))


def meaning_of(dataset: Dataset) -> list[str]:
    """Return the names of a dataset's classes, and the classes of the values in its labels."""
    values = getattr(dataset, "values", None)
    mapped = repr(values) if isinstance(values, LabelValues) else str(dataset.label_values)
    return [*dataset.class_names, mapped]
