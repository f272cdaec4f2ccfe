"""The decoder of a promptable model, adapted to labeled scans by simulated prompts.

The image encoder stays as it is, so each image is encoded once, and a step costs little.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional

from semisam.core.ema import move_average
from semisam.core.errors import InputError
from semisam.core.files import check_digest, replace_file
from semisam.core.optimizers import AdamW
from semisam.core.regions import deepest_points
from semisam.core.schedules import rise_and_fall
from semisam.core.types import IGNORE, Clock, Prompt
from semisam.core.warping import draw_places, sample

_QUERIES = 2  # per step
_RATE, _DECAY = 1e-4, 0.98
_MOST_CLICKS = 3
_TRIES = 10

Seen = TypeVar("Seen")
Bools = NDArray[np.bool_]
Case = tuple[Tensor, Tensor]
"""An image ``(C, *S)`` and its label ``(*S)`` of classes."""


def organs_in(cases: Sequence[Case]) -> list[tuple[Tensor, Bools]]:
    """Return each case's image with the mask ``(*S)`` of each of its classes.

    Raises:
        InputError: no case has a voxel of a class.
    """
    found = [
        (image, (label == k).numpy())
        for image, label in cases
        for k in torch.unique(label).tolist()
        if k not in (0, IGNORE)
    ]
    if not found:
        raise InputError("cases for --sam-adapt must have foreground, got none. Use --sam-adapt 0.")
    return found


def adapt_decoder(
    parts: Sequence[nn.Module],
    seen: Sequence[tuple[Seen, Bools]],
    kinds: Collection[str],
    predict: Callable[[Seen, Prompt], Tensor],
    file: Path,
    *,
    steps: int,
    seed: int,
    on_step: Callable[[int], None],
) -> None:
    """Train parts of a model on labeled images, and write the moving average of their weights.

    Args:
        parts: the modules to train, frozen before and after.
        seen: encoded images, each with the mask ``(*S)`` of an organ in it.
        kinds: of prompt that the model accepts.
        predict: returns the logits ``(*S)`` of an encoded image and a prompt, differentiably.
        file: to write; a function of the arguments.
        steps: of the optimizer, each with two prompts.
        seed: of the prompts.
        on_step: called with the number of finished steps.
    """

    def query(rng: np.random.Generator) -> Tensor:
        image, mask = seen[int(rng.integers(len(seen)))]
        return _loss(predict(image, draw_prompt(mask, kinds, rng)), torch.from_numpy(mask))

    weights = [weight for part in parts for weight in part.parameters()]
    average = [weight.detach().clone() for weight in weights]
    optimizer = AdamW(weights, _RATE, betas=(0.9, 0.99), weight_decay=0.02)
    for weight in weights:
        weight.requires_grad_(True)
    with torch.enable_grad():
        for step in range(steps):
            rng = np.random.default_rng([seed, step])
            losses = [query(rng) for _ in range(_QUERIES)]
            optimizer.param_groups[0]["lr"] = rise_and_fall(Clock(step, steps), _RATE)
            optimizer.zero_grad(set_to_none=True)
            torch.stack(losses).mean().backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            move_average(average, [weight.detach() for weight in weights], step, _DECAY)
            on_step(step + 1)
    for weight, mean in zip(weights, average, strict=True):
        weight.requires_grad_(False).copy_(mean)
        weight.grad = None
    save_decoder(file, parts, f"{steps} steps, seed {seed}")


def _loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Return cross entropy plus Dice loss."""
    truth = truth.to(logits)
    prob = logits.sigmoid()
    dice = 2 * (prob * truth).sum() / (prob.sum() + truth.sum()).clamp(min=1.0)
    return functional.binary_cross_entropy_with_logits(logits, truth) + 1 - dice


def draw_prompt(mask: Bools, kinds: Collection[str], rng: np.random.Generator) -> Prompt:
    """Draw the prompt of a network that proposes about the right mask.

    The proposal is the mask, zoomed, turned a little and bent. The prompt is its deepest points, or
    its box, or the proposal itself with or without points, by what the model accepts.

    Args:
        mask: ``(*S)`` with at least one voxel set.
        kinds: that the model accepts, of ``{"points", "box", "mask"}``.
        rng: the random numbers.
    """
    proposal = _propose(mask, rng)
    ways = [{kind} for kind in sorted(kinds)]
    if {"points", "mask"} <= set(kinds):
        ways.append({"points", "mask"})
    way = ways[int(rng.integers(len(ways)))]
    points = labels = box = coarse = None
    if "points" in way:
        count = int(rng.integers(1, _MOST_CLICKS + 1))
        points = deepest_points(torch.from_numpy(proposal), count)
        labels = torch.ones(len(points), dtype=torch.int64)
    if "box" in way:
        inside = np.argwhere(proposal)
        box = torch.from_numpy(np.stack([inside.min(0), inside.max(0) + 1]))
    if "mask" in way:
        coarse = torch.from_numpy(proposal.astype(np.float32))
    return Prompt(points=points, labels=labels, box=box, mask=coarse)


def _propose(mask: Bools, rng: np.random.Generator) -> Bools:
    """Return a bent form of a mask with a voxel set, or the mask itself."""
    inside = np.argwhere(mask)
    low, high = inside.min(0), inside.max(0) + 1
    low = np.maximum(low - (high - low) // 4 - 1, 0)
    high = np.minimum(high + (high - low) // 4 + 1, mask.shape)
    window = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    part = mask[window]
    middle = np.reshape((np.array(part.shape) - 1) / 2, (-1, *[1] * mask.ndim))
    for _ in range(_TRIES):
        places = (draw_places(part.shape, rng) + middle).astype(np.float32)
        bent = sample(part[None], places, label=True)[0]
        if bent.any():
            proposal = np.zeros_like(mask)
            proposal[window] = bent
            return proposal
    return mask


def save_decoder(file: Path, parts: Sequence[nn.Module], about: str) -> None:
    """Write the weights of parts as safetensors, atomically."""
    halves = {name: value.cpu().half().contiguous() for name, value in _named(parts).items()}
    with replace_file(file) as temporary:
        temporary.write_bytes(save(halves, {"adapted": about}))


@torch.no_grad()
def load_decoder(file: Path, parts: Sequence[nn.Module]) -> None:
    """Replace the weights of parts by those of a file that `save_decoder` wrote.

    Raises:
        InputError: the file is missing, damaged or of another model.
    """
    try:
        check_digest(file)
        found = load_file(str(file))
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(
            f"weights must be a safetensors file of an adapted model, got {file} ({error}). Adapt "
            "the model again."
        ) from error
    weights = _named(parts)
    if {k: v.shape for k, v in found.items()} != {k: v.shape for k, v in weights.items()}:
        raise InputError(
            f"weights must be of the same model that was adapted, got {file}, which has other "
            "layers. Choose the backend and the checkpoint that it was adapted from."
        )
    for name, value in found.items():
        weights[name].copy_(value)


def _named(parts: Sequence[nn.Module]) -> Mapping[str, Tensor]:
    return {
        f"{number}.{name}": value.detach()
        for number, part in enumerate(parts)
        for name, value in part.named_parameters()
    }
