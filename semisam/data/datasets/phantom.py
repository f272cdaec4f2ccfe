"""Synthetic scans that resemble the left atrium data, bit-identical on every machine.

Thresholding does not solve them: an irregular chamber with three to five veins is among other
chambers and vessels of similar intensity. So shape and place must be learned.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from semisam.core.errors import InputError
from semisam.data.datasets.anatomy import BODIES, WALL, Body, draw_body
from semisam.data.datasets.canvas import check_canvas, on_canvas
from semisam.data.datasets.dataset import Dataset, Image, Split
from semisam.data.datasets.exact import ExactRandom, Field, blurred, z_scored
from semisam.data.images.files import Geometry

SPACING = 1.25
MIN_SIZE = 32
_FIRST_TEST = 1 << 20  # test cases do not depend on the number of training cases


class Phantom(Dataset):
    """Seeded synthetic scans that resemble those of the left atrium, made on access.

    A case is a pure function of (seed, index): shape, anatomy, contrast, noise. Volumes have
    about ``size`` x ``size`` x 3/4 ``size`` voxels of 1.25 mm, with slightly different shapes. They
    are z-scored.

    The organs are

    - ``heart``: an atrium of 5 to 15 % of the scan, and up to three other vessels as classes;
    - ``halves``: the same atrium as two classes that touch without an edge, so that only their
      place tells them apart;
    - ``gland``: an organ of 0.3 to 1 % of the scan;
    - ``pair``: two organs that mirror each other, left and right.

    Args:
        path: not used.
        cases: training cases.
        test_cases: test cases; they do not depend on the number of training cases.
        classes: of the label, with the background. Of a heart, 2 labels the atrium, 3 a second
            chamber too, 4 the aorta, 5 the ventricle.
        seed: a non-negative integer.
        organs: ``heart``, ``halves``, ``gland`` or ``pair``.
        size: in-plane extent in voxels, at least 32.
        canvas: places each scan at a random place of a canvas so many times as large, a control.
        ndim: 3 for volumes, 2 for the slice of each in which class 1 is largest.

    Raises:
        InputError: an option is out of range.
    """

    name: ClassVar[str] = "phantom"
    note: str = "made-up scans, no patients"

    def __init__(
        self,
        path: Path | None = None,
        *,
        cases: int = 16,
        test_cases: int = 10,
        classes: int = 2,
        seed: int = 0,
        organs: Literal["heart", "halves", "gland", "pair"] = "heart",
        size: int = 56,
        canvas: float = 1.0,
        ndim: Literal[2, 3] = 3,
    ) -> None:
        super().__init__(path)
        names = ("background", *BODIES[organs].class_names)
        for option, value, low, high in (
            ("cases", cases, 1, _FIRST_TEST),
            ("test_cases", test_cases, 0, _FIRST_TEST),
            ("classes", classes, 2, len(names)),
            ("seed", seed, 0, 2**63),
            ("size", size, MIN_SIZE, 512),
        ):
            if not low <= value <= high:
                raise InputError(
                    f"{option} of the phantom must be from {low} to {high}, got {value}. "
                    "Choose a number in that range."
                )
        check_canvas(canvas)
        self.num_classes = classes
        self.channels = 1
        self.class_names = names[:classes]
        self.suggested = {"patch": (48, 48, 32)[:ndim], "iterations": 300}
        self.seed, self.organs, self.size, self.canvas, self.ndim = seed, organs, size, canvas, ndim
        train = {f"train_{n:03d}": n for n in range(cases)}
        test = {f"test_{n:03d}": _FIRST_TEST + n for n in range(test_cases)}
        self._index = train | test
        self._split = Split(tuple(train), tuple(test))

    def split(self) -> Split:
        """Return the cases ``train_000``, ... and ``test_000``, ..."""
        return self._split

    def image(self, case: str) -> Image:
        """Make one image ``(1, W, H, D)``, or ``(1, W, H)``."""
        array = self._make(case)[0]
        array = on_canvas(array, case, self.canvas, axes=self.ndim)
        return Image(array[None], Geometry((SPACING,) * self.ndim), has_geometry=False)

    def label(self, case: str) -> NDArray[np.uint8]:
        """Make one label ``(W, H, D)`` or ``(W, H)``; unknown classes are background."""
        full = self._make(case)[1]
        label = np.where(full < self.num_classes, full, 0).astype(np.uint8)
        return on_canvas(label, case, self.canvas, 0, self.ndim)

    def _make(self, case: str) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        image, label = make_case(self.seed, self._index[case], organs=self.organs, size=self.size)
        if self.ndim == 3:
            return image, label
        at = int((label == 1).sum((0, 1)).argmax())
        return np.ascontiguousarray(image[..., at]), np.ascontiguousarray(label[..., at])

    def has_label(self, case: str) -> bool:
        """Return True: every case has a label."""
        return True

    def source(self, case: str) -> str:
        """Return the case's name for error messages."""
        return f"phantom {case} (seed {self.seed})"


def make_case(
    seed: int, index: int, *, organs: str = "heart", size: int = 56
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Make one scan and the label of all its structures.

    Returns:
        The image ``(W, H, D)``, z-scored, and the label ``(W, H, D)``. Of a heart, its values are 0
        background, 1 atrium and its veins, 2 second chamber, 3 aorta, 4 ventricle.
    """
    rng = ExactRandom(seed, index)
    shape = tuple(int(size * part) + rng.whole(-3, 3) for part in (1.0, 1.0, 0.75))
    body = draw_body(organs, rng, shape, size)
    filled = _numbered(body.vessels)
    image = _scan(rng, body, filled)
    return image, filled if body.regions is None else _numbered(body.regions)


def _numbered(fields: tuple[Field, ...]) -> NDArray[np.uint8]:
    label = np.zeros(fields[0].shape, np.uint8)
    for number, field in reversed(list(enumerate(fields, 1))):
        label[field < 0] = number
    return label


def _scan(rng: ExactRandom, body: Body, label: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Simulate the scan of a body: contrast, partial volume, bias field, noise."""
    u = rng.uniform
    shape = label.shape
    texture = rng.smooth(shape, 12)
    blood = u(0.50, 0.72)
    image = u(0.28, 0.42) + 0.08 * texture
    image = np.where(rng.smooth(shape, 5) > 0.34, np.float32(u(0.65, 0.95)), image)  # fat
    image = np.where(body.lung < 0, u(0.06, 0.14) + 0.04 * texture, image)
    image = np.where(body.spine < 0, u(0.35, 0.6) + 0.15 * texture, image)
    image = np.where(body.muscle < 0, np.float32(u(0.2, 0.32)), image)
    wall = (body.rim < WALL) & (rng.smooth(shape, 6) > u(0.0, 0.2))  # scar takes up contrast
    image = np.where(wall, np.float32(blood + u(0.1, 0.3)), image)
    for number in range(1, len(body.vessels) + 1):
        level = blood + u(-0.05, 0.05) + 0.05 * texture
        image = np.where(label == number, level, image)
    image = image.astype(np.float32)
    for _ in range(rng.whole(1, 2)):
        image = blurred(image)
    image = image * (1.0 + u(0.15, 0.35) * rng.smooth(shape, 2))
    sigma = u(0.05, 0.09)  # Rician, as the magnitude of a complex signal
    real = image + sigma * rng.normals(shape)
    imaginary = sigma * rng.normals(shape)
    return z_scored(np.sqrt(real * real + imaginary * imaginary))
