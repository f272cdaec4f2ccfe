"""SynthSAM's network, adapted to labeled scans by simulated users."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semisam.backends._decoder import organs_in
from semisam.backends._synthsam.session import Session, encode, hold_dialogues
from semisam.core.ema import move_average
from semisam.core.optimizers import AdamW
from semisam.core.schedules import rise_and_fall
from semisam.core.seeding import derive_seed
from semisam.core.types import Clock
from semisam.core.views import strong_view
from semisam.core.warping import draw_places, sample
from semisam.networks._synthsam import STRIDE, SynthSAMNet, to_subvoxels
from semisam.networks.convolution import guard_convolutions

_CROPS = 2  # per step
_CROP = {2: (160, 160), 3: (64, 64, 48)}
_LEAST = 8  # voxels of a crop per axis
_RATE, _DECAY = 2e-4, 0.98
_WIDE = 1.4  # extent of some crops along each axis
_SMALLEST = 0.003  # fraction of a crop that is target
_TRIES = 20
_ROUNDS, _CHANCES = (1, 2, 3, 4), (0.15, 0.25, 0.25, 0.35)


class Organ(NamedTuple):
    """One class of one labeled scan.

    Attributes:
        image: ``(*S)``.
        mask: ``(*S)`` bool.
        inside: flat indices of the mask's voxels, at least one.
    """

    image: Tensor
    mask: Tensor
    inside: NDArray[np.int64]


def organs_of(cases: Sequence[tuple[Tensor, Tensor]]) -> list[Organ]:
    """Return the organs of images ``(*S)`` with their labels ``(*S)`` of classes.

    Raises:
        InputError: no case has a voxel of a class.
    """
    return [
        Organ(image, torch.from_numpy(mask), np.flatnonzero(mask))
        for image, mask in organs_in(cases)
    ]


def adapt(
    net: SynthSAMNet,
    organs: Sequence[Organ],
    steps: int,
    seed: int,
    on_step: Callable[[int], None],
) -> dict[str, Tensor]:
    """Adapt a network to organs and return its averaged weights, a function of the arguments.

    Users click on an organ in a crop, draw its box or propose a mask, and correct the predictions,
    as in the pretraining. Crops are zoomed, turned and bent, and seen in strong views.

    Args:
        net: the network, which is changed.
        organs: at least one.
        steps: of the optimizer.
        seed: of crops, views and users.
        on_step: called with the number of finished steps.
    """
    net.train().requires_grad_(True)
    guard_convolutions(net)
    device = net.stem.weight.device
    size = _crop_size(organs)
    average = {name: value.detach().clone() for name, value in net.state_dict().items()}
    optimizer = AdamW(net.parameters(), _RATE, betas=(0.9, 0.99), weight_decay=0.02)
    for step in range(steps):
        rng = np.random.default_rng([seed, step])
        users = [np.random.default_rng([seed, step, n]) for n in range(_CROPS)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "adapt", step))
            crops = [draw_crop(organs, size, rng) for _ in range(_CROPS)]
        sessions = [Session(*crop, user) for crop, user in zip(crops, users, strict=True)]
        images = torch.stack([image for image, _ in crops])[:, None].to(device)
        target = to_subvoxels(torch.stack([mask for _, mask in crops])[:, None].float())
        rounds = int(rng.choice(_ROUNDS, p=_CHANCES))
        learned = {rounds - 1, int(rng.integers(rounds))}
        features = encode(net, images)
        losses = hold_dialogues(net, features, target.to(device), sessions, rounds, learned, rng)
        optimizer.param_groups[0]["lr"] = rise_and_fall(Clock(step, steps), _RATE)
        optimizer.zero_grad(set_to_none=True)
        torch.stack(losses).mean().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        move_average(list(average.values()), list(net.state_dict().values()), step, _DECAY)
        on_step(step + 1)
    return average


def _crop_size(organs: Sequence[Organ]) -> tuple[int, ...]:
    """Return the voxels of a crop per axis, even, and fewer where a scan is smaller."""
    sizes = zip(_CROP[organs[0].mask.ndim], *(organ.mask.shape for organ in organs), strict=True)
    return tuple(max(min(axis) // STRIDE * STRIDE, _LEAST) for axis in sizes)


def draw_crop(
    organs: Sequence[Organ], size: tuple[int, ...], rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Draw a crop that holds some of an organ, zoomed, turned a little and bent.

    Args:
        organs: at least one.
        size: of the crop, in voxels.
        rng: of organ and places; torch draws the view.

    Returns:
        A strong view of zero mean and unit deviation, and the organ's mask, both of ``size``.
    """
    organ = organs[int(rng.integers(len(organs)))]
    wide = _WIDE if rng.random() < 0.3 else 1.0
    for attempt in range(_TRIES):
        places = wide * draw_places(size, rng)
        if attempt == _TRIES - 1:
            centred = [np.arange(n) - (n - 1) / 2 for n in size]
            places = np.stack(np.meshgrid(*centred, indexing="ij"))  # loses no tiny organ
        places = (places + _centre(organ, size, rng)).astype(np.float32)
        mask = sample(organ.mask.numpy()[None], places, label=True)[0]
        if mask.mean() >= _SMALLEST:
            break
    image = torch.from_numpy(sample(organ.image.numpy()[None], places, label=False))
    view = strong_view(image[None])[0, 0]
    return (view - view.mean()) / view.std().clamp(min=1e-6), torch.from_numpy(mask)


def _centre(organ: Organ, size: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw the centre ``(d, 1, ...)`` of a crop that holds a voxel of the organ."""
    shape = tuple(organ.mask.shape)
    voxel = np.unravel_index(organ.inside[rng.integers(len(organ.inside))], shape)
    centre = []
    for at, have, want in zip(voxel, shape, size, strict=True):
        last = max(have - want, 0)
        start = rng.integers(max(0, min(int(at) - want + 1, last)), min(int(at), last) + 1)
        centre.append(float(start) + (min(want, have) - 1) / 2)
    return np.reshape(centre, (-1, *[1] * len(shape)))
