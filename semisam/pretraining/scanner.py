"""The image of a map of structures, with the faults of a scanner."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from semisam.core.axes import GRID_MEANS, LINEAR
from semisam.pretraining.anatomy import AIR, TISSUES
from semisam.pretraining.shapes import Draws


def scan(
    draws: Draws,
    structures: Tensor,
    tissues: Tensor,
    twins: Tensor,
    target: Tensor,
    hard: bool = False,
) -> Tensor:
    """Draw an image ``(*S)`` of a volume.

    Args:
        draws: the random numbers.
        structures: ``(*S)`` int64, the structure at each voxel.
        tissues: ``(N,)`` the tissue of each structure.
        twins: ``(N,)`` the structure whose look each structure has.
        target: ``(N,)`` bool, True for the structures of the target.
        hard: add ringing, motion, low resolution and sharpening.

    Returns:
        The image, of zero mean and unit deviation.
    """
    image = _paint(draws, structures, tissues, twins, target)
    image = _resolve(draws, image)
    if draws.chance(0.7):
        image = image * torch.exp(
            draws.uniform(0.05, 0.35) * draws.smooth(1, tuple(image.shape), 2)[0]
        )
    image = _noise(draws, image)
    if hard:
        image = _spoil(draws, image)
    if draws.chance(0.5):
        low, high = image.aminmax()
        image = ((image - low) / (high - low).clamp(min=1e-6)) ** draws.log_uniform(0.6, 1.7)
    if draws.chance(0.3):  # a window, as for CT
        mean, deviation = float(image.mean()), float(image.std())
        width = deviation * draws.uniform(1.0, 2.5)
        middle = mean + draws.uniform(-0.5, 0.5) * deviation
        image = image.clamp(middle - width, middle + width)
    scaled: Tensor = (image - image.mean()) / image.std().clamp(min=1e-6)
    return scaled


def _paint(
    draws: Draws, structures: Tensor, tissues: Tensor, twins: Tensor, target: Tensor
) -> Tensor:
    """Give each structure a texture and a brightness near that of its tissue."""
    count = len(tissues)
    levels = draws.uniforms(TISSUES)
    if draws.chance(0.8):
        levels[AIR] = 0.0
    wanted = torch.tensor(sorted(set(tissues[target].tolist())))
    others = torch.bincount(tissues[structures].flatten()[::37], minlength=TISSUES) > 0
    others[wanted] = False
    # In most volumes the target differs from the tissues that are not in it. If its own tissue is
    # also outside, that boundary stays hard to see.
    if draws.chance(0.9) and others.any():
        margin = draws.uniform(0.06, 0.25)
        for tissue in wanted.tolist():
            for _ in range(12):
                if bool(((levels[others] - levels[tissue]).abs() > margin).all()):
                    break
                levels[tissue] = draws.uniform(0, 1)
    unlike = 0.0 if draws.chance(0.3) else draws.log_uniform(0.01, 0.12)
    mean = (levels[tissues] + unlike * draws.normals(count))[twins]
    grid = tuple(structures.shape)
    image = mean[structures]
    busy = draws.log_uniform(0.01, 0.12)
    for cells in (draws.uniform(3, 8), draws.uniform(12, 26)):
        strength = (busy * draws.uniforms(count) * draws.uniforms(count))[twins]
        image = image + strength[structures] * draws.smooth(1, grid, cells)[0]
    grain = (busy * draws.uniforms(count) * draws.uniforms(count))[twins]
    return image + grain[structures] * draws.normals(*grid)


def _resolve(draws: Draws, image: Tensor) -> Tensor:
    """Blur by partial volume, the scanner's resolution and thick slices."""
    base = draws.uniform(0.35, 1.1)
    if image.ndim == 2 and draws.chance(0.3):  # out of focus, or edges that fade
        base *= draws.log_uniform(1.5, 5)
    for axis in range(image.ndim):
        image = blurred(image, axis, base * draws.uniform(0.8, 1.25))
    if draws.chance(0.3):
        axis, factor = draws.whole(0, image.ndim - 1), draws.uniform(1.5, 4.0)
        size = list(image.shape)
        size[axis] = max(2, round(size[axis] / factor))
        thick = GRID_MEANS[image.ndim](image[None], tuple(size))[None]
        mode = LINEAR[image.ndim] if draws.chance(0.7) else "nearest"
        image = functional.interpolate(thick, size=tuple(image.shape), mode=mode)[0, 0]
    return image


def _noise(draws: Draws, image: Tensor) -> Tensor:
    """Add Gaussian or Rician noise, white or correlated."""
    if image.ndim == 2 and draws.chance(0.15):  # the speckle of ultrasound
        speckle = blurred(blurred(draws.normals(*image.shape), 0, 0.8), 1, draws.uniform(0.8, 2))
        image = image * torch.exp(draws.uniform(0.5, 2) * speckle)
    sigma = float(image.std()) * draws.log_uniform(0.03, 0.6)
    grain = draws.normals(*image.shape)
    if draws.chance(0.4):
        for axis in range(image.ndim):
            grain = blurred(grain, axis, 0.6)
        grain = grain / grain.std()
    if draws.chance(0.4):
        real, imaginary = image + sigma * grain, sigma * draws.normals(*image.shape)
        magnitude: Tensor = torch.hypot(real, imaginary)
        return magnitude
    return image + sigma * grain


def _spoil(draws: Draws, image: Tensor) -> Tensor:
    """Add ringing, motion, spikes, low resolution or sharpening."""
    if draws.chance(0.45):
        image = _frequencies(draws, image)
    if draws.chance(0.3):
        low = [max(8, round(n / draws.uniform(1.2, 2.2))) for n in image.shape]
        mode = LINEAR[image.ndim]
        small = functional.interpolate(image[None, None], size=low, mode=mode)
        image = functional.interpolate(small, size=tuple(image.shape), mode=mode)[0, 0]
    if draws.chance(0.2):
        soft = image
        for axis in range(image.ndim):
            soft = blurred(soft, axis, 1.0)
        image = image + draws.uniform(0.3, 1.2) * (image - soft)
    return image


def _frequencies(draws: Draws, image: Tensor) -> Tensor:
    """Cut, shift or spike spatial frequencies along one axis, as a scanner samples them."""
    axis, kind = draws.whole(0, image.ndim - 1), draws.uniform(0, 1)
    wave = torch.fft.fft(image, dim=axis)
    n = image.shape[axis]
    rate = torch.fft.fftfreq(n)
    sizes = [n if a == axis else 1 for a in range(image.ndim)]
    if kind < 0.6:  # sharp ends of the spectrum ring at edges
        wave = wave * (rate.abs() <= 0.5 * draws.uniform(0.4, 0.85)).reshape(sizes)
    elif kind < 0.85:  # the patient moved during some of the lines
        moved = (rate.abs() > draws.uniform(0.05, 0.3)) & (draws.uniforms(n) < draws.uniform(0, 1))
        turn = 2 * torch.pi * rate * draws.uniform(-3, 3) * moved
        wave = wave * torch.polar(torch.ones(n), turn).reshape(sizes)
    else:
        at, strength = draws.whole(1, n - 1), n * draws.uniform(0.05, 0.3) * float(image.std())
        wave.select(axis, at).add_(strength)
    spoiled: Tensor = torch.fft.ifft(wave, dim=axis).real
    return spoiled


def blurred(image: Tensor, axis: int, sigma: float) -> Tensor:
    """Convolve one axis of ``(*S)`` with a Gaussian of ``sigma`` voxels and a repeated border."""
    reach = max(1, round(2.5 * sigma))
    offsets = torch.arange(-reach, reach + 1, dtype=image.dtype)
    kernel = torch.exp(-0.5 * (offsets / max(sigma, 1e-3)).square())
    weights = (kernel / kernel.sum()).tolist()
    n = image.shape[axis]
    index = torch.arange(-reach, n + reach).clamp(0, n - 1)
    padded = image.index_select(axis, index)
    result: Tensor = weights[0] * padded.narrow(axis, 0, n)
    for shift, weight in enumerate(weights[1:], 1):
        result.add_(padded.narrow(axis, shift, n), alpha=weight)
    return result
