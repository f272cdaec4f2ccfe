"""The labeled masks themselves, put onto each scan: the row that a trained method must beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.nn import functional

from semisam.core.framework import Framework, NetBuilder
from semisam.core.types import IGNORE, Batch, Clock, Step

_FOUND = 24  # voxels per axis of the grid on which a shift is searched
_KEPT = 64  # voxels per axis of the grid on which masks and images are kept
_FAR = 0.35  # largest shift, as a part of the extent


class CopiedMask(Framework):
    """Copy the labeled masks onto a scan and take the majority. Nothing is trained.

    Each labeled scan is stretched onto the scan and shifted to where the two images correlate most.
    Where scans were cropped around the organ, the copies can have a high Dice. The predictions of a
    promptable model for another scan are such copies too. So a gain is worth what it adds to this
    row. With a promptable model, the majority is the proposal that its prompts come from.

    Args:
        build: is not used.
        num_classes: classes counting background.
        shift: shift the masks; else they are only stretched.
    """

    trains = False
    uses_unlabeled = False

    def __init__(self, build: NetBuilder, num_classes: int, *, shift: bool = True) -> None:
        super().__init__(build, num_classes)
        self.shift = shift
        self.images: Tensor
        self.masks: Tensor
        self.register_buffer("images", torch.empty(0))
        self.register_buffer("masks", torch.empty(0))

    @torch.no_grad()
    def learn(self, cases: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Keep the labeled images and their labels, filled where nobody annotated."""
        images, masks = [], []
        for image, label in cases:
            size = (_KEPT,) * label.ndim
            one_hot = functional.one_hot(_filled(label), self.num_classes).movedim(-1, 0).float()
            masks.append(_resized(one_hot[None], size))
            images.append(_resized(image.float().mean(0)[None, None], size))
        self.images, self.masks = torch.cat(images), torch.cat(masks)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load kept images and masks, of any number."""
        for name in ("images", "masks"):
            setattr(self, name, torch.empty_like(state_dict[name]))
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def forward(self, image: Tensor) -> Tensor:
        """Return the mean of the copied masks: whole scans ``(B, C, *S)`` to ``(B, K, *S)``."""
        rows = [self._copy(row.float().mean(0)[None, None]) for row in image]
        return torch.cat([_resized(row, tuple(image.shape[2:])) for row in rows])

    def training_step(self, batch: Batch, clock: Clock) -> Step:
        """Raise an error: nothing is trained."""
        raise NotImplementedError("copied masks are not trained")

    def _copy(self, image: Tensor) -> Tensor:
        """Return the mean of the masks on their own grid, each at its best place in one image."""
        # They were learned from scans, which need not be on the device of the image.
        images, masks = self.images.to(image.device), self.masks.to(image.device)
        if not self.shift:
            return masks.mean(0, keepdim=True)
        axes = image.ndim - 2
        fixed = _standard(_resized(image, (_FOUND,) * axes))
        moved = []
        for kept, mask in zip(images, masks, strict=True):
            by = best_shift(fixed, _standard(_resized(kept[None], (_FOUND,) * axes)))
            moved.append(_shifted(mask, [round(s * _KEPT / _FOUND) for s in by]))
        return torch.stack(moved).mean(0, keepdim=True)


def _filled(label: Tensor) -> Tensor:
    """Return a label ``(*S)`` in which each voxel is annotated.

    A voxel between annotated ones, along any axis, takes the class of the nearest one, as between
    the slices that were drawn. All others are background.
    """
    known = label != IGNORE
    if bool(known.all()) or not bool(known.any()):
        return torch.where(known, label, 0)
    between = known.clone()
    for axis in range(label.ndim):
        before = known.cummax(axis).values
        after = known.flip(axis).cummax(axis).values.flip(axis)
        between |= before & after
    nearest = distance_transform_edt(
        ~known.cpu().numpy(), return_distances=False, return_indices=True
    )
    filled = label.cpu()[tuple(torch.from_numpy(places).long() for places in nearest)]
    return torch.where(between, filled.to(label.device), 0)


def best_shift(fixed: Tensor, moving: Tensor) -> list[int]:
    """Return the shift of ``moving``, in voxels per axis, at which two images correlate most.

    Args:
        fixed: ``(1, 1, *s)`` of zero mean.
        moving: of the same shape.
    """
    shape = tuple(fixed.shape[2:])
    double = tuple(2 * n for n in shape)  # so that nothing wraps around
    axes = tuple(range(-len(shape), 0))
    spectrum = torch.fft.rfftn(fixed[0, 0], double, axes)
    score = torch.fft.irfftn(
        spectrum * torch.fft.rfftn(moving[0, 0], double, axes).conj(), double, axes
    )
    places = [torch.arange(n) for n in double]
    shifts = [torch.where(p < n, p, p - 2 * n) for p, n in zip(places, shape, strict=True)]
    allowed = torch.ones((), dtype=torch.bool)
    for axis, (shift, n) in enumerate(zip(shifts, shape, strict=True)):
        near = shift.abs() <= _FAR * n
        allowed = allowed & near.view(-1, *[1] * (len(shape) - axis - 1))
    flat = int(torch.where(allowed.to(score.device), score, -torch.inf).argmax())
    found = torch.unravel_index(torch.tensor(flat), double)
    return [int(shift[int(at)]) for shift, at in zip(shifts, found, strict=True)]


def _shifted(mask: Tensor, by: Sequence[int]) -> Tensor:
    """Return ``(K, *s)`` moved by whole voxels; what moves in is background."""
    moved = mask.roll(tuple(by), tuple(range(1, mask.ndim)))
    for axis, shift in enumerate(by, start=1):
        n = mask.shape[axis]
        outside = moved.narrow(axis, 0 if shift > 0 else n + shift, abs(shift))
        outside.zero_()
        outside[0] = 1
    return moved


def _standard(image: Tensor) -> Tensor:
    return (image - image.mean()) / image.std().clamp(min=1e-6)


def _resized(volume: Tensor, size: tuple[int, ...]) -> Tensor:
    mode = "trilinear" if len(size) == 3 else "bilinear"
    return functional.interpolate(volume, size, mode=mode)
