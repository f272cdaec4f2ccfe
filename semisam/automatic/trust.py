"""Predicted Dice of a mask without a truth, from how well independent masks agree with it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor

from semisam.core.framework import NO_NETWORK
from semisam.core.losses import entropy
from semisam.core.masks import dice
from semisam.core.seeding import derive_seed
from semisam.core.types import IGNORE
from semisam.core.views import strong_view
from semisam.frameworks.copied_mask import CopiedMask
from semisam.frameworks.queries import Queries
from semisam.inference.components import EVERY, OneComponent
from semisam.inference.evaluation import class_map
from semisam.inference.volumes import Volume

SIGNALS = ("model", "first", "view", "back", "entropy")
"""Names of the signals; `Agreement` describes them."""


# benchmarks/trust.py printed these numbers for phantoms; the errors are of runs that were held out.
# On masks of patients this was too high by 0.32 of the log odds for one organ and 0.60 for another.
# The signal "model" has no weight: it only orders the masks.
WEIGHTS = {"first": 1.54, "view": 1.08, "back": 1.49, "entropy": 2.41}
"""Weights of the signals in the log odds of the predicted Dice."""
GENERATED, PATIENTS = -3.00, -0.40
OFFSET = GENERATED + PATIENTS
"""Constants of the log odds: fitted on generated scans, that for patients, and the sum."""
ERRORS = ((0.5, -0.16, 0.23), (0.75, -0.04, 0.21), (1.0, -0.09, 0.07))
"""Upper end of a band of predicted Dice, and the 5th and the 95th percentile of the error there."""

_FAR = 2.5  # times the usual volume
_DISAGREES = {
    "model": (0.4, "the promptable model disagrees"),
    "first": (0.5, "the first mask is elsewhere or empty"),
    "view": (0.8, "it changes with contrast and noise"),
}
"""Signals below this are a reason for distrust."""

_ENOUGH = 8  # masks, among which an unusual one shows
_UNUSUAL = 3 * 1.4826  # median absolute deviations; three standard deviations of a normal number


@dataclass(frozen=True)
class Interval:
    """A predicted Dice in [0, 1], and the interval that holds nine of ten true ones."""

    dice: float
    low: float
    high: float


@dataclass(frozen=True)
class Agreement:
    """The signals of one class of one mask, each in [0, 1]; higher is better.

    Those of an empty mask are all 0.

    Attributes:
        model: Dice with the promptable model's prediction for the mask as a proposal; ``None`` for
            a class that the model is not queried for.
        first: Dice with the mask of another model that saw the same labels.
        view: Dice with the mask of the scan in another contrast, sharpness and noise.
        back: Dice on the labeled scans of this mask, copied onto them as if it were a label; of the
            labeled scan on which it is largest (reverse classification).
        entropy: one minus the mean entropy in the mask, the usual measure.
    """

    model: float | None
    first: float
    view: float
    back: float
    entropy: float

    def values(self) -> dict[str, float]:
        """Return the measured signals by name."""
        found = {name: getattr(self, name) for name in SIGNALS}
        return {name: value for name, value in found.items() if value is not None}


NOTHING = Agreement(0.0, 0.0, 0.0, 0.0, 0.0)
"""The agreement of a class that a mask does not hold."""


@dataclass(frozen=True)
class Correction:
    """The correction of predicted Dice by scans whose true Dice is known.

    Attributes:
        shift: the median of true minus predicted.
        width: half the interval after the shift, which holds nine of ten true ones, or all of them
            if there are fewer than nine.
        pairs: number of true ones.
    """

    shift: float
    width: float
    pairs: int


def correction_of(pairs: Sequence[tuple[float, float]]) -> Correction:
    """Return the correction for pairs of predicted and true Dice, of at least one."""
    errors = [true - predicted for predicted, true in pairs]
    shift = statistics.median(errors)
    apart = sorted(abs(error - shift) for error in errors)
    held = min(math.ceil(0.9 * (len(apart) + 1)), len(apart))
    return Correction(shift, apart[held - 1], len(apart))


def predicted_dice(signals: Mapping[str, float], by: Correction | None = None) -> Interval:
    """Return the predicted Dice of one class of one mask.

    The weights of the signals were chosen on generated scans, and the constant on scans of two
    organs of patients. On other scans it may be off as a whole, so without a correction trust the
    order of many masks, by `ranked_dice`, more than the values.

    Args:
        signals: as of `Agreement.values`.
        by: the correction by scans of the same kind.
    """
    odds = OFFSET + sum(weight * signals[name] for name, weight in WEIGHTS.items())
    dice = 1 / (1 + math.exp(-odds))
    below, above = next((low, high) for end, low, high in ERRORS if dice <= end)
    if by is not None:
        dice, below, above = dice + by.shift, -by.width, by.width
    return Interval(*(min(max(x, 0.0), 1.0) for x in (dice, dice + below, dice + above)))


def ranked_dice(
    masks: Sequence[Mapping[str, float]], by: Correction | None = None
) -> list[Interval]:
    """Return the predicted Dice of one class in all masks of a model.

    They are those of `predicted_dice`, dealt out again: the largest goes to the mask whose signals
    have the largest mean rank. Among masks of one model this order is nearer to the true one than
    that of the map (benchmarks/trust.py), which was made to tell good models from bad ones.

    Args:
        masks: the signals of each mask, as of `Agreement.values`.
        by: the correction by scans of the same kind.

    Example:
        >>> signals = [dict.fromkeys(SIGNALS, x) for x in (0.9, 0.7, 0.8)]
        >>> [round(interval.dice, 2) for interval in ranked_dice(signals)]
        [0.92, 0.76, 0.86]
    """
    if not masks:
        return []
    found = sorted((predicted_dice(signals, by) for signals in masks), key=lambda one: one.dice)
    measured = [name for name in SIGNALS if all(name in signals for signals in masks)]
    ranks = [rankdata([signals[name] for signals in masks]) for name in measured]
    order = np.argsort(np.sum(ranks, axis=0), kind="stable")
    dealt = dict(zip(order.tolist(), found, strict=True))
    return [dealt[at] for at in range(len(masks))]


def reasons_for_distrust(
    sizes: Sequence[Volume],
    others: Sequence[Sequence[Volume]],
    agreement: Sequence[Mapping[str, float]],
    agreements: Sequence[Sequence[Mapping[str, float]]] = (),
    known: Sequence[bool] = (),
) -> tuple[str, ...]:
    """Return the reasons to look at a mask, one text per class, which may be empty.

    Args:
        sizes: of the mask's classes.
        others: of all masks.
        agreement: the signals of each class; empty if they were not measured.
        agreements: of all masks. Among eight or more, a signal is a reason, too, where it is three
            standard deviations, estimated from the median absolute one, below the median.
        known: for each class, whether a mask of the user holds it; else it is rightly nowhere.
            Empty: all are.
    """
    found = []
    for at, size in enumerate(sizes):
        reasons = []
        usual = statistics.median(other[at].size for other in others)
        if not size.voxels:
            if not known or known[at]:
                reasons.append("nothing was found")
        elif usual and not 1 / _FAR <= size.size / usual <= _FAR:
            reasons.append(f"its volume is far from the usual {usual:.1f} {size.unit}")
        for name, (least, text) in _DISAGREES.items() if agreement and size.voxels else ():
            if name not in agreement[at]:
                continue
            value = agreement[at][name]
            others_of = (signal[at] for signal in agreements if signal)
            signals = np.array([one.get(name, 0.0) for one in others_of if any(one.values())])
            if value < least:
                reasons.append(f"{text} (Dice {100 * value:.0f})")
            elif len(signals) >= _ENOUGH and value < _lowest_usual(signals):
                middle = 100 * float(np.median(signals))
                reasons.append(f"{text} more than usual (Dice {100 * value:.0f}, not {middle:.0f})")
        found.append("; ".join(reasons))
    return tuple(found)


def _lowest_usual(signals: NDArray[np.float64]) -> float:
    middle = np.median(signals)
    return float(middle - _UNUSUAL * np.median(np.abs(signals - middle)))


class Judge:
    """A measure of how well independent masks agree with a trained method's mask.

    Args:
        queries: of the promptable model.
        classes: for which it is queried.
        first: maps whole images ``(1, C, *S)`` to probabilities ``(1, K, *S)``, by other means.
        predict: returns the trained method's probabilities ``(K, *S)`` of an image ``(C, *S)``.
        labeled: images ``(C, *S)`` and labels ``(*S)``.
        one_component: classes of which a mask keeps one component.
    """

    def __init__(
        self,
        queries: Queries,
        classes: Sequence[int],
        first: Callable[[Tensor], Tensor],
        predict: Callable[[Tensor], Tensor],
        labeled: Sequence[tuple[Tensor, Tensor]],
        one_component: OneComponent = EVERY,
    ) -> None:
        self.queries, self.classes = queries, tuple(classes)
        self.first, self.predict = first, predict
        self.labeled, self.one_component = labeled, one_component

    @torch.no_grad()
    def __call__(self, image: Tensor, probs: Tensor) -> list[Agreement]:
        """Return the agreement of each foreground class.

        Args:
            image: ``(C, *S)``.
            probs: ``(K, *S)``, the trained method's probabilities.
        """
        mask = self._mask(probs)
        prompted = self._mask(self.queries.of_maps(image[None], probs[None], self.classes)[0])
        first = self._mask(self.first(image[None])[0])
        seen = self._mask(self.predict(_view(image)))
        backs = self._backs(image, mask, len(probs))
        unsure = entropy(probs[None])[0, 0]
        found = []
        for k in range(1, len(probs)):
            inside = mask == k
            if not bool(inside.any()):
                # That other masks are empty, too, is no sign that nothing is there.
                found.append(NOTHING)
                continue
            found.append(
                Agreement(
                    dice(inside, prompted == k) if k in self.classes else None,
                    dice(inside, first == k),
                    dice(inside, seen == k),
                    backs[k],
                    1 - float(unsure[inside].mean()),
                )
            )
        return found

    def _mask(self, probs: Tensor) -> Tensor:
        """Return the classes ``(*S)`` of probabilities ``(K, *S)``, as a mask is written."""
        found = class_map(probs.float().cpu().numpy(), None, self.one_component)
        return torch.from_numpy(found).long().to(probs.device)

    def _backs(self, image: Tensor, mask: Tensor, num_classes: int) -> dict[int, float]:
        """Return by class the largest Dice of a copied mask on the labeled scans."""
        copier = CopiedMask(NO_NETWORK, num_classes)
        copier.learn([(image, mask)])
        found = dict.fromkeys(range(1, num_classes), 0.0)
        for other, label in self.labeled:
            copied = copier(other[None])[0].argmax(0)
            known = label != IGNORE
            for k in found:
                if bool((label == k).any()):
                    found[k] = max(found[k], dice((copied == k) & known, label == k))
        return found


def _view(image: Tensor) -> Tensor:
    """Return one strong view, the same for equal images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(0, "trust"))
        return strong_view(image[None])[0]
