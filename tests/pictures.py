"""A folder of small coloured pictures of many sizes and their masks."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
from PIL import Image


def picture(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture ``(3, x, y)`` with a bright object, and its label ``(x, y)``."""
    rng = np.random.default_rng(number)
    size = (24 + 4 * number, 30 + 2 * number)
    label = np.zeros(size, np.uint8)
    label[6:18, 8:20] = 1
    colours = np.array([120, 40, -60])[:, None, None] * label + 100
    return (colours + rng.integers(-20, 20, (3, *size))).astype(np.uint8), label


def save(path: Path, array: np.ndarray) -> Path:
    """Write ``(x, y)`` or ``(3, x, y)`` as a picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(array.T)).save(path)
    return path


def write_pictures(
    folder: Path, *, folders: bool = True, value: int = 255, grey: Collection[int] = ()
) -> Path:
    """Six pictures of three patients, the last without a mask."""
    for n in range(6):
        array, label = picture(n)
        case, ending = f"p{n // 2}_{n}", ("png", "bmp", "tif")[n % 3]
        place = folder / "images" if folders else folder
        save(place / f"{case}.{ending}", array[0] if n in grey else array)
        if n < 5:
            name = f"masks/{case}.png" if folders else f"{case}_mask.png"
            save(folder / name, value * label)
    return folder
